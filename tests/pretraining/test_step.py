"""The training step: what it waits for, how images weigh in it, and where its batches wait."""

import logging
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_trainer import BINS, ROWS, make_model, make_trainer
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from hf_radmae.batching.collator import BucketCollator, PatchCollator
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.sampler import Repeat, images_within
from hf_radmae.cli.pretrain import check_prepared
from hf_radmae.pretraining.callbacks import Throughput
from hf_radmae.pretraining.devices import warn_of_slow_bf16
from hf_radmae.pretraining.memory import trial_batch, trial_step
from hf_radmae.pretraining.trainer import RadMAETrainer, check_agreement, counted


def batch_of(indices, train: bool = True) -> dict:
    dataset = RadiographDataset(ROWS, BINS, train=train)
    return PatchCollator(BucketCollator(8), 0.75)([dataset[index] for index in indices])


def rows_of_a_bin(count: int) -> list[int]:
    ids = RadiographDataset(ROWS, BINS).bin_ids
    rows = (ids == ids[0]).nonzero()[0][:count].tolist()
    assert len(rows) == count
    return rows


@contextmanager
def on(trainer: RadMAETrainer, device: str):
    """The trainer on a device that this machine need not have."""
    trainer.args.__dict__["_setup_devices"] = torch.device(device)  # a cached property
    state = trainer.accelerator.state._shared_state
    before, state["device"] = state["device"], torch.device(device)
    try:
        trainer.model.to(device)
        yield
    finally:
        state["device"] = before


def two_batches() -> list[dict]:
    return [batch_of(rows_of_a_bin(4)), batch_of([*rows_of_a_bin(3), Repeat(rows_of_a_bin(1)[0])])]


def test_loss_and_evaluation_read_no_value_from_the_device(tmp_path):
    """With fake CUDA tensors, every read of a device value is an error."""
    trainer = make_trainer(tmp_path)
    real = two_batches()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, on(trainer, "cuda"):
        batches = [
            {key: mode.from_tensor(value) if torch.is_tensor(value) else value for key, value in batch.items()}
            for batch in real
        ]
        trainer.model.train()
        count = trainer._get_num_items_in_batch(batches, torch.device("cuda"))
        loss = sum(
            trainer.compute_loss(trainer.model, trainer._prepare_inputs(b), num_items_in_batch=count) for b in batches
        )
        trainer.model.eval()
        trainer.prediction_step(trainer.model, batches[0], True)
        assert loss.device.type == trainer._eval_sums[0].device.type == "cuda"
        with pytest.raises(RuntimeError, match=r"data-dependent|local_scalar"):
            loss.item()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_whole_steps_read_no_value_from_the_device_between_two_log_lines(tmp_path, accumulation):
    """Trainer's own loop on the meta device, whose tensors have no values: backward, clipping, optimiser, callbacks."""
    options = {"logging_steps": 10_000, "save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False}
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=accumulation, optim="adamw_torch", **options)
    assert not trainer.args.logging_nan_inf_filter
    with on(trainer, "meta"), pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        trainer.train()  # the sum of all losses, at the very end, is read
    assert trainer.state.epoch == 2
    assert trainer.state.global_step > 4


@pytest.mark.parametrize("images", [1, 2, 3])
def test_images_of_a_short_step_weigh_as_those_of_a_full_one(tmp_path, images):
    """The gradient of a step on k of n images is k/n of their mean gradient; the loss that is logged stays the mean."""
    trainer = make_trainer(tmp_path, per_device_train_batch_size=4)
    batch = batch_of(rows_of_a_bin(images))
    gradients, losses = [], []
    for count in (None, trainer._get_num_items_in_batch([batch], torch.device("cpu"))):
        trainer.model.zero_grad()
        losses.append(trainer.training_step(trainer.model, dict(batch), count).item())
        gradients.append([p.grad.clone() for p in trainer.model.parameters() if p.grad is not None])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for whole, weighed in zip(*gradients, strict=True):
        torch.testing.assert_close(weighed, whole * images / 4, rtol=1e-4, atol=1e-7)


def test_a_repeated_image_and_a_stand_in_change_neither_loss_nor_gradient(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=4)
    rows = rows_of_a_bin(3)
    ends = []
    for indices in (rows, [*rows, Repeat(rows[0])]):
        batch = batch_of(indices)
        trainer.model.zero_grad()
        count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
        loss = trainer.training_step(trainer.model, batch, count)
        ends.append([loss, *(p.grad.clone() for p in trainer.model.parameters() if p.grad is not None)])
    for alone, repeated in zip(*ends, strict=True):
        torch.testing.assert_close(alone, repeated, rtol=1e-4, atol=1e-7)
    assert not counted(batch)[-1].any() and counted(batch)[:-1].any(1).all()


def test_micro_batches_of_an_update_wait_on_the_cpu(tmp_path):
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=3)
    trainer.args.__dict__["_setup_devices"] = torch.device("meta")  # another device than the batches'
    batches, _ = [], trainer.get_train_dataloader()
    for batch in trainer.get_train_dataloader():
        batches.append(batch["patches"].device.type)
    assert set(batches) == {"cpu"}
    assert trainer._prepare_inputs(batch)["patches"].device.type == "meta"


def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    args = make_trainer(tmp_path).args
    monkeypatch.setattr(type(args), "n_gpu", 2, raising=False)
    with pytest.raises(ValueError, match=r"one process sees 2 GPUs.*--multi_gpu"):
        RadMAETrainer(make_model(), args)


def test_bf16_without_native_support_is_warned_of(tmp_path, monkeypatch, caplog):
    args = make_trainer(tmp_path, bf16=True).args
    for native, warned in [(True, False), (False, True)]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native})
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            warn_of_slow_bf16(args)
        assert ("15 times slower" in caplog.text) == warned


def test_tokens_per_second_are_those_that_take_part(tmp_path):
    trainer = make_trainer(tmp_path)
    batch = batch_of(rows_of_a_bin(4)) | {"num_tokens": 5}
    trainer.training_step(trainer.model, batch)
    assert (trainer._throughput.images, trainer._throughput.tokens) == (4, 20)


def test_the_trial_of_a_budget_trains_as_training_does(tmp_path):
    """Train mode, masks, the model's channels and the loss of an update; a bin of each kind within the budget."""
    trainer = make_trainer(tmp_path)
    trainer.model.eval()
    for bin_id in range(len(BINS)):
        batch = trial_batch(trainer.model, BINS, bin_id, 3)
        real = batch_of([int((RadiographDataset(ROWS, BINS).bin_ids == bin_id).argmax())])
        assert batch.keys() == real.keys()
        tensors = [key for key in batch if torch.is_tensor(batch[key])]
        assert all(batch[key].dtype == real[key].dtype for key in tensors)
        assert all(batch[key].shape[1:] == real[key].shape[1:] for key in tensors)
        assert batch["grid"] == real["grid"]
        assert trial_step(trainer, batch) > 0
        assert trainer.model.training
    assert all(p.grad is not None for p in trainer.model.parameters() if p.requires_grad)


def test_ranks_that_disagree_on_the_order_of_batches_are_told(monkeypatch):
    check_agreement({"checksum of bins": 1})
    monkeypatch.setattr("hf_radmae.pretraining.trainer.gathered", lambda found: [found, {"checksum of bins": 2}])
    with pytest.raises(ValueError, match="rank 1 found other batches than rank 0"):
        check_agreement({"checksum of bins": 1})


def test_a_token_budget_bounds_pixels_too():
    assert images_within(1000, tokens=100, patches=100) == 10
    assert images_within(1000, tokens=10, patches=1000) == 4  # not 100 whole images of 1,000 patches
    assert images_within(10, tokens=100, patches=100) == 1


def test_many_images_must_be_prepared_before_several_processes_wait_for_one():
    check_prepared(10**6, [], "drop", world_size=1)
    check_prepared(10**6, ["patient_mask", "grey_range"], "drop", world_size=8)
    check_prepared(10**6, [], "keep", world_size=8)
    with pytest.raises(ValueError, match=r"1,000,000 images without.*other 7 wait.*prepare.py"):
        check_prepared(10**6, [], "drop", world_size=8)


@pytest.mark.slow
def test_few_graphs_serve_all_shapes_and_levels(tmp_path):
    """`torch.compile` as `--torch_compile` asks for it (dynamic): 8 shapes x 3 levels do not make a graph each."""
    trainer = make_trainer(tmp_path)
    counter = CompileCounter()
    compiled = torch.compile(trainer.model, backend=counter, dynamic=True)
    shapes = np.array([(height, width) for height in (24, 32, 40, 48) for width in (32, 48)])
    bins = replace(BINS, shapes=shapes, levels=None)
    torch._dynamo.reset()
    for share in (1.0, 0.75, 0.5):
        for bin_id, patches in enumerate(bins.patches.tolist()):
            batch = trial_batch(trainer.model, bins, bin_id, 3) | {"num_tokens": int(share * patches)}
            count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
            inputs = trainer._prepare_inputs(batch)
            trainer.compute_loss(compiled, inputs, num_items_in_batch=count).backward()
    assert 1 <= counter.frame_count <= 3


@pytest.mark.parametrize(
    ("workers", "seconds", "slower"), [(2, 0.4, False), (2, 2.5, True), (0, 0.4, False), (0, 0.6, True)]
)
def test_a_loader_that_is_slower_than_the_step_is_warned_of_once(workers, seconds, slower, caplog):
    """Ten batches of ten images in a second; each took a worker a tenth of so many seconds."""
    clock = Throughput()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            clock.count(100, 900)
            clock.read(seconds)
            clock.seconds = 1.0
            found = clock.rates(workers)
            assert found["loader_images_per_second"] == pytest.approx(100 * max(workers, 1) / seconds, rel=1e-3)
    assert caplog.text.count("Raise --dataloader_num_workers") == int(slower)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_training_say_how_long_a_worker_took(tmp_path, workers):
    trainer = make_trainer(tmp_path, dataloader_num_workers=workers)
    batches = list(trainer.get_train_dataloader())
    assert all(0 < batch["seconds"] < 60 for batch in batches)
    assert "seconds" not in trainer._prepare_inputs(batches[0])
    assert not any("seconds" in batch for batch in trainer.get_eval_dataloader())
