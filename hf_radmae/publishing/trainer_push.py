"""`--push_to_hub` of a Trainer through the gate; upstream's would upload pickles, logs and a card without figures."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_radmae.models.starts import config_values
from hf_radmae.pretraining.results import environment, train_figures
from hf_radmae.publishing.card import TEMPLATES, write_card
from hf_radmae.publishing.export import lay_out_run
from hf_radmae.publishing.push import Pusher

logger = logging.getLogger(__name__)


class PushThroughGate(Trainer):
    """A Trainer whose pushes are those of `Pusher`: private unless `hub_private_repo` is False, in the background.

    Each saved checkpoint is pushed while training goes on, unless `hub_strategy` is "end". `save_model` pushes nothing,
    unlike upstream's: a script saves, writes results and card, and then calls `push_output`.

    Attributes:
        card_template: of the card that goes with a checkpoint.
    """

    args: TrainingArguments
    model: PreTrainedModel
    hub_model_id: str | None  # type: ignore[assignment]  # upstream sets it to None first
    card_template = TEMPLATES["model"]
    pusher: Pusher | None = None

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    @property
    def _license(self) -> str | None:
        return getattr(self.args, "license", None)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        args = self.args
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(
                f"--hub_strategy {HubStrategy(args.hub_strategy).value} would push the optimizer's pickles, which the "
                "gate keeps here: use every_save or end"
            )
        if not self.is_world_process_zero():
            return
        private = args.hub_private_repo if private is None else private
        repo_id = args.hub_model_id or self._folder.absolute().name
        api = HfApi(token=token or args.hub_token)
        self.pusher = Pusher(repo_id, private=private is not False, revision=args.hub_revision, api=api)
        self.hub_model_id = self.pusher.open()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call=True)

    def push_output(self, message: str = "End of training", blocking: bool = True) -> CommitInfo | None:
        """Push the output folder as it is now, on the first process only; a card is written where there is none.

        Raises:
            PushError: see `Pusher.push`.
        """
        if not self.is_world_process_zero():
            return None
        if self.pusher is None:
            self.init_hf_repo()
        assert self.pusher is not None  # this is the first process
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.pusher.finish()
        folder = self._folder
        if config_values(folder).get("model_type") == "vit_mae":
            lay_out_run(folder, folder)
        if not (folder / "README.md").is_file():
            write_card(self.card_results(), folder, self.card_template, license=self._license)
        if blocking:
            return self.pusher.push(folder, message)
        self.pusher.push_in_background(folder, message)
        return None

    def push_to_hub(  # type: ignore[override]  # upstream's further arguments are of its own card
        self, commit_message: str = "End of training", blocking: bool = True
    ) -> CommitInfo | None:
        """Save the model and push the output folder; call it on every process."""
        self.save_model()
        return self.push_output(commit_message, blocking)

    def card_results(self) -> dict[str, Any]:
        """What is known of a run that goes on, for its card."""
        config: Any = self.model.config
        names = ("num_channels", "patch_size", "image_size", "mask_ratio", "norm_pix_loss")
        model = {name: getattr(config, name) for name in names if hasattr(config, name)}
        results: dict[str, Any] = {"name": self.hub_model_id or self._folder.name, "model": model}
        if self.card_template == TEMPLATES["classifier"]:
            results["classes"] = list(config.id2label.values())
        return results | {"environment": environment(), "training": train_figures(self)}

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.pusher is None or self.args.hub_strategy == HubStrategy.END:
            return
        if self.pusher.is_busy:
            if not self.args.hub_always_push:
                return
            self.pusher.finish()
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        message, folder = f"Training in progress, step {self.state.global_step}", Path(checkpoint_folder)
        if config_values(folder).get("model_type") != "vit_mae":
            write_card(self.card_results(), folder, self.card_template, license=self._license)
            self.pusher.push_in_background(folder, message)
            return
        with TemporaryDirectory(prefix=".encoder-", dir=folder.parent) as staged:
            lay_out_run(folder, staged)
            write_card(self.card_results(), staged, self.card_template, license=self._license)
            self.pusher.push_in_background(staged, message)

    def _finish_current_push(self) -> None:
        if self.pusher is not None:
            self.pusher.finish()
