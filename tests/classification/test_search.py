"""The search for a learning rate: all are tried once, killed or not, and the best is told by its best evaluation."""

import json
import logging

import pytest
import torch
from patterns import PATCH, make_parts, small

from hf_radmae.batching.collator import BucketCollator
from hf_radmae.classification import ClassifierTrainingArguments, fit_labels
from hf_radmae.classification.search import search_learning_rate
from hf_radmae.classification.train import labelled_parts
from hf_radmae.classification.trainer import ClassifierTrainer
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.pretraining.trainer import RadMAETrainer, RadMAETrainingArguments

QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "dataloader_num_workers": 0}
RATES = [1e-12, 3e-3, 1e-5]


class KilledError(BaseException):
    """What ends a search in the middle of a trial."""


class Counting(ClassifierTrainer):
    """Notes the learning rate and the length of each training, and may be killed in one."""

    kill_at: int | None = None

    def train(self, *args, **kwargs):
        if len(trainings) == self.kill_at:
            raise KilledError
        output = super().train(*args, **kwargs)
        trainings.append((self.args.learning_rate, self.state.epoch))
        return output


trainings: list[tuple[float, float]] = []


@pytest.fixture(scope="module")
def parts():
    return make_parts({"train": 24, "validation": 12, "test": 3})


@pytest.fixture
def trainer(parts, tmp_path):
    trainings.clear()
    labels = fit_labels(parts["train"].rows, "kind")
    args = ClassifierTrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=6, early_stopping_patience=2, save_strategy="no", **QUIET
    )
    data = labelled_parts(parts, labels, args)
    return Counting(
        args=args,
        model_init=lambda: small("vit", labels),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
    )


def test_a_killed_search_goes_on_and_repeats_no_finished_trial(trainer, tmp_path):
    trainer.kill_at = 2
    with pytest.raises(KilledError):
        search_learning_rate(trainer, tmp_path, rates=RATES)
    trainer.kill_at = None
    found = search_learning_rate(trainer, tmp_path, rates=RATES)
    assert sorted(rate for rate, _ in trainings) == sorted(RATES) == [*found.trials]
    again = search_learning_rate(trainer, tmp_path, rates=RATES)
    assert again == found and len(trainings) == 3
    search_learning_rate(trainer, tmp_path, rates=RATES, subject="another label")
    assert len(trainings) == 6
    assert found.trials[found.best] == max(found.trials.values())
    assert trainings[0] == (1e-12, 3.0) and trainings[1][1] >= 3.0  # patience begins anew in each trial

    found.save(tmp_path)
    saved = json.loads((tmp_path / "search.json").read_text())
    assert saved["best"] == found.best and len(saved["trials"]) == len(found.table().splitlines()) - 1 == 3
    assert (tmp_path / "search.png").stat().st_size > 1000


def test_a_masked_autoencoder_is_searched_in_a_range_by_its_lowest_loss(parts, tmp_path):
    args = RadMAETrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, save_strategy="no", load_best_model_at_end=False, **QUIET
    )
    config = preset_config("tiny", patch_size=PATCH, image_size=48, num_hidden_layers=1, decoder_num_hidden_layers=1)
    trainer = RadMAETrainer(
        args=args,
        model_init=lambda: RadMAEForPreTraining(config),
        train_dataset=parts["train"],
        eval_dataset=parts["validation"],
        data_collator=BucketCollator(PATCH),
    )
    first = search_learning_rate(trainer, tmp_path, between=(1e-5, 1e-2), trials=1)
    found = search_learning_rate(trainer, tmp_path, between=(1e-5, 1e-2), trials=3)
    assert first.trials.items() < found.trials.items() and len(found.trials) == 3
    assert found.metric == "eval_loss" and found.trials[found.best] == min(found.trials.values())
    assert all(1e-5 <= rate <= 1e-2 for rate in found.trials)


def test_a_rate_that_diverges_is_skipped_by_name_and_not_tried_again(trainer, tmp_path, caplog):
    class Diverging(Counting):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            if self.args.learning_rate == 3e-3 and self.state.global_step > 3:
                with torch.no_grad():
                    next(iter(self.model.parameters())).fill_(torch.inf)
            return loss

    trainer.__class__ = Diverging
    with caplog.at_level(logging.WARNING):
        found = search_learning_rate(trainer, tmp_path, rates=RATES)
    assert [*found.trials] == [1e-12, 1e-5] and found.diverged == (3e-3,) and found.best != 3e-3
    assert "0.003" in caplog.text and "is skipped" in caplog.text
    assert "0.003            diverged" in found.table()
    found.save(tmp_path)
    assert json.loads((tmp_path / "search.json").read_text())["diverged"] == [3e-3]
    before = len(trainings)
    assert search_learning_rate(trainer, tmp_path, rates=RATES) == found and len(trainings) == before
    with pytest.raises(ValueError, match=r"no trial has a score: trainings that diverged: 0\.003"):
        search_learning_rate(trainer, tmp_path / "alone", rates=[3e-3])


def test_a_search_without_evaluation_or_rates_is_refused(trainer, tmp_path):
    with pytest.raises(ValueError, match="give learning rates"):
        search_learning_rate(trainer, tmp_path, rates=[])
    trainer.args.eval_strategy = "no"
    with pytest.raises(ValueError, match="needs eval_strategy"):
        search_learning_rate(trainer, tmp_path)
