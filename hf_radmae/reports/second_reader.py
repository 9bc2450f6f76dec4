"""A second reader of reports: a zero-shot classifier or an instruct model, given as a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, pipeline

_STATEMENTS = {"yes": "{finding} is present", "no": "{finding} is absent", "unsure": "{finding} is uncertain"}
_QUESTION = (
    "Radiology report:\n{text}\n\nDoes the report say that the picture shows {finding}? Answer with one word: yes, no, "
    "unsure, or nothing.\nAnswer:"
)


class ModelReader:
    """Reads reports with a model of transformers.

    Args:
        checkpoint: folder or Hub id. A sequence classifier with an entailment label is asked as a zero-shot classifier,
            a causal language model by a question.
        threshold: a zero-shot answer with a smaller probability counts as "unsure".

    Raises:
        ValueError: the checkpoint is neither.
    """

    def __init__(self, checkpoint: str, threshold: float = 0.5):
        architectures = AutoConfig.from_pretrained(checkpoint).architectures or []
        self.threshold = threshold
        if any(name.endswith("ForSequenceClassification") for name in architectures):
            self.task = "zero-shot-classification"
        elif any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
            self.task = "text-generation"
        else:
            raise ValueError(
                f"{checkpoint} is {', '.join(architectures) or 'of no known class'}: a second reader is a sequence "
                "classifier that was trained on entailment, or a causal language model"
            )
        self.pipeline: Any = pipeline(self.task, model=checkpoint)  # type: ignore[call-overload]

    def __call__(self, text: str, labels: Sequence[str]) -> dict[str, str | None]:
        """Label -> "yes", "no", "unsure", or None where the model says that the report does not speak of it."""
        ask = self._entailed if self.task == "zero-shot-classification" else self._answered
        return {label: ask(text, label.replace("_", " ")) for label in labels}

    def _entailed(self, text: str, finding: str) -> str | None:
        statements = {statement.format(finding=finding): answer for answer, statement in _STATEMENTS.items()}
        found = self.pipeline(text, candidate_labels=list(statements), hypothesis_template="{}.")
        return statements[found["labels"][0]] if found["scores"][0] >= self.threshold else "unsure"

    def _answered(self, text: str, finding: str) -> str | None:
        prompt: Any = _QUESTION.format(text=text, finding=finding)
        if self.pipeline.tokenizer.chat_template:
            prompt = [{"role": "user", "content": prompt}]
        options = {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
        answer = self.pipeline(prompt, **options)[0]["generated_text"]
        word = re.search(r"\b(yes|no|unsure|nothing)\b", str(answer).lower())
        return {"nothing": None}.get(word.group(), word.group()) if word else "unsure"
