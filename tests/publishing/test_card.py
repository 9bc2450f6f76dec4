"""A card says what was measured and nothing else, its code runs, and its metadata is what huggingface_hub reads."""

import copy
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from damaged import radiograph
from huggingface_hub import DatasetCard, EvalResult, ModelCard
from jinja2 import UndefinedError
from PIL import Image
from repository import metadata_errors
from rows import make_rows
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.classification.setup import LabelledDataArguments, TaskArguments
from hf_radmae.classification.training_args import ClassifierTrainingArguments
from hf_radmae.cli.export import ExportArguments
from hf_radmae.cli.parse import parse
from hf_radmae.cli.runs import options_of, used_options
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.results import environment
from hf_radmae.pretraining.training_args import RadMAETrainingArguments
from hf_radmae.publishing import card
from hf_radmae.publishing.card import FIGURE, TEMPLATES, command_of, public, read_results, render_card, write_card
from hf_radmae.publishing.gate import Statement
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions

ROW = {"labels": "all", "draws": 1, "balanced_accuracy": 0.8125, "balanced_accuracy_low": 0.7512} | {
    "balanced_accuracy_high": 0.9034,
    "accuracy": 0.5178,
    "accuracy_low": 0.4246,
    "accuracy_high": 0.6157,
}
RESULTS = {
    "name": "run",
    "environment": {"device": "A GPU", "cpus": 7, "torch": "2.98.1", "transformers": "5.76.2"},
    "data": {
        "dataset": "imagefolder",
        "binning": "smart",
        "scaling": "minmax",
        "images": {"train": 8012, "validation": 1013, "test": 1014},
        "skipped": 37,
        "bins": [[64, 48], [64, 48], [40, 56]],
    },
    "model": {
        "num_channels": 3,
        "patch_size": 19,
        "image_size": 160,
        "parameters": 970_816,
        "mask_ratio": 0.71,
        "norm_pix_loss": True,
        "model": "a-checkpoint",
    },
    "training": {"epochs": 21.0, "steps": 1234, "seconds": 9180.0, "images_per_second": 345.6},
    "losses": {"before": 1.01234, "validation": 0.61237, "test": 0.62891},
    "probe": {"column": "body_region", "rows": [ROW | {"model": "untrained"}, ROW | {"model": "pre-trained"}]},
}
CLASSIFIER = {
    "name": "run",
    "label": "body_region",
    "task": "single",
    "classes": ["chest", "hand", "skull"],
    "environment": RESULTS["environment"],
    "data": {"dataset": "irma", "bins": [[64, 48]]},
    "images": {"train": 8012, "validation": 1013, "test": 1014},
    "left_out": {"train": 3, "validation": 0, "test": 29},
    "training": {"epochs": 21.0, "steps": 1234, "seconds": 318.0},
    "test": {
        "accuracy": 0.9123,
        "accuracy_low": 0.8934,
        "accuracy_high": 0.9312,
        "macro_f1": 0.7717,
        "loss": float("nan"),
    },
}
METRICS = {"balanced_accuracy", "accuracy"}
KINDS = {"model": RESULTS, "classifier": CLASSIFIER}


def leaves(value: object, path: tuple = ()) -> Iterator[tuple]:
    """Paths to every section and every figure of results."""
    if isinstance(value, dict):
        for key, child in value.items():
            if path or key not in ("name", "classes"):
                yield (*path, key)
                yield from leaves(child, (*path, key))


def without(results: dict, path: tuple) -> dict:
    less = copy.deepcopy(results)
    section = less
    for key in path[:-1]:
        section = section[key]
    del section[path[-1]]
    return less


def numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?", text))


def code_blocks(text: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize(
    "figure", ["970,816", "0.6124", "0.812 (0.751 to 0.903)", "8,012 train", "pixels: 64x48, 40x56", "71 %"]
)
def test_a_card_says_what_was_measured(figure):
    assert figure in render_card(RESULTS, figure=FIGURE)
    assert "2.5 hours on A GPU with 7 CPU cores" in render_card(RESULTS)
    assert "0.912 (0.893 to 0.931)" in render_card(CLASSIFIER, TEMPLATES["classifier"])


@pytest.mark.parametrize(
    "kind, path", [(kind, path) for kind, results in KINDS.items() for path in leaves(results)], ids=str
)
def test_what_was_not_measured_is_left_out_and_nothing_takes_its_place(kind, path):
    whole = render_card(KINDS[kind], TEMPLATES[kind], figure=FIGURE)
    less = render_card(without(KINDS[kind], path), TEMPLATES[kind], figure=FIGURE)
    assert numbers(less) <= numbers(whole)
    prose = re.sub(r"```.*?```", "", less, flags=re.DOTALL)
    assert not re.search(r"None|\bnan\b|undefined|\(\)|  +\w|\| +\|$", prose.split("---", 2)[2])
    assert metadata_errors(less) == []
    assert "Not for diagnosis" in less
    if path[0] in ("losses", "training"):
        assert len(less) < len(whole)


def test_a_template_cannot_print_what_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "x.md.j2").write_text("{{ losses.test }}")
    monkeypatch.setattr(card, "CARDS", tmp_path)
    with pytest.raises(UndefinedError):
        render_card({"name": "x"}, "x.md.j2")


def test_the_metadata_holds_each_score_with_its_interval_and_reads_back_the_same():
    data = ModelCard(render_card(RESULTS, license="cc-by-4.0")).data
    assert (data.license, data.pipeline_tag) == ("cc-by-4.0", "image-feature-extraction")
    expected = [
        EvalResult(
            task_type="image-classification",
            task_name="probe of body_region, labels: all, linear",
            dataset_type="imagefolder",
            dataset_name="imagefolder",
            dataset_config="labels: all, linear",
            dataset_split="test",
            metric_type=name,
            metric_name=name.replace("_", " "),
            metric_value=ROW[name],
            metric_args={"level": 0.95, "low": ROW[f"{name}_low"], "high": ROW[f"{name}_high"]},
        )
        for name in ("balanced_accuracy", "accuracy")
    ]
    assert data.eval_results == expected
    scores = ModelCard(render_card(CLASSIFIER, TEMPLATES["classifier"])).data.eval_results
    assert [score.metric_type for score in scores] == ["accuracy", "macro_f1"]  # a loss that is NaN was not measured
    assert scores[1].metric_args is None


def test_each_score_of_the_metadata_stands_under_its_own_labels_and_head():
    shares = [(labels, head) for labels in ("all", "1 %, balanced draw") for head in ("linear", "propagated")]
    named = [{"labels": labels, "head": head, "accuracy": i / 10} for i, (labels, head) in enumerate(shares)]
    rows = [{**ROW, "model": "pre-trained", **row} for row in named]
    read = ModelCard(render_card({**RESULTS, "probe": {**RESULTS["probe"], "rows": rows}})).data.eval_results
    found = {score.task_name: score.metric_value for score in read if score.metric_type == "accuracy"}
    column = RESULTS["probe"]["column"]
    assert found == {f"probe of {column}, labels: {labels}, {head}": i / 10 for i, (labels, head) in enumerate(shares)}


@pytest.mark.parametrize("results", [RESULTS, {"name": "x"}], ids=["measured", "bare"])
def test_a_licence_is_in_the_metadata_only_if_it_was_stated(results):
    assert ModelCard(render_card(results)).data.license is None
    assert "No license of the weights was stated" in render_card(results)
    assert metadata_errors(render_card(results)) == []


def test_the_picture_is_on_the_card_if_it_is_in_the_folder(tmp_path):
    assert FIGURE not in write_card(RESULTS, tmp_path).read_text()
    Image.new("L", (8, 8)).save(tmp_path / FIGURE)
    assert f"]({FIGURE})" in write_card(RESULTS, tmp_path).read_text()


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A working folder with a radiograph, where code finds a local folder by its name."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(radiograph(70, 50)).save("radiograph.png")
    return tmp_path


def test_the_code_on_a_pretrained_models_card_runs(workplace):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "image_size": 48, "patch_size": 8}
    model = RadMAEForPreTraining(preset_config("tiny", **sizes))
    model.save_pretrained("run")
    bins = fit_bins(np.array([[70, 50], [40, 60]]), num_bins=2, patch_size=8, max_tokens=36, min_images=1)
    processor = RadiographImageProcessor(bins=bins.to_dict())
    processor.save_pretrained("run")
    names: dict = {}
    exec(code_blocks(write_card(RESULTS, "run").read_text()), names)
    pixels = processor("radiograph.png", return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(names["features"], model.eval().encode(pixels), rtol=0, atol=1e-4)


def test_the_code_on_a_classifiers_card_runs(workplace):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    labels = dict(enumerate(CLASSIFIER["classes"]))
    ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, id2label=labels)).save_pretrained("run")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("run")
    names: dict = {}
    exec(code_blocks(write_card(CLASSIFIER, "run", TEMPLATES["classifier"]).read_text()), names)
    assert {score["label"] for score in names["scores"]} == set(CLASSIFIER["classes"])
    assert "trust_remote_code" in render_card(CLASSIFIER, TEMPLATES["classifier"], remote_code=True)


def test_the_card_of_a_data_set_says_its_statement_and_its_code_runs(workplace, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", workplace / "cache")
    parts = {"train": make_rows(images=8), "test": make_rows(images=3)}
    prepare(parts, "shards", PrepareOptions(), key=b"k")
    statement = Statement("cc-by-4.0", "All images were looked at by two people.")
    text = render_card(read_results("shards"), TEMPLATES["dataset"], license="cc-by-4.0", statement=statement)
    for said in (statement.deidentification, "| train | 8 |", "| test | 3 |", "Longest side at most 512 pixels"):
        assert said in text
    data = DatasetCard(text).data
    assert (data.license, data.size_categories) == ("cc-by-4.0", "n<1K")
    assert metadata_errors(text) == []
    Path("shards/README.md").write_text(text)
    names: dict = {}
    exec(code_blocks(text), names)
    assert names["image"].size in {(row["width"], row["height"]) for row in parts["train"]}


@pytest.mark.parametrize("dataset, shown", [("phantom", True), ("mri", False)])
def test_a_page_for_the_folder_of_cards_takes_the_picture_along_only_if_it_shows_nobody(
    dataset, shown, tmp_path, monkeypatch
):
    folder, pages = tmp_path / "run", tmp_path / "pages"
    folder.mkdir()
    pages.mkdir()
    (folder / "results.json").write_text(json.dumps(RESULTS | {"data": {"dataset": dataset}}))
    (folder / "config.json").write_text("{}")
    Image.new("L", (8, 8)).save(folder / FIGURE)
    words = ["card.py", str(folder), "--name", "phantom_tiny", "--output", str(pages / "phantom_tiny.md")]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "card.py"), run_name="__main__")
    text = (pages / "phantom_tiny.md").read_text()
    assert ("](phantom_tiny.png)" in text) is (pages / "phantom_tiny.png").is_file() is shown
    assert 'from_pretrained("phantom_tiny"' in text


def test_the_environment_of_this_process_fills_a_card():
    assert environment()["torch"] in render_card({"name": "x", "environment": environment()})


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither results.json nor manifest.json"):
        read_results(tmp_path)


PRETRAIN = (DataArguments, ModelArguments, RadMAETrainingArguments)
FINETUNE = (LabelledDataArguments, TaskArguments, ClassifierTrainingArguments)


@pytest.mark.parametrize(
    "classes, words",
    [
        (PRETRAIN, ""),
        (PRETRAIN, "--model CHECKPOINT --mask_ratio 0.6 --norm_pix_loss False --rivals owner/one owner/two"),
        (PRETRAIN, "--dataset imagefolder --data_dir DATA --probe_column body_region --report_labels LABELS"),
        (
            PRETRAIN,
            "--preset base --max_steps 7 --lr_scheduler_type linear --warmup_steps 0 --gradient_accumulation_steps 2",
        ),
        (
            PRETRAIN,
            """--lr_scheduler_kwargs '{"num_cycles": 2}' --num_train_epochs auto --adam_beta2 0.9 --split_seed 7""",
        ),
        (FINETUNE, "--label a,b --binning smart --class_weights sqrt --flip True --rotation 0 --seed 3"),
        (FINETUNE, "--model CHECKPOINT --layer_decay 0.75 --pooling cls --where 'body part=left hand'"),
        (FINETUNE, "--model resnet50 --dataset owner/set --label 'Finding Labels' --num_channels 1"),
    ],
    ids=lambda words: words if isinstance(words, str) else "",
)
def test_the_command_on_a_card_gives_the_same_options(classes, words, workplace):
    RadMAEForPreTraining(preset_config("tiny", num_hidden_layers=1)).save_pretrained("CHECKPOINT")

    def results(argv: list[str]) -> dict:
        data, model, args = parse(classes, argv)
        found = {"data": vars(data), "model": vars(model), "arguments": used_options(args), "training": {}}
        found |= {"decided_by": options_of(args, data, model)}
        return public(found | ({"classes": [], "label": model.label} if classes is FINETUNE else {}))

    whole = results([*shlex.split(words), "--report_to", "none", "--use_cpu", "True"])
    command = shlex.split(command_of(json.loads(json.dumps(whole))))
    assert command[:2] == ["hf-radmae", "pretrain" if classes is PRETRAIN else "finetune"]
    assert len(command) - 2 <= len(shlex.split(words)) + 2  # a preset has a size of patches
    again = results([*command[2:], "--report_to", "none", "--use_cpu", "True"])
    assert again == whole


def test_the_command_of_an_exported_probe_is_one_that_export_takes():
    results = {"classes": ["a", "b"], "label": "side", "pooling": "cls", "data": vars(DataArguments("owner/set"))}
    results |= {"head": "propagated"}
    results["data"]["probe_column"] = "side"
    run, data = parse((ExportArguments, DataArguments), [*shlex.split(command_of(results))[2:], "--output_dir", "x"])
    assert (run.model, run.pooling, data.dataset, data.probe_column) == ("CHECKPOINT", "cls", "owner/set", "side")
    assert run.head == "propagated"


def test_no_path_of_a_run_is_in_its_results_or_its_command():
    data = {"dataset": "imagefolder", "data_dir": "/data/x", "report_labels": "/data/y.parquet", "rivals": ["/data/z"]}
    shown = public({"data": data, "model": {"model": "/data/w"}})
    assert "/data" not in json.dumps(shown) + str(command_of(shown))


@pytest.mark.parametrize("page", sorted(Path(__file__).parents[2].glob("model_cards/*.md")), ids=lambda page: page.stem)
def test_the_pages_of_recipes_that_were_run_are_cards(page):
    text = page.read_text(encoding="utf-8")
    assert metadata_errors(text) == []
    assert ModelCard(text).data.eval_results
    assert "Not for diagnosis" in text


def test_the_card_of_an_encoder_alone_promises_no_masked_autoencoder_beside_it():
    assert "is in `mae/`" in render_card(RESULTS, has_mae=True)
    assert "`mae/`" not in render_card(RESULTS, has_mae=False) and "`mae/`" not in render_card(RESULTS)


@pytest.mark.parametrize("low, says", [(-0.05, True), (0.0, True), (0.01, False)])
def test_a_card_says_that_features_are_no_better_where_the_interval_says_so(low, says):
    headline = {"ours": "pre-trained, mean", "rival": "no network, HOG", "balanced_accuracy": 0.1}
    headline |= {"balanced_accuracy_low": low, "balanced_accuracy_high": 0.2}
    probe = {**RESULTS["probe"], "tables": [{"share": "all", "headline": headline}]}
    assert ("not shown to be better" in render_card(RESULTS | {"probe": probe})) is says


@pytest.mark.parametrize("metric, classes", [("auroc", 2), ("auroc", 3), ("balanced_accuracy", 2), (None, 3)])
def test_the_probe_on_a_card_shows_what_chose_its_models(metric, classes):
    area = {"auroc": 0.6543, "auroc_low": 0.6321, "auroc_high": 0.7012}
    headline = {"ours": "pre-trained, mean", "rival": "no network, HOG"} | {
        f"{metric}{e}": 0.1 for e in ("", "_low", "_high")
    }
    table = {"share": "all", "headline": headline, "metrics": [metric]}
    rows = [ROW | area | {"model": name, "chosen_on": 1217} for name in ("untrained", "pre-trained")]
    probe = RESULTS["probe"] | {"rows": rows, "classes": ["a", "b", "c"][:classes]}
    text = render_card(RESULTS | {"probe": probe | ({"tables": [table]} if metric else {})})
    shown = metric == "auroc" or classes == 2
    assert ("0.654 (0.632 to 0.701)" in text) is shown
    assert ({score.metric_type for score in ModelCard(text).data.eval_results} == {"auroc", *METRICS}) is shown
    if metric:
        name = "AUROC" if metric == "auroc" else "balanced accuracy"
        assert f"minus the best rival (no network, HOG), {name}: 0.100 (0.100 to 0.100)." in text
    assert "1,217 labelled images, which count as labels" in text
    assert "labelled images, which count" not in render_card(RESULTS)


@pytest.mark.parametrize("heads", [["linear"], ["linear", "propagated"]])
def test_a_card_says_that_heads_are_the_same_only_where_they_are(heads):
    rows = [ROW | {"model": "pre-trained", "head": head} for head in heads]
    text = render_card(RESULTS | {"probe": RESULTS["probe"] | {"rows": rows}})
    assert ("with the same kind of head" in text) is (len(heads) == 1)
    assert ("pooling and the head of its own" in text) is (len(heads) > 1)


def test_a_card_names_the_classes_of_few_test_images():
    text = render_card(RESULTS | {"probe": RESULTS["probe"] | {"dropped": {"hip": 3}, "kept_rare": {"toe": 2}}})
    assert "Dropped, too few test images: hip (3)." in text and "few test images: toe (2)." in text
    assert "few test images" not in render_card(RESULTS)
