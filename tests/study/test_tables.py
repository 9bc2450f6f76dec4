"""Scores of a comparison are the metrics' own, and the paper's numbers stand beside the paper's data only."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from hf_radmae.cli.parse import parse
from hf_radmae.metrics import IRMAError
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.training_args import RadMAETrainingArguments
from hf_radmae.study.arguments import StudyArguments
from hf_radmae.study.comparison import BEFORE, PROBES, Comparison, Frozen, best_rates
from hf_radmae.study.report import terminal_text, write_report
from hf_radmae.study.tables import PAPER, majority, table
from hf_radmae.study.tasks import Task, TaskLabels

CODES = ["1121-120-200-700", "1121-120-310-700", "1123-127-500-000"]


def labels(task: str = "body_region", images: int = 400, classes: int = 3, several: int = 0) -> TaskLabels:
    rng = np.random.default_rng(0)
    shape = {name: (n, several) if several else n for name, n in (("train", images), ("validation", 60), ("test", 90))}
    values = {name: rng.integers(0, 2 if several else classes, size) for name, size in shape.items()}
    values["test"][:5] = -1
    return TaskLabels(Task(task, task), CODES[:classes] if not several else ["a", "b"], values)


def guesses(truth: np.ndarray, share: float, draws: int = 3) -> np.ndarray:
    """Predictions of which about so many are right."""
    rng = np.random.default_rng(1)
    return np.stack([np.where(rng.random(truth.shape) < share, truth, rng.integers(0, 2, truth.shape))] * draws)


def test_scores_are_those_of_scikit_learn_and_differences_are_paired():
    task = labels()
    truth = task.values["test"]
    known = truth >= 0
    good, bad = guesses(truth, 0.9), guesses(truth, 0.5)
    rows = table(task, {"good": good, "bad": bad}, np.arange(90), [("good", "bad"), ("good", "absent")])
    assert [row["model"] for row in rows] == ["good", "bad", "good - bad"]
    for row, predicted in zip(rows, (good, bad), strict=False):
        expected = balanced_accuracy_score(truth[known], predicted[0][known])
        assert row["balanced_accuracy"] == pytest.approx(expected)
        assert row["balanced_accuracy_low"] <= expected <= row["balanced_accuracy_high"]
    assert rows[2]["accuracy"] == pytest.approx(rows[0]["accuracy"] - rows[1]["accuracy"])


def test_codes_are_scored_by_the_irma_error():
    task = labels("irma_code")
    truth = task.values["test"]
    predicted = guesses(truth, 0.6, draws=1)
    (row,) = table(task, {"model": predicted}, np.arange(90), [])
    names, known = np.array(CODES), truth >= 0
    reference = IRMAError(codes=CODES).compute(predictions=names[predicted[0][known]], references=names[truth[known]])
    assert row["irma_error"] == pytest.approx(reference["mean_irma_error"])
    assert "irma_error" not in table(labels(), {"model": predicted}, np.arange(90), [])[0]


def test_several_labels_are_scored_each_on_the_images_where_it_is_known():
    task = labels(several=2)
    truth = task.values["test"]
    truth[10:30, 1] = -1
    predicted = guesses(truth, 0.8, draws=1)
    (row,) = table(task, {"model": predicted}, np.arange(90), [])
    by_label = [balanced_accuracy_score(t[t >= 0], p[t >= 0]) for t, p in zip(truth.T, predicted[0].T, strict=True)]
    assert row["balanced_accuracy"] == pytest.approx(np.mean(by_label))
    assert majority(task, [np.arange(400)] * 3).shape == (3, 90, 2)


def test_the_majority_is_that_of_the_draw():
    task = labels()
    draws = [np.flatnonzero(task.values["train"] == c)[:5] for c in range(3)]
    assert majority(task, draws)[:, 0].tolist() == [0, 1, 2]


@pytest.fixture
def comparison():
    """A maker of comparisons of a probe with features that tell the class, with steps that are run at once."""

    def make(is_irma: bool, task: TaskLabels, **options) -> Comparison:
        found = Comparison(
            task,
            {split: np.arange(len(values)) for split, values in task.values.items()},
            StudyArguments(**{"draws": 2, "curve": [0.1], "supervised": ["none"], "low_fraction": 0.01} | options),
            lambda name, function, **inputs: function(None),
            is_irma,
        )
        rng = np.random.default_rng(0)
        features = {
            split: (np.reshape(values, (len(values), -1)) @ np.ones((1 if values.ndim == 1 else 2, 4)))
            + rng.normal(size=(len(values), 4))
            for split, values in task.values.items()
        }
        network = Frozen("weights", dict.fromkeys(PROBES, features))
        for pooling, name in PROBES.items():
            found.probe(name, network, pooling)
        found.probe(BEFORE, network, "mean")
        found.search_probe(network)
        return found

    return make


@pytest.mark.parametrize(
    ("is_irma", "task", "shown"), [(True, "body_region", True), (False, "body_region", False), (True, "view", False)]
)
def test_the_papers_numbers_stand_beside_its_own_data_and_task_only(comparison, is_irma, task, shown, tmp_path):
    results = comparison(is_irma, labels(task)).results()
    for place, found in enumerate(results["tables"]):
        low = place > 0
        assert found["paper"] == ({name: scores[low] for name, scores in PAPER.items()} if shown else {})
    everything = {
        "name": "study",
        "environment": {"device": "cpu", "cpus": 2},
        "data": {"dataset": "irma", "images": {"train": 1}, "unreadable": 0},
        "model": {},
        "pretraining": {"checkpoint": "mae"},
        "class_weights": "sqrt",
        "resampled": "patients",
        "seconds": {"table, all": 1.0},
        "tasks": [results],
    }
    pages = [path.read_text() for path in write_report(everything, tmp_path)] + [terminal_text(everything)]
    assert all(("84.6" in page) == shown for page in pages), "the paper's CLS probe with 1 %"
    page, markdown, _ = pages
    assert all("Every loss weighs the classes: sqrt." in text for text in (page, markdown))
    assert 'src="http' not in page and "<link" not in page and page.count("<svg") == 3
    assert "| | balanced accuracy | accuracy |" in markdown and "\n\n|---" not in markdown


def test_a_share_that_leaves_a_class_empty_is_told_and_the_others_go_on(comparison):
    rare = labels()
    rare.values["train"][rare.values["train"] == 2] = 0
    rare.values["train"][7] = 2
    results = comparison(False, rare, low_fraction=0.003).results()
    whole, balanced, plain = results["tables"]
    assert whole["refused"] is None and whole["rows"]
    for refused in (balanced, plain):
        assert "classes empty" in refused["refused"] and refused["rows"] == []
        assert CODES[2] in refused["refused"]


def test_every_model_of_a_table_has_the_same_draws(comparison):
    """The number of labels is the table's, not a model's; and a plain and a balanced draw are not the same."""
    found = comparison(False, labels(), low_fraction=0.05)
    for share, models in found.predictions.items():
        assert {len(predicted) for predicted in models.values()} == {len(found.draws[share])}
    results = found.results()
    models = [row["model"] for row in results["tables"][1]["rows"]]
    assert models == ["majority class", *PROBES.values(), BEFORE, f"{PROBES['mean']} - {BEFORE}"]
    assert [found["share"] for found in results["curve"]] == ["5 %, balanced draw", "10 %, balanced draw", "all"]


@pytest.mark.parametrize("name", ["study_tiny", "irma_paper", "mri_archive"])
def test_recipes_are_read(name):
    recipe = Path(__file__).parents[2] / "scripts" / "recipes" / f"{name}.yaml"
    classes = (DataArguments, ModelArguments, StudyArguments, RadMAETrainingArguments)
    *_, args, training = parse(classes, [str(recipe), "--use_cpu", "true", "--bf16", "false"])
    steps = training.per_device_train_batch_size * training.gradient_accumulation_steps
    assert args.draws >= 5 and steps == {"study_tiny": 32, "irma_paper": 64, "mri_archive": 1024}[name]


@pytest.mark.parametrize(("scores", "best"), [([0.5, 0.7, 0.6], 2), ([0.5, 0.5, 0.5], 2), ([0.5, 0.5, 0.6], 3)])
def test_of_rates_that_validate_equally_the_middle_one_is_taken(scores, best):
    assert best_rates([{"learning_rate": i + 1, "score": score} for i, score in enumerate(scores)])[0] == best


def test_shares_and_searches_of_the_options():
    args = StudyArguments(low_fraction=0.01, search_fraction=0.05, supervised_curve=[0.1])
    on = {str(share): str(args.search_share(share)) for share in args.supervised_shares()}
    assert on == {
        "all": "5 %, balanced draw",
        "1 %, balanced draw": "1 %, balanced draw",
        "1 %, plain draw": "1 %, balanced draw",
        "10 %, balanced draw": "5 %, balanced draw",
    }
    for bad, message in (
        ({"low_fraction": 1.0}, "expected shares between 0 and 1"),
        ({"draws": 1}, "needs at least 2"),
        ({"supervised": ["resnet"]}, "choose from resnet50, vit, mae, none"),
        ({"tasks": ["a", "a=b"]}, "two --tasks are named a"),
    ):
        with pytest.raises(ValueError, match=message):
            StudyArguments(**bad)
