"""The report of a study: every sentence follows from the results, and the page needs no other file."""

import base64
import html
import re

import pytest

from hf_radmae.study.folds import COUNTS, PUBLISHED
from hf_radmae.study.report import summary, terminal_text, write_report

METRICS = ["auroc", "balanced_accuracy", "accuracy", "brier"]


def row(model, kind="rival", head="linear", **values):
    found = {"model": model, "kind": kind, "head": head, "pooling": "mean", "views": 0, "unlabelled": 0, "seeds": 1}
    found |= {"chosen_on": 60, "pretraining_views": 0}
    return found | {f"{name}{end}": 0.5 for name in METRICS for end in ("", "_low", "_high")} | values


def table(share, rows, counts=(), draws=1):
    classes = {
        name: {"recall": [0.5, 0.5], "confusion": [[count, 1], [2, 3]], "reliability": []}
        for name, count in zip(("pre-trained, mean", "no network, HOG"), counts, strict=False)
    }
    found = {"share": share, "refused": None, "paper": {}, "draws": draws, "images": 100.0, "metrics": METRICS}
    return found | {"rows": rows, "poolings": [], "headline": None, "elsewhere": None, "classes": classes}


def results(rows=None, **changes):
    """Results of a study with two tables, heads on frozen features alone, and its own pre-training."""
    rows = rows or [row("pre-trained", "ours"), row("no network"), row("metadata alone")]
    tables = [table("all", rows, (71.5, 72.5)), table("1 %, balanced draw", rows, (73.5, 74.5), draws=5)]
    task = {"name": "fracture", "classes": ["no", "yes|maybe"], "dropped": {}, "counts": {"test": [9, 9]}}
    task |= {"tables": tables, "curve": tables[::-1], "searches": [], "folds": None, "error_maps": None}
    task |= changes.pop("task", {})
    training = {"epochs": 2, "views": 200, "learning_rate": 1e-3}
    found = {
        "name": "study",
        "environment": {"device": "cpu", "cpus": 2},
        "data": {"dataset": "a", "images": {"train": 1, "test": 1}, "unreadable": 0, "bins": [[8, 8], [8, 8]]},
        "model": {"parameters": 10, "preset": "tiny", "norm_pix_loss": True},
        "pretraining": {"losses": {"before": 2.0, "validation": 1.0, "test": 1.1}, "training": training},
        "class_weights": "none",
        "resampled": "patients",
        "seconds": {"pretrain": 60.0, "features, pre-trained": 2.0},
        "options": {"min_test_images": 10, "learning_rates": [1e-3, 1e-2]},
        "tasks": [task],
    }
    return found | changes


def pages(found, folder):
    """The page, without its drawings, and the Markdown, with single spaces between words."""
    texts = [path.read_text() for path in write_report(found, folder)]
    return [" ".join(re.sub("<svg.*?</svg>", "", text, flags=re.DOTALL).split()) for text in texts]


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_table_shows_its_own_confusions(tmp_path, seeds):
    for page in pages(results([row("pre-trained", "ours", seeds=seeds), row("no network")]), tmp_path):
        assert page.count("the mean of all draws and seeds") == (4 if seeds > 1 else 2), "of 1 % of the labels"
        places = [page.index(text) for text in ("Labels: all", "71.5", "72.5", "Labels: 1 %", "73.5", "74.5")]
        assert places == sorted(places)
        assert all(page.count(text) == 1 for text in ("71.5", "72.5", "73.5", "74.5"))
    assert "| no | 71.5 | 1.0 |" in page and "| yes\\|maybe | 2.0 | 3.0 |" in page


@pytest.mark.parametrize(("published", "seen"), [([], False), ([*PUBLISHED], True), ([], None), (None, None)])
def test_folds_are_a_table_and_the_published_curve_is_there_only_where_it_is_in_the_results(tmp_path, published, seen):
    rows = [
        {"model": "pre-trained", "pooling": "grid", "labels": labels, "auroc": auroc, "std": 0.012}
        for labels, auroc in ((10, 0.611), (25, 0.622), ("all", 0.633))
    ]
    folds = {"rows": rows, "published": published, "images": 1234, "groups": 987, "seen": seen}
    folds["class_weights"] = "sqrt" if seen else "none"
    if published is None:  # of a study before these were written
        folds = {"rows": [{k: v for k, v in one.items() if k != "pooling"} for one in rows]}
    page, markdown = pages(results(task={"folds": folds}), tmp_path)
    pooling = "" if published is None else "grid"
    gaps = " ".join(["|"] * (len(COUNTS) - 1 if published else 1))
    said = f"| pre-trained | {pooling}{' ' if pooling else ''}| 0.611 (0.012) | 0.622 (0.012) {gaps} 0.633 (0.012) |"
    assert re.sub(r"\| +\|", "| |", said) in re.sub(r"\| +\|", "| |", markdown)
    for text in (page, markdown):
        assert ("CXR-Foundation" in text) == ("0.555" in text) == bool(published)
        assert ("1,234 labelled images in 987 groups" in text) == (published is not None)
        known = published is not None and seen is not None
        assert ("pre-training saw" in text) == known
        assert ("saw no image of the folds" in text) == (known and not seen)
        assert "first seed and the last of its poolings" in text
        assert ("Its loss weighs the classes: sqrt." in text) is bool(known and seen)


def test_rare_classes_say_whether_they_were_dropped_or_kept(tmp_path):
    for page in pages(results(task={"dropped": {"hip": 3}, "kept_rare": {"knee": 2, "toe": 1}}), tmp_path):
        assert "Dropped, fewer than 10 test images: hip (3)." in page
        assert "Kept with fewer than 10 test images" in page and "knee (2), toe (1)" in page
    assert all("fewer than" not in page for page in pages(results(), tmp_path))


@pytest.mark.parametrize("several", [False, True])
def test_the_page_holds_its_pictures(tmp_path, several):
    (tmp_path / "figures").mkdir()
    rows = [{"summary": "mean", "auroc": 0.5, "auroc_low": 0.4, "auroc_high": 0.6}]
    found = results(task={"error_maps": {"rows": rows, "picture": "errors-fracture.png"}})
    assert "data:image/png" not in pages(found, tmp_path)[0], "there is no picture"
    (tmp_path / "figures" / "errors-fracture.png").write_bytes(b"errors")
    if several:
        (tmp_path / "figures" / "reconstructions.png").write_bytes(b"photo")
    page, markdown = pages(found, tmp_path)
    assert f"base64,{base64.b64encode(b'errors').decode()}" in page and "figures/" not in page
    assert (base64.b64encode(b"photo").decode() in page) is several
    assert "](figures/errors-fracture.png)" in markdown


@pytest.mark.parametrize("names", [(), ("rank",), ("knn_accuracy", "rank", "alignment")])
def test_what_was_watched_is_drawn_with_what_it_means(tmp_path, names):
    watch = [{"epoch": epoch} | dict.fromkeys(names, 0.5 * epoch) for epoch in (1.0, 2.0, 2.0)]
    found = results()
    found["pretraining"] = found["pretraining"] | {"watch": watch, "watch_column": "body_region"}
    means = {"knn_accuracy": "nearest others", "rank": "directions the features use", "alignment": "half a patch"}
    for page in pages(found, tmp_path):
        assert {name for name, text in means.items() if text in page} == set(names)
        assert ("with the labels of body_region" in page) is ("knn_accuracy" in names)
    assert (tmp_path / "figures" / "watch.svg").is_file() is bool(names)


TRAINED = row("ViT, supervised", head="trained", views=64)
SEARCH = {"model": "ViT, supervised", "share": "all", "best": 1e-3}
SEARCH |= {"rates": [{"learning_rate": rate, "score": 0.5} for rate in (1e-3, 1e-2)]}
ONE_RATE = SEARCH | {"rates": SEARCH["rates"][:1]}
OURS = row("pre-trained", "ours")
SHAPES = {"dataset": "a", "images": {"test": 1}, "unreadable": 0, "bins": [[8, 8], [8, 16]]}
SAYS = {
    "networks": (
        [OURS, TRAINED],
        {"task": {"searches": [SEARCH]}},
        ["resized to one square", "on the first draw alone"],
    ),
    "one rate": ([OURS, TRAINED], {"task": {"searches": [ONE_RATE]}}, ["resized to one square"]),
    "fine-tuned": (
        [OURS, row("MAE, fine-tuned", "ours", "trained", views=64, pretraining_views=200)],
        {},
        ["resized to one square", "Those with pre-training add"],
    ),
    "heads": ([OURS, row("no network")], {}, ["square thumbnails"]),
    "propagated": ([OURS, row("pre-trained", "ours", "propagated")], {}, ["without their labels too"]),
    "attentive": ([OURS, row("pre-trained", "ours", "attentive")], {}, ["weigh the cells of a grid"]),
    "rates of heads": ([OURS, row("pre-trained", "ours", "searched")], {}, ["trained by AdamW"]),
    "an encoder from elsewhere": (
        [OURS, row("dino", "elsewhere")],
        {"options": {"rivals": ["a/dino"]}},
        ["resized to the square that they need", "weights from elsewhere (dino)"],
    ),
    "shapes": ([OURS, row("metadata alone")], {"data": SHAPES}, ["what the shape gives away", "2 shapes"]),
    "rates of the pre-training": (
        [OURS],
        {"seconds": {"pretrain, rate 0.1": 60.0, "pretrain, rate 0.2": 60.0}},
        ["the best of 2 by", "2.0 min for all of them"],
    ),
    "a start": ([OURS], {"options": {"model": "a/start"}}, ["begun from start", "weights from elsewhere (start)"]),
    "a checkpoint": ([OURS], {"pretraining": {"checkpoint": "mae", "unseen": True}}, ["None of the test images"]),
    "an unknown checkpoint": (
        [OURS],
        {"pretraining": {"checkpoint": "mae", "unseen": False}},
        ["it may have seen the test images"],
    ),
    "seeds": ([OURS | {"seeds": 3}], {}, ["3 seeds where a row says so"]),
    "more seeds than the pre-training": (
        [OURS | {"seeds": 2}],
        {"options": {"more_checkpoints": ["a/two"]}},
        ["2 seeds where a row says so", "Further seeds of it: two.", "weights from elsewhere (two)"],
    ),
    "another split": ([OURS], {"options": {"test_split": "test_2009"}}, ["split (test_2009)"]),
    "weights": ([OURS], {"class_weights": "sqrt"}, ["The losses of linear heads weigh"]),
    "weights of networks": (
        [OURS, row("pre-trained", "ours", "attentive"), TRAINED],
        {"class_weights": "sqrt"},
        [
            "The losses of networks, linear heads and attentive heads weigh",
            "weigh the cells of a grid",
            "resized to one square",
        ],
    ),
}


@pytest.mark.parametrize("name", SAYS)
def test_a_sentence_is_there_only_where_it_holds(name):
    rows, changes, said = SAYS[name]
    text = " ".join(summary(results(rows, **changes)).values())
    assert [part for part in said if part not in text] == []
    others = {part for _, _, parts in SAYS.values() for part in parts} - {*said}
    assert [part for part in others if part in text] == []


def test_what_could_not_be_done_is_said_with_the_reason(tmp_path):
    refused = {"folds": "5 folds need both classes", "error_maps": "an AUROC needs both classes"}
    for page in pages(results(task={"refused": refused}), tmp_path):
        assert "The curve over five folds is not possible: 5 folds need both classes." in page
        assert "reconstruction errors is not possible: an AUROC needs both classes." in page


@pytest.mark.parametrize("heads", [False, True])
def test_the_times_say_what_they_count(tmp_path, heads):
    seconds = {"pretrain": 60.0} | ({"heads, pre-trained, fracture": 1.0, "tables, fracture": 2.0} if heads else {})
    for text in pages(results(seconds=seconds), tmp_path):
        left = "reading the images and figures." if heads else "reading the images, heads, tables and figures."
        assert f"Not counted: {left}" in text
    assert ("| heads | 1 | 1 s |" in text) is heads


def test_scores_that_are_no_shares_are_named(tmp_path):
    for text in [*pages(results(), tmp_path), " ".join(terminal_text(results()).split())]:
        assert "in per cent (Brier scores: as they are)" in text
        assert "draws of the labels where there are several" in text


@pytest.mark.parametrize("classes", [60, 61])
def test_of_many_classes_the_page_says_where_their_confusions_are(tmp_path, classes):
    found = results(task={"classes": [f"c{number}" for number in range(classes)], "counts": {"test": [1] * classes}})
    for name in ("recall", "confusion"):
        value = [0.5] * classes if name == "recall" else [[1.0] * classes] * classes
        for table in found["tasks"][0]["tables"]:
            for shown in table["classes"].values():
                shown[name] = value
    for page in pages(found, tmp_path):
        assert ("true class, then images" in page) is (classes == 60)
        assert ("is in results.json: there are more than 60 classes" in page) is (classes == 61)


@pytest.mark.parametrize("name", ["a|b <img src=x> [a](b) *größe*", "_$5 to $\\frac a\\|b\nzwei"])
def test_any_name_of_a_class_or_a_model_is_text(tmp_path, name):
    ours = {"ours": f"{name}, mean", "rival": name} | {f"auroc{end}": 0.1 for end in ("", "_low", "_high")}
    rows = [row(name, "ours"), row("no network")]
    tables = [table("all", rows, (71.5,)) | {"headline": ours, "elsewhere": ours}]
    tables[0]["classes"] = {f"{name}, mean": tables[0]["classes"]["pre-trained, mean"]}
    folds = {"rows": [{"model": name, "pooling": name, "labels": n, "auroc": 0.5, "std": 0.1} for n in (10, "all")]}
    changes = {"name": name, "classes": ["no", name], "dropped": {name: 1}, "kept_rare": {name: 2}, "folds": folds}
    changes |= {"tables": tables, "curve": tables, "searches": [SEARCH | {"model": name}], "refused": {"x": name}}
    found = results(rows, task=changes)
    page, markdown = pages(found, tmp_path)
    assert "<img" not in page and "<img src" not in re.sub(r"\\.", "", markdown)
    widths = {len(re.findall(r"(?<!\\)\|", re.sub(r"\\\\", "", line))) for line in table_of(tmp_path, "true class")}
    assert widths == {4}, "no cell more"
    if "\n" not in name:
        drawn = [path.read_text() for path in (tmp_path / "figures").glob("*.svg")]
        assert len(drawn) == 5 and all(html.escape(name, quote=False) in text for text in drawn)


def table_of(folder, text):
    """The lines of the table in the Markdown whose head has the text."""
    parts = (folder / "report.md").read_text().split("\n\n")
    return next(part for part in parts if text in part.split("\n")[0]).strip().split("\n")
