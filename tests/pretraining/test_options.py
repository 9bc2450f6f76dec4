"""Every option of `TrainingArguments` does what it says, or is refused by name: this table has no third kind."""

import dataclasses

import numpy as np
import pytest
import torch
from test_trainer import BINS, ROWS, logged, make_model, make_trainer
from transformers import TrainingArguments

from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.classification.setup import TaskArguments
from hf_radmae.classification.training_args import ClassifierTrainingArguments
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.trainer import RadMAETrainer, RadMAETrainingArguments
from hf_radmae.pretraining.training_args import epochs_for

REFUSED = {
    "auto_find_batch_size": True,
    "average_tokens_across_devices": False,
    "batch_eval_metrics": True,
    "dataloader_drop_last": True,
    "dataloader_in_order": False,
    "enable_jit_checkpoint": True,
    "eval_accumulation_steps": 3,
    "eval_do_concat_batches": False,
    "eval_use_gather_object": True,
    "include_for_metrics": ["inputs"],
    "include_num_input_tokens_seen": "all",
    "label_names": ["x"],
    "label_smoothing_factor": 0.1,
    "length_column_name": "size",
    "logging_nan_inf_filter": True,
    "neftune_noise_alpha": 5.0,
    "remove_unused_columns": True,
    "train_sampling_strategy": "group_by_length",
    "use_cache": True,
    "use_liger_kernel": True,
}
"""Option -> a value that is refused: nothing here would do what it says."""

USED = [
    "output_dir",
    "per_device_train_batch_size",
    "num_train_epochs",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "bf16",
    "fp16",
    "bf16_full_eval",
    "fp16_full_eval",
    "torch_compile",
    "logging_steps",
    "eval_strategy",
    "eval_steps",
    "per_device_eval_batch_size",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "ignore_data_skip",
    "restore_callback_states_from_checkpoint",
    "seed",
    "data_seed",
    "use_cpu",
    "accelerator_config",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    "push_to_hub",
    "hub_token",
    "hub_private_repo",
    "hub_model_id",
    "hub_strategy",
    "hub_always_push",
    "hub_revision",
    "resume_from_checkpoint",
    "prediction_loss_only",
    "report_to",
    "max_steps",
    "save_only_model",
]
"""Options that this package reads itself."""

UPSTREAM = [
    "lr_scheduler_kwargs",
    "optim_args",
    "optim_target_modules",
    "tf32",
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "torch_compile_backend",
    "torch_compile_mode",
    "liger_kernel_config",
    "torch_empty_cache_steps",
    "logging_strategy",
    "logging_first_step",
    "log_on_each_node",
    "log_level",
    "log_level_replica",
    "disable_tqdm",
    "run_name",
    "project",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "eval_delay",
    "eval_on_start",
    "save_on_each_node",
    "full_determinism",
    "parallelism_config",
    "ddp_find_unused_parameters",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_static_graph",
    "ddp_backend",
    "ddp_timeout",
    "fsdp",
    "fsdp_config",
    "deepspeed",
    "debug",
    "skip_memory_metrics",
    "do_train",
    "do_eval",
    "do_predict",
    "local_rank",
]
"""Options that Trainer and Accelerate read, unchanged by this package."""


def test_every_option_of_transformers_is_used_refused_or_handed_on():
    names = [option.name for option in dataclasses.fields(TrainingArguments)]
    table = [*USED, *UPSTREAM, *REFUSED]
    assert len(table) == len({*table})
    assert sorted(table) == sorted(names)


@pytest.mark.parametrize("name", REFUSED)
def test_an_option_that_would_change_nothing_is_refused_by_name(tmp_path, name):
    assert {*REFUSED} == {*RadMAETrainingArguments.refused}
    with pytest.raises(ValueError, match=f"--{name} "):
        RadMAETrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: REFUSED[name]})


@pytest.mark.parametrize("option", [{"split_batches": True}, {"dispatch_batches": True}, {"even_batches": False}])
def test_accelerates_own_ways_to_split_batches_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        RadMAETrainingArguments(output_dir=str(tmp_path), use_cpu=True, accelerator_config=option)


def test_streaming_is_refused_where_it_is_not_done(tmp_path):
    with pytest.raises(ValueError, match="--streaming True: only pre-training"):
        ClassifierTrainingArguments(output_dir=str(tmp_path), use_cpu=True, streaming=True)
    assert ClassifierTrainingArguments(output_dir=str(tmp_path), use_cpu=True, label_smoothing_factor=0.1)


def test_a_preset_beside_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--preset small beside --model out/mine"):
        ModelArguments(model="out/mine", preset="small").check_start()
    ModelArguments(model="out/mine").check_start()
    ModelArguments(preset="small").check_start()
    assert ModelArguments().preset == "tiny"
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="--preset tiny beside --model"):
        TaskArguments(model=str(tmp_path), preset="tiny")
    assert TaskArguments(model=str(tmp_path)).patch_size == 8


OUTSIDE = [
    *((DataArguments, name, value) for name, value in [("max_tokens", -5), ("num_bins", 0), ("crop_scale", 0)]),
    *((DataArguments, name, value) for name, value in [("num_images", 0), ("token_levels", 0)]),
    *((ModelArguments, "mask_ratio", value) for value in (0, -0.5, 1, 75, float("nan"))),
    *((ModelArguments, "prediction_ratio", value) for value in (0, 2, -1)),
    *((RadMAETrainingArguments, "num_train_epochs", value) for value in (-3, 0, "many", float("inf"))),
    *((RadMAETrainingArguments, name, -1) for name in ("learning_rate", "weight_decay", "early_stopping_patience")),
    *((RadMAETrainingArguments, name, 0) for name in ("per_device_train_batch_size", "gradient_accumulation_steps")),
    (RadMAETrainingArguments, "max_skipped_share", 1.5),
    (RadMAETrainingArguments, "adam_beta2", 1.0),
    (RadMAETrainingArguments, "save_total_limit", 0),
    (ClassifierTrainingArguments, "layer_decay", 0),
    (ClassifierTrainingArguments, "zoom", 1.0),
]


@pytest.mark.parametrize(("kind", "name", "value"), OUTSIDE)
def test_a_number_outside_its_range_is_refused_by_name(kind, name, value):
    with pytest.raises(ValueError, match=name):
        kind(**{name: value})


@pytest.mark.parametrize(("images", "epochs"), [(10, 400), (3000, 200), (12_000, 50), (640_000, 20)])
def test_auto_epochs_follow_the_number_of_images(images, epochs):
    assert epochs_for(images) == epochs


def test_auto_epochs_are_those_of_the_training_set(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs="auto")
    assert trainer.args.num_train_epochs == epochs_for(len(ROWS)) == 400


# Trainer's own interface.


def datasets() -> tuple[RadiographDataset, RadiographDataset]:
    return RadiographDataset(ROWS, BINS, train=True), RadiographDataset(ROWS.select(range(7)), BINS)


def stock_args(folder, **options) -> TrainingArguments:
    options = {"num_train_epochs": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": True, **options}
    return TrainingArguments(output_dir=str(folder), **options)


def test_stock_arguments_train(tmp_path):
    train, evaluation = datasets()
    trainer = RadMAETrainer(
        make_model(), stock_args(tmp_path, logging_steps=1), train_dataset=train, eval_dataset=evaluation
    )
    trainer.train()
    assert trainer.state.epoch == 1
    assert logged(trainer, "loss")
    assert "eval_loss" in trainer.evaluate()


def test_several_evaluation_sets_by_name(tmp_path):
    train, evaluation = datasets()
    sets = {"few": evaluation, "all": RadiographDataset(ROWS, BINS)}
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    trainer = RadMAETrainer(
        make_model(),
        stock_args(tmp_path, **best, metric_for_best_model="few_loss", greater_is_better=False),
        train_dataset=train,
        eval_dataset=sets,
    )
    trainer.train()
    found = trainer.evaluate()
    assert {"eval_few_loss", "eval_all_loss"} <= found.keys()
    assert found["eval_few_loss"] == pytest.approx(trainer.evaluate(evaluation, metric_key_prefix="x")["x_loss"])
    with pytest.raises(ValueError, match="expected one of eval_few_loss, eval_all_loss"):
        RadMAETrainer(make_model(), stock_args(tmp_path, **best), train_dataset=train, eval_dataset=sets)


def test_predict_gives_a_loss_for_each_image_and_metrics_are_computed_of_them(tmp_path):
    train, evaluation = datasets()
    trainer = RadMAETrainer(
        make_model(),
        stock_args(tmp_path, per_device_eval_batch_size=3),
        train_dataset=train,
        eval_dataset=evaluation,
        compute_metrics=lambda found: {"worst": float(np.max(found.predictions))},
    )
    found = trainer.predict(evaluation)
    assert found.label_ids.tolist() == list(range(7))
    model = trainer.model.eval()
    for index, loss in enumerate(found.predictions):
        batch = trainer.data_collator([evaluation[index]])
        with torch.no_grad():
            expected = model(batch["pixel_values"], noise=batch["noise"], patch_mask=batch["patch_mask"]).loss
        assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert found.metrics["test_worst"] == pytest.approx(found.predictions.max())
    assert trainer.evaluate()["eval_worst"] == pytest.approx(found.predictions.max())


def test_a_model_of_other_channels_or_patches_is_refused_at_once(tmp_path):
    train, evaluation = datasets()
    parts = {"train_dataset": train, "eval_dataset": evaluation}
    with pytest.raises(ValueError, match="images of 1 channels and the model takes 3"):
        RadMAETrainer(make_model(num_channels=3), stock_args(tmp_path), data_collator=BucketCollator(8), **parts)
    with pytest.raises(ValueError, match="patches of 8 pixels and the model's have 16"):
        RadMAETrainer(make_model(patch_size=16), stock_args(tmp_path), **parts)
    with pytest.raises(ValueError, match="PushCallback"):
        make_trainer(tmp_path, push_to_hub=True)
