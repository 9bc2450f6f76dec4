"""Numbers that are no numbers end a training: what led there is saved, and can be run again.

The loss of every micro-batch and the norm of every gradient are looked at on the device, and a step that holds a number
that is none moves no weights. The host reads the outcome at the next log line. So the folder that is saved then holds
the weights from which the step started, its batches and its random states.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

FOLDER = "diverged"
RANDOM, BATCHES, FACTS = "random.safetensors", "batches.safetensors", "step.json"


class DivergedError(ArithmeticError):
    """A training gave a loss, a gradient, a weight or a score that is no number."""


def check_finite(values: Mapping[str, Any], what: str) -> None:
    """Check the numbers of a log, an evaluation or results.

    Args:
        values: name -> value; those that are no floats are left alone.
        what: of which they are, for the error.

    Raises:
        DivergedError: one is NaN or infinite; with its name.
    """
    bad = [
        f"{name} is {value}" for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)
    ]
    if bad:
        raise DivergedError(f"{what}: {', '.join(bad)}")


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity, or None; one read of the device."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
    if not floats:
        return None
    flags = torch.stack([torch.isfinite(tensor).all() for tensor in floats.values()]).tolist()
    return next((name for name, fine in zip(floats, flags, strict=True) if not fine), None)


@dataclass
class StepRecord:
    """Where an optimiser step came from: enough to make its batches again.

    Attributes:
        step, epoch: of the training.
        rows: of the data set, for each micro-batch.
        random: states of the random generators before it.
    """

    step: int = -1
    epoch: int = 0
    rows: list[list[int]] = field(default_factory=list)
    random: dict[str, Tensor] = field(default_factory=dict)


class StepRecords:
    """The steps since the host last waited for the device, and on the device which of them was the first bad one.

    Attributes:
        losses: of the micro-batches of the step that is under way, on the device.
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self._open, self._closed = StepRecord(), []  # type: ignore[var-annotated]
        self._first: Tensor | None = None

    def add(self, batch: Mapping[str, Any], epoch: int) -> None:
        """Note a micro-batch on the CPU before its forward pass, and the random states before the first one."""
        if not self._open.rows:
            self._open.epoch, self._open.random = epoch, {"cpu": torch.get_rng_state()}
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                self._open.random["cuda"] = torch.cuda.get_rng_state()
        self._open.rows.append(batch["index"].tolist())

    def close(self, step: int, bad: Tensor) -> Tensor:
        """End the step under way; `bad` (on the device) says whether a number of it is none.

        Returns:
            1.0 on the device where this step or one before it is bad, else 0.0; nothing waits for it.
        """
        self._open.step = step
        self._closed.append(self._open)
        self._open, self.losses = StepRecord(), []
        if self._first is None:
            self._first = torch.full((), -1, dtype=torch.int64, device=bad.device)
        number = torch.full_like(self._first, len(self._closed) - 1)
        self._first = torch.where((self._first < 0) & bad, number, self._first)
        return (self._first >= 0).float()

    def first_bad(self) -> StepRecord | None:
        """The first bad step since the last call, or None; waits for the device."""
        number = -1 if self._first is None else int(self._first)
        closed, self._closed, self._first = self._closed, [], None
        return closed[number] if number >= 0 else None


def save_step(
    folder: Path, model: PreTrainedModel, record: StepRecord, batches: list[dict[str, Any]], facts: Mapping[str, Any]
) -> None:
    """Write weights, batches, random states and facts (ready for JSON) of a step to a folder; no pickles."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    rest = []
    for number, batch in enumerate(batches):
        tensors |= {f"{number}.{k}": v.detach().cpu().contiguous() for k, v in batch.items() if torch.is_tensor(v)}
        rest.append({k: v for k, v in batch.items() if isinstance(v, int | float | str | tuple)})
    save_file(tensors, folder / BATCHES)
    save_file(record.random, folder / RANDOM)
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    model.config.save_pretrained(folder)
    (folder / FACTS).write_text(json.dumps({**facts, "batches": rest}, indent=1) + "\n", encoding="utf-8")


def replay(folder: str | Path, model: PreTrainedModel) -> dict[str, Any]:
    """Run the step of a diverged training again, forward and backward.

    Args:
        folder: `diverged` in the output folder of the run.
        model: of the class that was trained; its weights become those of the step.

    Returns:
        "step" and what else was written down; "losses" of the micro-batches; "first", the first module whose output
        is not finite, and "gradients", the parameters whose gradient is not.

    Raises:
        FileNotFoundError: a file of the record is missing.
    """
    folder = Path(folder)
    for name in (FACTS, BATCHES, RANDOM, "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no record of a diverged training: {name} is missing")
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    tensors, random = load_file(folder / BATCHES), load_file(folder / RANDOM)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    model.train()
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
    first: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found = output[0] if isinstance(output, tuple) else output
            if not first and torch.is_tensor(found) and not torch.isfinite(found).all():
                first.append(name)

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    losses = []
    for number, rest in enumerate(facts["batches"]):
        batch = {k.partition(".")[2]: v for k, v in tensors.items() if k.partition(".")[0] == str(number)} | rest
        batch.pop("index", None)
        loss = model(**batch).loss
        loss.backward()
        losses.append(loss.item())
    for hook in hooks:
        hook.remove()
    gradients = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    broken = first_not_finite(model.state_dict())
    return {**facts, "losses": losses, "first": first[0] if first else None, "gradients": gradients, "weights": broken}
