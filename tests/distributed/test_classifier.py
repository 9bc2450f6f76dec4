"""A classifier on real processes: however its batches are split, the same gradient, and every row scored once."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from world import World

pytestmark = pytest.mark.distributed
TESTS = str(Path(__file__).parents[1])
SPLITS = {"train": 40, "validation": 15, "test": 5}


def train(output_dir: str, batch_size: int, accumulation: int, label: str) -> None:
    """One epoch of plain gradient descent; the weights and the validation scores end in `output_dir`."""
    sys.path[:0] = [TESTS, f"{TESTS}/classification"]
    from patterns import make_parts, small

    from hf_radmae.classification import ClassifierTrainer, ClassifierTrainingArguments, fit_labels
    from hf_radmae.classification.train import labelled_parts

    torch.set_num_threads(1)
    total = sum(SPLITS.values())
    answers = {"a": [i % 2 if i % 7 else -1 for i in range(total)], "b": [i % 3 % 2 for i in range(total)]}
    parts = make_parts(SPLITS, answers)
    args = ClassifierTrainingArguments(
        output_dir=output_dir,
        use_cpu=True,
        optim="sgd",
        learning_rate=0.1,
        weight_decay=0.0,
        max_grad_norm=0.0,
        num_train_epochs=1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        per_device_eval_batch_size=4,
        class_weights="balanced",
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    labels = fit_labels(parts["train"].rows, label)
    data = labelled_parts(parts, labels, args)
    trainer = ClassifierTrainer(
        small("vit", labels), args, train_dataset=data["train"], eval_dataset=data["validation"]
    )
    trainer.train()
    metrics = {name: value for name, value in trainer.evaluate().items() if "second" not in name}
    rows = trainer.predicted(data["validation"]).rows.tolist()
    trainer.save_model()
    Path(output_dir, f"rank-{args.process_index}.json").write_text(json.dumps({"metrics": metrics, "rows": rows}))


@pytest.mark.parametrize("label", ["kind", "a,b"])
def test_ranks_and_accumulation_do_not_change_gradient_and_scores(tmp_path, label):
    ends = []
    for world_size, batch_size, accumulation in [(1, 8, 1), (2, 4, 1), (2, 2, 2)]:
        folder = tmp_path / f"{world_size}-{accumulation}"
        folder.mkdir()
        World(
            train, world_size, output_dir=str(folder), batch_size=batch_size, accumulation=accumulation, label=label
        ).wait()
        ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(world_size)]
        assert all(rank["rows"] == list(range(15)) for rank in ranks)
        scores = [{n: v for n, v in rank["metrics"].items() if n != "eval_runtime"} for rank in ranks]
        assert all(rank == scores[0] for rank in scores)
        ends.append((load_file(folder / "model.safetensors"), scores[0]))
    expected, expected_scores = ends[0]
    for weights, scores in ends[1:]:
        assert max((weights[name] - expected[name]).abs().max().item() for name in expected) < 1e-5
        assert scores == pytest.approx(expected_scores, abs=1e-5)
