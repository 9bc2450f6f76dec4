"""Labels of a study: what a task may be, what is refused, and draws that leak nothing and favour no model."""

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_radmae.sources.splits import label_fraction
from hf_radmae.study.tasks import Share, Task, TaskLabels, draw_labels, patients, read_labels


def rows(**columns: dict[str, list]) -> dict[str, datasets.Dataset]:
    """Splits of columns given as column={split: values}."""
    splits = next(iter(columns.values()))
    return {s: datasets.Dataset.from_dict({c: values[s] for c, values in columns.items()}) for s in splits}


def split(train: list, validation: list | None = None, test: list | None = None) -> dict[str, list]:
    return {"train": train, "validation": validation or train, "test": test or train}


def single(train: np.ndarray, classes: list[str]) -> TaskLabels:
    return TaskLabels(Task("t", "t"), classes, {"train": train, "validation": train[:0], "test": train[:0]})


def test_tasks_are_read_from_text():
    assert Task.parse("body_region") == Task("body_region", "body_region")
    assert Task.parse("fracture=label[label_task=fracture]") == Task("fracture", "label", (("label_task", "fracture"),))
    assert Task.parse("label[view=AP Supine]") == Task("label", "label", (("view", "AP Supine"),))
    assert Task.parse("label[view=AP,part=a=b]").where == (("view", "AP"), ("part", "a=b"))
    assert Task.parse("findings=a,b") == Task("findings", "a,b")
    assert Task.parse(" fracture = label [ part = hip , view=AP ]") == Task(
        "fracture", "label", (("part", "hip"), ("view", "AP"))
    )
    for bad in ("a=b=c", "a[ =b]", "a[]", "a[b]", "a[=b]", "a[b=c,d]"):
        with pytest.raises(ValueError, match=r"expected COLUMN"):
            Task.parse(bad)


def test_class_numbers_are_shared_by_the_splits_and_missing_labels_are_minus_one():
    data = rows(part=split(["b", "a", None, "b"], ["", "c"], ["a", "unsure"]))
    labels = read_labels(data, Task.parse("part"))
    assert labels.classes == ["a", "b", "c"]
    assert {name: part.tolist() for name, part in labels.values.items()} == {
        "train": [1, 0, -1, 1],
        "validation": [-1, 2],
        "test": [0, -1],
    }
    assert labels.counts() == {"train": [1, 2, 0], "validation": [0, 0, 1], "test": [1, 0, 0]}
    assert labels.rows("train").tolist() == [0, 1, 3]


def test_a_condition_takes_the_labels_of_other_images_away():
    data = rows(label=split([0.0, 1.0, 1.0, None]), kind=split(["f", "f", "g", "f"]))
    labels = read_labels(data, Task.parse("fracture=label[kind=f]"))
    assert labels.classes == ["0", "1"] and labels.values["train"].tolist() == [0, 1, -1, -1]
    with pytest.raises(ValueError, match="no image has kind=x; kind holds f, g"):
        read_labels(data, Task.parse("label[kind=x]"))
    with pytest.raises(ValueError, match="the training images hold 1, and two classes are needed"):
        read_labels(data, Task.parse("label[kind=g]"))


def test_columns_that_do_not_suit_are_refused_with_what_there_is():
    data = rows(part=split(["a", "a"]), age=split([0.5, 1.25]))
    with pytest.raises(ValueError, match=r"no column colour; the columns are part, age"):
        read_labels(data, Task.parse("colour"))
    with pytest.raises(ValueError, match="column age holds fractions"):
        read_labels(data, Task.parse("age"))
    with pytest.raises(ValueError, match="two classes"):
        read_labels(data, Task.parse("part"))


def test_several_labels_are_zero_and_one_and_draws_see_the_rarest():
    data = rows(a=split(["yes", "yes", "no", None, "no"]), b=split(["yes", "no", "no", "yes", "no"]))
    labels = read_labels(data, Task.parse("findings=a,b"))
    assert labels.multi and labels.values["train"].tolist() == [[1, 1], [1, 0], [0, 0], [-1, 1], [0, 0]]
    assert labels.strata().tolist() == ["a", "a", "none", "", "none"]
    assert labels.rows("train").tolist() == [0, 1, 2, 3, 4]
    assert labels.counts()["train"] == [2, 2]


def test_lists_of_names_are_labels_and_one_name_two_classes():
    lists = [["mass, left "], [], ["mass, left ", "rib"], ["rib"]]
    labels = read_labels(rows(findings=split(lists)), Task.parse("findings"))
    assert labels.classes == ["mass, left", "rib"]
    assert labels.values["train"].tolist() == [[1, 0], [0, 0], [1, 1], [0, 1]]
    one = read_labels(rows(findings=split([["rib"], [], None, ["rib"]])), Task.parse("findings"))
    assert not one.multi and one.classes == ["no", "yes"] and one.values["train"].tolist() == [1, 0, -1, 1]


def test_a_task_that_cannot_be_trained_or_scored_is_refused_at_once():
    data = rows(a=split(["yes", "no", "no", "no"]), b=split([None, None, "yes", "yes"]))
    with pytest.raises(ValueError, match="every training image has the label b"):
        read_labels(data, Task.parse("findings=a,b"))
    data = rows(part=split(["a", "b"], ["a", "b"], [None, ""]))
    with pytest.raises(ValueError, match="task part: no image of the split test has a label"):
        read_labels(data, Task.parse("part"))


def test_labels_that_are_never_known_together_are_refused_by_their_names():
    """Of images with all labels known there is none to draw."""
    values = np.where(np.arange(40)[:, None] < (20, 40), [[0, 1]], -1)
    values[:20, 1], values[::2] = -1, np.where(values[::2] >= 0, 1 - values[::2], -1)
    labels = TaskLabels(Task("t", "a,b"), ["a", "b"], {"train": values})
    with pytest.raises(ValueError, match="all of the labels leaves no image with, or none without, a, b"):
        draw_labels(labels, np.arange(40), Share(1.0, "all"), 2)


def test_images_that_were_not_seen_have_no_label():
    labels = single(np.array([0, 1, 1]), ["a", "b"])
    seen = {"train": np.array([True, False, True]), "validation": np.ones(0, bool), "test": np.ones(0, bool)}
    assert labels.known(seen).values["train"].tolist() == [0, -1, 1]
    assert labels.values["train"].tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="no image of the split validation has a label"):
        labels.known(seen).without_rare(0)


def test_a_patient_in_two_splits_is_refused():
    data = rows(patient=split(["p", "q"], ["r"], ["q"]), part=split(["a", "b"], ["a"], ["b"]))
    with pytest.raises(ValueError, match="1 patients are in more than one split"):
        patients(data)
    honest = rows(patient=split(["p", "p", None], [None], ["q"]))
    groups = patients(honest)
    assert groups["train"][0] == groups["train"][1] and len({*groups["train"], *groups["test"]}) == 3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_draw_keeps_patients_whole_and_takes_labelled_training_images_only(data):
    count = data.draw(st.integers(20, 120))
    groups = np.array(data.draw(st.lists(st.integers(0, count // 3), min_size=count, max_size=count)))
    values = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=count, max_size=count)))
    share = Share(data.draw(st.sampled_from([0.1, 0.3, 0.6])), data.draw(st.sampled_from(["balanced", "plain"])))
    labels = single(values, ["a", "b", "c"])
    try:
        draws = draw_labels(labels, groups, share, 3)
    except ValueError as error:
        assert "classes empty" in str(error) or "no image has a label" in str(error)
        return
    for draw, again in zip(draws, draw_labels(labels, groups, share, 3), strict=True):
        np.testing.assert_array_equal(draw, again)  # no model can get another
        assert (values[draw] >= 0).all() and len(set(draw.tolist())) == len(draw)
        left = np.setdiff1d(np.flatnonzero(values >= 0), draw)
        assert not set(groups[draw]) & set(groups[left])
        assert share.kind == "plain" or set(values[draw]) == set(values[values >= 0])


def test_a_share_too_small_for_a_class_is_refused_by_name_and_one_image_is_enough_for_a_larger_one():
    labels = single(np.array([0] * 60 + [1] * 39 + [2]), ["chest", "hand", "whole body"])
    with pytest.raises(ValueError, match=r"leave 3 of 3 classes empty: chest \(60 of 100 images\)"):
        draw_labels(labels, np.arange(100), Share(0.01, "balanced"), 2)
    for draw in draw_labels(labels, np.arange(100), Share(0.1, "balanced"), 3):
        assert np.bincount(labels.values["train"][draw]).tolist() == [3, 3, 1]
    assert len(draw_labels(labels, np.arange(100), Share(1.0, "all"), 5)) == 1


def test_plain_draws_come_as_they_are():
    """Of two classes the rare one is missed as often as chance has it, not redrawn until it is there."""
    labels = single(np.arange(1000) % 50 // 49, ["common", "rare"])  # 2 % are rare
    missed = 0
    for seed in range(40):
        try:
            label_fraction(labels.strata(), np.arange(1000), 0.03, seed)
        except ValueError:
            missed += 1
    assert 10 <= missed <= 32, "(1 - 0.02) ** 30 = 0.55 of 40"
    three = single(np.array([0] * 500 + [1] * 490 + [2] * 10), list("abc"))
    draws = draw_labels(three, np.arange(1000), Share(0.02, "plain"), 20)
    assert any(2 not in three.values["train"][draw] for draw in draws)


def test_classes_of_few_test_images_are_dropped_and_said():
    values = {
        "train": np.array([0, 1, 2, 2, -1]),
        "validation": np.array([1, 2]),
        "test": np.repeat([0, 1, 2], (12, 2, 10)),
    }
    labels = TaskLabels(Task("t", "t"), ["a", "b", "c"], values).without_rare(10)
    assert labels.classes == ["a", "c"] and labels.dropped == {"b": 2}
    assert labels.values["train"].tolist() == [0, -1, 1, 1, -1] and labels.counts()["test"] == [12, 10]
    again = labels.without_rare(11)
    assert again.classes == ["a", "c"] and again.kept_rare == {"c": 10}, "two classes stay in any case, and it is said"
    assert again.dropped == {"b": 2} and not labels.kept_rare


def test_of_several_labels_the_rare_ones_stay_and_are_said():
    values = {"train": np.array([[0, 1], [1, 0]]), "validation": np.array([[0, 1]]), "test": np.array([[0, 1]] * 12)}
    labels = TaskLabels(Task("t", "a,b"), ["a", "b"], values).without_rare(10)
    assert labels.classes == ["a", "b"] and labels.kept_rare == {"a": 0} and not labels.dropped


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("train", "task t: the training images hold a, without .*--min_test_images .b.*, and two classes are needed"),
        ("validation", "task t: no image of the split validation has a label, without .*--min_test_images .b."),
    ],
)
def test_what_is_left_without_rare_classes_must_be_learned_and_chosen_on(lacking, message):
    values = {"train": np.array([0, 1, 2]), "validation": np.array([0, 1, 2]), "test": np.repeat([0, 1, 2], (9, 1, 9))}
    values[lacking] = np.array([0, 1] if lacking == "train" else [1, 1])
    with pytest.raises(ValueError, match=message):
        TaskLabels(Task("t", "t"), ["a", "b", "c"], values).checked().without_rare(2)
