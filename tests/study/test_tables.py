"""Scores of a table are scikit-learn's, its headline is against the best rival, and the paper's numbers are marked."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from hf_radmae.cli.parse import parse
from hf_radmae.metrics import IRMAError
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.training_args import RadMAETrainingArguments
from hf_radmae.study.arguments import StudyArguments
from hf_radmae.study.comparison import PAPER, Comparison
from hf_radmae.study.figures import curve_figure
from hf_radmae.study.folds import COUNTS, PUBLISHED, fold_curve, published, split_folds
from hf_radmae.study.heads import Candidate, candidates
from hf_radmae.study.report import described, terminal_text, write_report
from hf_radmae.study.rivals.supervised import SupervisedTraining
from hf_radmae.study.run import _plain
from hf_radmae.study.tables import score_table, title
from hf_radmae.study.tasks import Task, TaskLabels

CODES = ["1121-120-200-700", "1121-120-310-700", "1123-127-500-000"]


def labels(task: str = "body_region", images: int = 400, classes: int = 3, several: int = 0) -> TaskLabels:
    rng = np.random.default_rng(0)
    shape = {name: (n, several) if several else n for name, n in (("train", images), ("validation", 60), ("test", 90))}
    values = {name: rng.integers(0, 2 if several else classes, size) for name, size in shape.items()}
    values["test"][:5] = -1
    return TaskLabels(Task(task, task), CODES[:classes] if not several else ["a", "b"], values)


def model(task: TaskLabels, name: str, kind: str, strength: float, seeds: int = 1, draws: int = 3) -> Candidate:
    """Scores that agree with the labels the more, the greater the strength."""
    rng = np.random.default_rng(len(name))
    found = {}
    for split in ("validation", "test"):
        truth = task.values[split]
        right = truth if task.multi else truth[:, None] == np.arange(len(task.classes))
        noise = rng.random((seeds, draws, *right.shape))
        scores = strength * np.clip(right, 0, 1) + (1 - strength) * noise
        found[split] = scores if task.multi else scores / scores.sum(-1, keepdims=True)
    return Candidate(name, kind, "linear", "mean", found["validation"], found["test"])


def test_scores_are_those_of_scikit_learn_and_the_headline_is_against_the_best_rival():
    task = labels()
    found = [
        model(task, "good", "ours", 0.7, seeds=2),
        model(task, "poor", "rival", 0.2),
        model(task, "best", "rival", 0.5),
    ]
    found.append(model(task, "far", "elsewhere", 0.3))
    table = score_table(found, task, np.arange(90), n=200)
    assert [row["model"] for row in table["rows"]] == ["good", "poor", "best", "far"]
    truth = task.values["test"]
    known = truth >= 0
    for row, candidate in zip(table["rows"], found, strict=True):
        runs = candidate.test.reshape(-1, 90, 3)[:, known]
        expected = np.mean([balanced_accuracy_score(truth[known], run.argmax(1)) for run in runs])
        assert row["balanced_accuracy"] == pytest.approx(expected)
        assert row["balanced_accuracy_low"] <= expected <= row["balanced_accuracy_high"]
        area = np.mean([roc_auc_score(truth[known], run, multi_class="ovr") for run in runs])
        assert row["auroc"] == pytest.approx(area)
    by_name = {row["model"]: row for row in table["rows"]}
    assert table["headline"]["rival"] == "best, mean" and table["elsewhere"]["rival"] == "far, mean"
    difference = by_name["good"]["balanced_accuracy"] - by_name["best"]["balanced_accuracy"]
    assert table["headline"]["balanced_accuracy"] == pytest.approx(difference)
    assert by_name["good"]["seeds"] == 2 and by_name["good"]["chosen_on"] == 60
    shown = table["classes"]["good, mean"]
    assert np.sum(shown["confusion"]) == pytest.approx(known.sum(), abs=0.1)
    assert np.mean(shown["recall"]) == pytest.approx(by_name["good"]["balanced_accuracy"], abs=1e-6)


def test_two_classes_are_decided_by_auroc_and_codes_have_their_error():
    task = labels(classes=2)
    table = score_table([model(task, "good", "ours", 0.6)], task, np.arange(90), n=50)
    assert table["metrics"][0] == "auroc" and table["headline"] is None
    codes = labels("irma_code")
    candidate = model(codes, "model", "ours", 0.6, draws=1)
    (row,) = score_table([candidate], codes, np.arange(90), n=50)["rows"]
    names, truth = np.array(CODES), codes.values["test"]
    predicted = names[candidate.test[0, 0].argmax(1)]
    expected = IRMAError(codes=CODES)(names[truth[truth >= 0]], predicted[truth >= 0])[0]
    assert row["irma_error"] == pytest.approx(expected)


def test_several_labels_are_scored_each_on_the_images_where_it_is_known():
    task = labels(several=2)
    task.values["test"][10:30, 1] = -1
    truth, candidate = task.values["test"], model(task, "model", "ours", 0.6, draws=1)
    (row,) = score_table([candidate], task, np.arange(90), n=50)["rows"]
    areas = [roc_auc_score(t[t >= 0], s[t >= 0]) for t, s in zip(truth.T, candidate.test[0, 0].T, strict=True)]
    assert row["auroc"] == pytest.approx(np.mean(areas))


def features(task: TaskLabels, strength: float = 1.0) -> dict:
    rng = np.random.default_rng(0)
    found = {}
    for split, values in task.values.items():
        told = np.reshape(values, (len(values), -1)) @ np.ones((1 if values.ndim == 1 else values.shape[1], 4))
        found[split] = {"mean": (strength * told + rng.normal(size=told.shape)).astype(np.float32)}
    return found


@pytest.mark.parametrize("several", [0, 2])
def test_every_head_gives_probabilities_of_every_image(several):
    task = labels(several=several)
    draws, heads = [np.arange(90), np.arange(30)], []
    for candidate in candidates("m", "ours", [features(task)] * 2, task, draws, ["mean", "cls"], rates=[1e-3, 1e-2]):
        heads.append(candidate.head)
        assert candidate.pooling == "mean" and candidate.test.shape == (2, 2, 90, 2 if several else 3)
        assert candidate.unlabelled == (370 if candidate.head == "propagated" else 0)
        assert several or np.allclose(candidate.test.sum(-1), 1, atol=1e-5)
    assert heads == (["linear"] if several else ["linear", "propagated", "searched"])


@pytest.fixture
def comparison():
    """A maker of comparisons of features that tell the class, with steps that are run at once."""

    def make(is_irma: bool, task: TaskLabels, **options) -> Comparison:
        found = Comparison(
            task,
            {split: np.arange(len(values)) for split, values in task.values.items()},
            StudyArguments(**{"draws": 2, "curve": [0.1], "supervised": ["none"], "low_fraction": 0.01} | options),
            lambda steps: [step.function(None) for step in steps],
            is_irma=is_irma,
        )
        found.probe("pre-trained", "ours", [features(task)], ["mean"])
        found.probe("untrained", "rival", [features(task, 0.3)], ["mean"])
        return found

    return make


@pytest.mark.parametrize(
    ("is_irma", "task", "shown"), [(True, "body_region", True), (False, "body_region", False), (True, "view", False)]
)
def test_the_papers_numbers_stand_beside_its_own_data_and_task_only(comparison, is_irma, task, shown, tmp_path):
    results = comparison(is_irma, labels(task)).results() | {"folds": None, "error_maps": None}
    for place, found in enumerate(results["tables"]):
        low = place > 0
        assert found["paper"] == ({name: scores[low] for name, scores in PAPER.items()} if shown else {})
    results["error_maps"] = {
        "rows": [{"summary": "mean", "auroc": 0.5, "auroc_low": 0.4, "auroc_high": 0.6}],
        "picture": "p.png",
    }
    results["folds"] = {
        "published": list(PUBLISHED),
        "rows": [{"model": "m", "labels": "all", "auroc": 0.8, "std": 0.1}],
    }
    everything = {
        "name": "study",
        "environment": {"device": "cpu", "cpus": 2},
        "data": {"dataset": "irma", "images": {"train": 1}, "unreadable": 0, "bins": [[8, 8], [8, 16]]},
        "model": {},
        "pretraining": {"checkpoint": "mae", "unseen": False},
        "class_weights": "sqrt",
        "resampled": "patients",
        "seconds": {"table, all": 1.0},
        "tasks": [results],
    }
    pages = [path.read_text() for path in write_report(everything, tmp_path)] + [terminal_text(everything)]
    assert all(("84.6" in page) == shown for page in pages), "the paper's CLS probe with 1 %"
    assert all("pre-trained, mean minus untrained, mean" in page.replace("&#39;", "") for page in pages)
    page, markdown, _ = pages
    said = "The losses of linear heads weigh the classes: sqrt; propagated labels are even."
    assert all(said in text for text in (page, markdown))
    assert all("it may have seen the test images" in text for text in (page, markdown))
    assert 'src="http' not in page and "<link" not in page and "50.0 (40.0 to 60.0)" in page
    assert (
        "| model | pooling | head | balanced accuracy | accuracy |" in markdown
        and "\n\n|---|---|---|---|" not in markdown
    )


def test_views_are_shown_with_and_without_those_of_pre_training_and_a_start_from_elsewhere_is_no_rival(comparison):
    task = labels()
    found = comparison(False, task, resnet50_checkpoint="a/resnet", vit_checkpoint=None, curve=[0.1])
    found.pretraining_views = 1000

    class Training(SupervisedTraining):
        """Stands for trainings of minutes: what is checked is how their results are named."""

        def inputs(self, kind):
            return {}

        def __call__(self, folder, kind, labels, draw, learning_rate, seed, steps):
            scores = {split: np.full((len(v), 3), 1 / 3).tolist() for split, v in labels.values.items()}
            return {"score": 1.0, "views": 64, **scores}

    found.train(["resnet50", "vit", "mae"], Training({}, found.args, None, None, "mae", None), "weights")
    rows = {row["model"]: row for row in found.results()["tables"][0]["rows"] if row["head"] == "trained"}
    kinds = {"ResNet, fine-tuned": "elsewhere", "ViT, supervised": "rival", "MAE, fine-tuned": "ours"}
    assert {name: row["kind"] for name, row in rows.items()} == kinds
    assert described(rows["ViT, supervised"])[2] == "trained, 64 views"
    assert described(rows["MAE, fine-tuned"])[2] == "trained, 64 views, 1,064 with pre-training"


@pytest.mark.parametrize(
    ("finalists", "best", "trained"), [(1, 1e-3, {1e-3}), (2, 1e-2, {1e-3, 1e-2}), (9, 1e-4, {1e-4, 1e-3, 1e-2})]
)
def test_the_best_of_short_trainings_are_trained_in_full_and_what_diverges_has_no_rank(
    comparison, finalists, best, trained
):
    task, full = labels(), []
    short = {1e-1: None, 1e-2: 0.8, 1e-3: 0.8, 1e-4: 0.6}  # of equals the smaller rate is first
    long = {1e-2: 0.7, 1e-3: 0.6, 1e-4: 0.9}

    class Training(SupervisedTraining):
        """Stands for trainings of minutes: what is checked is which are run."""

        def inputs(self, kind):
            return {}

        def __call__(self, folder, kind, labels, draw, learning_rate, seed, steps):
            if steps == 5:
                return {"score": short[learning_rate]}
            full.append(learning_rate)
            scores = {split: np.full((len(v), 3), 1 / 3).tolist() for split, v in labels.values.items()}
            return {"score": long[learning_rate], "views": 64, **scores}

    options = {"search_steps": 5, "search_finalists": finalists, "search_fraction": 0.01, "supervised": ["vit", "vit"]}
    found = comparison(False, task, learning_rates=[1e-2, 1e-1, 1e-4, 1e-3, 1e-2], curve=[0.1], **options)
    found.train(found.args.supervised, Training({}, found.args, None, None, "mae", None), "weights")
    (search,) = found.results()["searches"]
    assert search["best"] == best and set(full) == trained and search["diverged"] == [1e-1]
    assert search["rates"] == [{"learning_rate": rate, "score": short[rate]} for rate in (1e-4, 1e-3, 1e-2)]


def test_every_head_of_a_model_has_a_title_and_a_line_of_its_own():
    task = labels()
    found = candidates("m", "ours", [features(task)], task, [np.arange(90), np.arange(30)], ["mean"], rates=[1e-3])
    assert [title(one) for one in found] == ["m, mean", "m, mean, propagated labels", "m, mean, best learning rate"]
    table = score_table(found, task, np.arange(90), n=10) | {"images": 60}
    figure = curve_figure([table], "balanced_accuracy", "balanced accuracy")
    assert figure.axes[0].get_ylabel() == "balanced accuracy, test"
    (legend,) = figure.legends
    assert len({text.get_text() for text in legend.get_texts()}) == 3


@pytest.mark.parametrize(
    ("pooling", "width", "attentive"),
    [("grid4", 32, True), ("grid12", 288, True), ("grid", 18, False), ("flat", 98, False), ("mean+grid4", 34, False)],
)
def test_a_grid_by_itself_has_an_attentive_head_with_a_title_of_its_own(pooling, width, attentive):
    task, rng = labels(), np.random.default_rng(0)
    parts = dict(zip(pooling.split("+"), (width,) if "+" not in pooling else (2, width - 2), strict=True))
    splits = {
        name: {part: rng.normal(size=(len(values), size)).astype(np.float32) for part, size in parts.items()}
        for name, values in task.values.items()
    }
    found = candidates("m", "ours", [splits], task, [np.arange(30)], [pooling], propagate=False)
    assert [one.head for one in found] == ["linear", "attentive"][: 1 + attentive]
    assert [title(one) for one in found] == [f"m, {pooling}", f"m, {pooling}, attentive"][: 1 + attentive]
    assert np.allclose(found[-1].test.sum(-1), 1, atol=1e-5) and found[-1].test.shape == (1, 1, 90, 3)
    figure = curve_figure([score_table(found, task, np.arange(90), n=10) | {"images": 30}], "balanced_accuracy", "x")
    assert len({text.get_text() for text in figure.legends[0].get_texts()}) == 1 + attentive


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_of_one_class_of_two_is_decided_by_balanced_accuracy(comparison, split):
    two = labels(classes=2)
    assert comparison(False, two, low_fraction=0.05).results()["tables"][0]["metrics"][0] == "auroc"
    two.values[split][two.values[split] == 1] = 0
    table = comparison(False, two, low_fraction=0.05).results()["tables"][0]
    assert table["metrics"][0] == "balanced_accuracy" and table["rows"] and table["headline"]


def test_a_share_that_leaves_a_class_empty_is_told_and_the_others_go_on(comparison):
    rare = labels()
    rare.values["train"][rare.values["train"] == 2] = 0
    rare.values["train"][7] = 2
    whole, balanced, plain = comparison(False, rare, low_fraction=0.003).results()["tables"]
    assert whole["refused"] is None and whole["rows"]
    for refused in (balanced, plain):
        assert "classes empty" in refused["refused"] and refused["rows"] == []


def test_every_model_of_a_table_has_the_same_draws(comparison):
    found = comparison(False, labels(), low_fraction=0.05)
    for share, models in found.found.items():
        assert {candidate.test.shape[1] for candidate in models} == {len(found.draws[share])}
    results = found.results()
    models = [(row["model"], row["head"]) for row in results["tables"][1]["rows"]]
    assert models == [(name, head) for name in ("pre-trained", "untrained") for head in ("linear", "propagated")]
    assert [found["share"] for found in results["curve"]] == ["5 %, balanced draw", "10 %, balanced draw", "all"]


def test_folds_have_each_image_once_and_score_what_they_have_not_seen():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    truth[:20] = -1
    good = (truth[:, None] + rng.normal(size=(400, 3)) * 0.5).astype(np.float32)
    chance = rng.normal(size=(400, 3)).astype(np.float32)
    rows = fold_curve({("good", "mean"): good, ("chance", "cls"): chance}, truth, np.arange(400) // 2)
    assert [row["labels"] for row in rows if row["model"] == "good"] == [*(c for c in COUNTS if c < 304), "all"]
    assert all(row["auroc"] > 0.9 for row in rows if row["model"] == "good")
    assert all(abs(row["auroc"] - 0.5) < 0.15 for row in rows if row["model"] == "chance")
    assert {(row["model"], row["pooling"]) for row in rows} == {("good", "mean"), ("chance", "cls")}


def test_a_number_of_labels_that_one_fold_lacks_is_left_out():
    """Folds of whole groups leave 38 to 42 of 50 images: no mean is of fewer folds than the others."""
    truth, groups = np.arange(50) % 2, np.repeat(np.arange(14), 4)[:50]
    sizes = [len(train) for train, _ in split_folds(truth, groups)]
    assert min(sizes) < max(sizes)
    rows = fold_curve({("m", "mean"): truth[:, None].astype(np.float32)}, truth, groups, counts=[1, 5, max(sizes) - 1])
    assert [row["labels"] for row in rows] == [5, "all"]


def test_no_text_of_an_option_is_too_long_for_the_results(tmp_path):
    given = {"tasks": ["findings=" + "a," * 200 + "b"], "model": str(tmp_path), "draws": 3}
    assert _plain(given) == given | {"model": tmp_path.name}


@pytest.mark.parametrize(
    ("positives", "groups"),
    [
        (np.arange(4), np.arange(60)),  # too few images
        (np.arange(60)[4:], np.arange(60)),  # too few of the other class
        (np.arange(20), np.arange(60).clip(20)),  # of one patient
        (np.arange(0), np.arange(60)),
    ],
)
def test_folds_that_would_lack_a_class_are_refused_with_counts(positives, groups):
    truth = np.isin(np.arange(60), positives).astype(int)
    counts = f"has {60 - len(positives)} images of .* groups .*, the second one {len(positives)} of "
    with pytest.raises(ValueError, match=f"5 folds need both classes in each of them: the first class {counts}"):
        fold_curve({("model", "mean"): truth[:, None].astype(np.float32)}, truth, groups)


def test_the_published_curve_is_that_of_fractures_of_one_data_set():
    task = Task.parse("fracture=label[label_task=fracture]")
    assert published(task, ["FracAtlas", "fracatlas"]) == list(PUBLISHED)
    for other, sources in (
        (task, ["FracAtlas", "MURA"]),
        (task, []),
        (task, [None]),
        (Task.parse("view"), ["FracAtlas"]),
    ):
        assert published(other, sources) == []


@pytest.mark.parametrize("name", ["study_tiny", "irma_paper", "mri_archive"])
def test_recipes_are_read(name):
    recipe = Path(__file__).parents[2] / "scripts" / "recipes" / f"{name}.yaml"
    classes = (DataArguments, ModelArguments, StudyArguments, RadMAETrainingArguments)
    *_, args, training = parse(classes, [str(recipe), "--use_cpu", "true", "--bf16", "false"])
    steps = training.per_device_train_batch_size * training.gradient_accumulation_steps
    assert args.draws >= 5 and steps == {"study_tiny": 32, "irma_paper": 64, "mri_archive": 1024}[name]


def test_few_labels_are_trained_on_as_long_as_a_network_needs():
    args = StudyArguments(supervised_epochs=50, supervised_batch_size=32, supervised_steps=2000)
    assert [args.steps_of(images) for images in (1, 31, 1000, 10_000)] == [800, 800, 1600, 2000]
    assert StudyArguments(supervised_epochs=2, supervised_min_steps=0).steps_of(31) == 2


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
        ({"draws": 1}, "--draws 1: expected at least 2"),
        ({"supervised_min_steps": -1}, "--supervised_min_steps -1: expected 0 or more"),
        ({"supervised_batch_size": 0}, "--supervised_batch_size 0: expected at least 1"),
        ({"poolings": ["median"]}, "median"),
        ({"layer_decay": 1.5}, "--layer_decay 1.5: expected more than 0"),
        ({"learning_rates": [0.0]}, "expected one or more, above 0"),
        ({"supervised": ["resnet"]}, "choose from resnet50, vit, mae, none"),
        ({"tasks": ["a", "a=b"]}, "two --tasks are named a"),
        ({"kinds": ["even"]}, "choose from balanced, plain"),
        ({"fold_curve": ["b"]}, "--fold_curve b: choose from body_region"),
    ):
        with pytest.raises(ValueError, match=message):
            StudyArguments(**bad)
