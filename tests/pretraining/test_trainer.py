"""What a run reports, keeps and restores is right, and it ends when it should."""

from pathlib import Path

import numpy as np
import pytest
import torch
from damaged import damaged_files, encode, radiograph
from PIL import Image
from rows import SIZES, make_rows
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.batching.skipped import SkippedImages, TooManySkippedError
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.pretraining.checkpoints import OtherBatchesError
from hf_radmae.pretraining.memory import largest_fitting, tokens_that_fit
from hf_radmae.pretraining.trainer import (
    EarlyStopping,
    RadMAETrainer,
    RadMAETrainingArguments,
    Throughput,
    last_complete_checkpoint,
)

PATCH = 8
ROWS = make_rows(images=23)  # no bin is a multiple of a batch
BINS = fit_bins(np.array(SIZES), num_bins=3, patch_size=PATCH, max_tokens=36, min_images=1)


def make_model(**options) -> RadMAEForPreTraining:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "decoder_hidden_size": 16}
    sizes |= {"decoder_intermediate_size": 32, "decoder_num_hidden_layers": 1, "image_size": 48, "patch_size": PATCH}
    return RadMAEForPreTraining(preset_config("tiny", **(sizes | options)))


def make_trainer(folder: Path, rows=ROWS, *, optimizers=(None, None), skipped=None, **options) -> RadMAETrainer:
    args = RadMAETrainingArguments(
        **{
            "output_dir": str(folder),
            "use_cpu": True,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 5,
            "num_train_epochs": 2,
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_num_workers": 0,
            "figure_images": 0,
            "logging_steps": 2,
            **options,
        }
    )
    return RadMAETrainer(
        make_model(),
        args,
        train_dataset=RadiographDataset(rows, BINS, train=True, crop_scale=0.5),
        eval_dataset=RadiographDataset(rows, BINS),
        processing_class=RadiographImageProcessor(bins=BINS.to_dict()),
        optimizers=optimizers,
        skipped=skipped,
    )


def logged(trainer: RadMAETrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RadMAETrainer:
    """A run of two epochs with everything on, evaluated before and after."""
    trainer = make_trainer(tmp_path_factory.mktemp("run"), report_to="tensorboard", figure_images=2)
    trainer.evaluate()
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    return trainer


@pytest.fixture(scope="module")
def events(finished) -> EventAccumulator:
    """Its TensorBoard events."""
    return EventAccumulator(str(Path(finished.args.output_dir, "runs"))).Reload()


@torch.no_grad()
def test_evaluation_loss_is_the_mean_over_all_predicted_patches_of_the_set(finished):
    """Image by image with the loss written out, whatever the sizes of buckets and batches."""
    model, dataset = finished.model.eval(), finished.eval_dataset
    assert (np.bincount(dataset.bin_ids) % finished.args.eval_batch_size).any()
    error, count = 0.0, 0.0
    for index in range(len(dataset)):
        batch = finished.data_collator([dataset[index]])
        output = model(batch["pixel_values"], noise=batch["noise"], patch_mask=batch["patch_mask"])
        target = model.patchify(batch["pixel_values"]).double()
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        predicted = output.mask.bool() & batch["patch_mask"]
        error += float((output.logits.double() - target).square().mean(-1)[predicted].sum())
        count += int(predicted.sum())
    assert finished.evaluate()["eval_loss"] == pytest.approx(error / count, rel=1e-5)


def test_evaluation_loss_does_not_depend_on_the_batch_size_and_repeats(finished, tmp_path):
    losses = []
    for batch_size in (1, 3, 64):
        trainer = make_trainer(tmp_path, per_device_eval_batch_size=batch_size)
        losses += [trainer.evaluate()["eval_loss"] for _ in range(2)]
    assert losses == pytest.approx([losses[0]] * 6, rel=1e-5)
    assert losses[::2] == losses[1::2]


def test_any_data_set_can_be_evaluated_under_its_own_name(finished):
    picture = Path(finished.args.output_dir, "reconstructions.png")
    before = picture.stat().st_mtime_ns
    part = RadiographDataset(ROWS.select(range(7)), BINS)
    metrics = finished.evaluate(part, metric_key_prefix="test")
    assert metrics["test_loss"] > 0
    assert not [name for name in metrics if "preparation" in name]
    assert picture.stat().st_mtime_ns == before  # drawn for the evaluation set only


def test_training_learns(finished):
    losses = logged(finished, "eval_loss")
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["loss", "learning_rate", "images_per_second", "tokens_per_second"])
def test_tensorboard_holds_the_course_of_training(finished, events, name):
    values = [event.value for event in events.Scalars(f"train/{name}")]
    assert values == pytest.approx(logged(finished, name)[: len(values)])
    assert len(values) == finished.state.global_step // 2
    assert all(np.isfinite(values))


def test_tensorboard_holds_each_evaluation_and_its_pictures(finished, events):
    steps = finished.state.global_step
    during = [event for event in events.Scalars("eval/loss") if event.step]
    assert {event.step for event in during} == {steps // 2, steps}
    drawn = events.Images("reconstructions")
    assert {event.step for event in drawn} >= {steps // 2, steps}
    with Image.open(Path(finished.args.output_dir, "reconstructions.png")) as picture:
        assert (drawn[-1].width, drawn[-1].height) == picture.size
        assert picture.convert("L").getextrema() == (0, 255)


def test_tokens_per_image_of_the_log_are_those_of_the_bins(finished):
    ratios = np.divide(logged(finished, "tokens_per_second"), logged(finished, "images_per_second"))
    assert (ratios >= BINS.tokens.min() - 0.1).all()
    assert (ratios <= BINS.tokens.max() + 0.1).all()
    assert min(logged(finished, "images_per_second")) > 0


def test_throughput_leaves_pauses_out_and_starts_anew():
    clock = Throughput()
    clock.count(1000, 9000)
    clock._since -= 50
    clock.stop()
    clock._since -= 3600  # a pause
    clock.start()
    clock.stop()
    rates = clock.rates()
    assert rates["images_per_second"] == pytest.approx(1000 / 50, rel=0.1)
    assert rates["tokens_per_second"] == pytest.approx(9 * rates["images_per_second"], rel=1e-3)
    clock.start()
    clock.stop()
    assert clock.rates() == {"images_per_second": 0, "tokens_per_second": 0}


def test_time_before_training_is_no_training(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer._throughput._since -= 3600  # as if an hour had passed since the trainer was made
    trainer.train()
    assert logged(trainer, "images_per_second")[0] > 8 / 1800


def test_nothing_is_pickled_beside_what_resuming_needs(finished):
    folder = Path(finished.args.output_dir)
    checkpoints = [path for path in folder.iterdir() if path.name.startswith("checkpoint-")]
    assert len(checkpoints) == 2
    for path in (folder, *checkpoints):
        files = {file.name for file in path.iterdir() if file.is_file()}
        assert {"model.safetensors", "config.json", "preprocessor_config.json"} <= files
        assert "training_args.bin" not in files


def test_a_checkpoint_loads_with_nothing_missing(finished):
    path = last_complete_checkpoint(finished.args.output_dir)
    model, info = RadMAEForPreTraining.from_pretrained(path, output_loading_info=True)
    assert not any(info.values())
    weights = load_file(Path(path, "model.safetensors"))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_the_run_ends_with_its_best_weights(tmp_path):
    """Gradient descent for two epochs, then ascent: the best checkpoint is not the last, and comes back whole."""
    steps = 8
    trainer = make_trainer(tmp_path, num_train_epochs=4, save_total_limit=None)
    assert len(trainer.get_train_dataloader()) == steps
    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 2 * steps else -3.0)
    trainer.optimizer, trainer.lr_scheduler = optimizer, schedule
    trainer.train()
    losses = logged(trainer, "eval_loss")
    assert np.argmin(losses) == 1
    assert losses[-1] > losses[1] + 0.01
    assert trainer.evaluate()["eval_loss"] == losses[1]
    best = load_file(tmp_path / f"checkpoint-{2 * steps}" / "model.safetensors")
    last = load_file(tmp_path / f"checkpoint-{4 * steps}" / "model.safetensors")
    state = trainer.model.state_dict()
    assert state.keys() == best.keys()
    assert all(torch.equal(state[name], best[name]) for name in best)
    moved = [name for name in best if not torch.equal(best[name], last[name])]
    assert len(moved) > 0.8 * sum(parameter.requires_grad for parameter in trainer.model.parameters())


def test_a_run_that_cannot_improve_ends_after_its_patience(tmp_path):
    """Evaluations before and after training do not count, and the first of training is the best."""
    trainer = make_trainer(tmp_path, learning_rate=0.0, num_train_epochs=9, early_stopping_patience=2)
    trainer.evaluate()
    trainer.evaluate()
    trainer.train()
    assert trainer.state.epoch == 3
    (stopping,) = (callback for callback in trainer.callback_handler.callbacks if isinstance(callback, EarlyStopping))
    trainer.evaluate()
    assert stopping.early_stopping_patience_counter == 2


@pytest.mark.slow
def test_patience_0_never_ends_a_run(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=0.0, num_train_epochs=4, early_stopping_patience=0)
    trainer.train()
    assert trainer.state.epoch == 4


@pytest.mark.slow
def test_a_resumed_run_keeps_counting_its_patience(tmp_path):
    options = {"learning_rate": 0.0, "early_stopping_patience": 3, "lr_scheduler_type": "constant", "warmup_steps": 0}
    make_trainer(tmp_path, num_train_epochs=2, **options).train()
    resumed = make_trainer(tmp_path, num_train_epochs=9, **options)
    resumed.train(resume_from_checkpoint=last_complete_checkpoint(tmp_path))
    assert resumed.state.epoch == 4


def test_unusable_images_are_listed_once_with_their_reason(tmp_path):
    contents = [row["image"]["bytes"] for row in ROWS] + [damaged_files()["half.png"][0], damaged_files()["nan.tif"][0]]
    rows = make_rows(contents, columns={"image_id": [f"scan {index}" for index in range(25)]})
    trainer = make_trainer(tmp_path, rows, max_skipped_share=0.5, dataloader_num_workers=1)
    trainer.train()
    listed = trainer.skipped.rows()
    assert [(row["index"], row["image"]) for row in listed] == [(23, "scan 23"), (24, "scan 24")]
    assert "truncated" in listed[0]["reason"]
    assert "NaN" in listed[1]["reason"]
    assert trainer.state.epoch == 2
    assert len((tmp_path / "skipped.csv").read_text().splitlines()) == 3


def test_a_list_that_is_given_empty_is_the_one_that_is_filled(tmp_path):
    contents = [row["image"]["bytes"] for row in ROWS] + [damaged_files()["half.png"][0]]
    mine = SkippedImages(tmp_path / "mine.csv", total=100, max_share=0.5)
    trainer = make_trainer(tmp_path, make_rows(contents), skipped=mine)
    assert trainer.skipped is mine
    trainer.evaluate()
    assert len(mine) == 1
    assert not (tmp_path / "skipped.csv").exists()


def test_a_token_budget_gives_each_bin_its_number_of_images(tmp_path):
    trainer = make_trainer(tmp_path, tokens_per_batch=100)
    for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader()):
        lengths: dict[tuple, list[int]] = {}
        for batch in loader:
            lengths.setdefault(batch["grid"], []).append(len(batch["index"]))
        for (rows, columns), images in lengths.items():
            assert max(images) <= 100 // (rows * columns)
        assert len({max(images) for images in lengths.values()}) > 1
    assert trainer.args.images_per_update(36) == 2
    with pytest.raises(ValueError, match="--tokens_per_batch 0: expected at least 1"):
        make_trainer(tmp_path, tokens_per_batch=0)


@pytest.mark.parametrize(
    ("options", "lower"), [({}, "--per_device_train_batch_size"), ({"tokens_per_batch": 100}, "--tokens_per_batch")]
)
def test_running_out_of_memory_says_at_the_first_step_what_was_held_and_what_to_lower(tmp_path, options, lower):
    trainer = make_trainer(tmp_path, **options)

    def out_of_memory(module, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.model.vit.register_forward_pre_hook(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError, match=rf"tokens each, \d+ in all.*Lower {lower}.*--max_tokens"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_the_largest_fitting_number_is_found_and_asked_for_on_a_gpu_only(tmp_path):
    for limit in range(40):
        assert largest_fitting(lambda number, limit=limit: number <= limit) == limit
    with pytest.raises(ValueError, match="the model is on cpu: what fits can be tried out on a CUDA GPU only"):
        tokens_that_fit(make_trainer(tmp_path), BINS)


def test_other_batches_are_not_gone_on_with_unless_the_epoch_may_begin_anew(tmp_path):
    options = {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 3, "load_best_model_at_end": False}
    make_trainer(tmp_path, **options).train()
    with pytest.raises(OtherBatchesError, match=r"images of a global batch was \[4\], now \[3\]"):
        make_trainer(tmp_path, per_device_train_batch_size=3, **options).train(resume_from_checkpoint=True)
    anew = make_trainer(tmp_path, per_device_train_batch_size=3, ignore_data_skip=True, **options)
    anew.train(resume_from_checkpoint=True)
    assert anew.state.epoch >= 1


def test_too_many_unusable_images_end_the_run(tmp_path):
    contents = [encode(radiograph(), "PNG")] * 20 + [b"x"] * 5
    trainer = make_trainer(tmp_path, make_rows(contents), max_skipped_share=0.05)
    with pytest.raises(
        TooManySkippedError, match=r"of 50 images cannot be used: more than the accepted share of 0\.05"
    ):
        trainer.train()


def test_defaults_that_exclude_each_other_are_settled(tmp_path):
    args = RadMAETrainingArguments(output_dir=str(tmp_path), dataloader_num_workers=0, eval_strategy="no", use_cpu=True)
    assert not args.dataloader_persistent_workers
    assert not args.load_best_model_at_end
    usual = RadMAETrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert usual.dataloader_persistent_workers
    assert usual.load_best_model_at_end
    assert usual.early_stopping_patience == 10
    assert usual.max_skipped_share == 0.01
