"""Pushes of a Trainer through the gate, as a callback; upstream's own would upload pickles, logs and an empty card."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import HubStrategy

from hf_radmae.models.starts import config_values
from hf_radmae.pretraining.results import environment, train_figures
from hf_radmae.publishing.card import TEMPLATES, write_card
from hf_radmae.publishing.export import lay_out_run
from hf_radmae.publishing.push import Pusher

logger = logging.getLogger(__name__)


class PushCallback(TrainerCallback):
    """Pushes each saved checkpoint in the background, and the output folder at the end, when `push_output` is called.

    The repository is that of `hub_model_id`, private unless `hub_private_repo` is False. With `hub_strategy="end"`
    checkpoints are not pushed. A trainer other than `RadMAETrainer` is given it with `push_to_hub=False`, for with True
    it would push by itself.

    Args:
        template: of the card that goes with a checkpoint, one of `TEMPLATES`.
    """

    def __init__(self, template: str = TEMPLATES["model"]):
        self.template = template
        self.pusher: Pusher | None = None

    def on_init_end(self, args, state, control, **kwargs):
        """Open the repository.

        Raises:
            ValueError: the strategy would push pickles, or the trainer would push by itself.
            PushError: see `Pusher.open`.
        """
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(
                f"--hub_strategy {HubStrategy(args.hub_strategy).value} would push the optimizer's pickles, which the "
                "gate keeps here: use every_save or end"
            )
        if args.push_to_hub:
            raise ValueError("push_to_hub=True makes Trainer push by itself, past the gate: leave it False")
        if not state.is_world_process_zero:
            return
        repo_id = args.hub_model_id or Path(args.output_dir).absolute().name
        api, private = HfApi(token=args.hub_token), args.hub_private_repo is not False
        self.pusher = Pusher(repo_id, private=private, revision=args.hub_revision, api=api)
        self.pusher.open()

    def on_save(self, args, state, control, model=None, **kwargs):
        """Push the checkpoint that was just saved, unless a push is under way."""
        if self.pusher is None or args.hub_strategy == HubStrategy.END:
            return
        if self.pusher.is_busy:
            if not args.hub_always_push:
                return
            self.pusher.finish()
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        results, message = self._results(model, state, folder.parent), f"Training in progress, step {state.global_step}"
        if config_values(folder).get("model_type") != "vit_mae":
            write_card(results, folder, self.template, license=getattr(args, "license", None))
            self.pusher.push_in_background(folder, message)
            return
        with TemporaryDirectory(prefix=".encoder-", dir=folder.parent) as staged:
            lay_out_run(folder, staged)
            write_card(results, staged, self.template, license=getattr(args, "license", None))
            self.pusher.push_in_background(staged, message)

    def on_train_end(self, args, state, control, **kwargs):
        """Wait for the push in the background."""
        if self.pusher is not None:
            self.pusher.finish()

    def push_output(
        self, trainer: Trainer, message: str = "End of training", blocking: bool = True
    ) -> CommitInfo | None:
        """Push the output folder as it is now, on the first process only; a card is written where there is none.

        Raises:
            PushError: see `Pusher.push`.
        """
        if not trainer.is_world_process_zero() or self.pusher is None:
            return None
        folder = Path(str(trainer.args.output_dir))
        self.pusher.finish()
        if config_values(folder).get("model_type") == "vit_mae":
            lay_out_run(folder, folder)
        if not (folder / "README.md").is_file():
            results = self._results(trainer.model, trainer.state, folder) | {"training": train_figures(trainer)}
            write_card(results, folder, self.template, license=getattr(trainer.args, "license", None))
        if blocking:
            return self.pusher.push(folder, message)
        self.pusher.push_in_background(folder, message)
        return None

    def _results(self, model: Any, state: Any, folder: Path) -> dict[str, Any]:
        """What is known of a run while it trains, for its card."""
        config = getattr(model, "module", model).config
        names = ("num_channels", "patch_size", "image_size", "mask_ratio", "norm_pix_loss")
        facts = {name: getattr(config, name) for name in names if hasattr(config, name)}
        name = self.pusher.repo_id if self.pusher else folder.name
        results: dict[str, Any] = {"name": name, "model": facts, "environment": environment()}
        if self.template == TEMPLATES["classifier"]:
            results["classes"] = list(config.id2label.values())
        return results | {"training": {"epochs": state.epoch or 0.0, "steps": state.global_step}}
