"""Columns of labels: what they mean, and what is said of those that mean nothing."""

from datetime import date
from decimal import Decimal

import datasets
import numpy as np
import pytest
import torch
from transformers import ViTConfig

from hf_radmae.classification import Labels, fit_labels
from hf_radmae.classification.scores import Predictions, score


def rows(**columns) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("values", "names", "truth"),
    [
        (["hand", None, "chest", "", "Unsure"], ("chest", "hand"), ["hand", None, "chest", None, None]),
        ([1.0, 0.0, float("nan"), 0.0, 1.0], ("0", "1"), ["1", "0", None, "0", "1"]),
        ([10, 9, -1, 9, 10], ("9", "10"), ["10", "9", None, "9", "10"]),
        ([True, False, None, False, True], ("False", "True"), ["True", "False", None, "False", "True"]),
        ([1.0, 0.0, -1.0, 0.0, 1.0], ("0", "1"), ["1", "0", None, "0", "1"]),
        (["1", "0", "-1", "0", "unsure"], ("0", "1"), ["1", "0", None, "0", None]),
        (
            ["Scha\u0308del", "Hüfte ", None, "Schädel", ""],
            ("Hüfte", "Schädel"),
            ["Schädel", "Hüfte", None, "Schädel", None],
        ),
    ],
)
def test_a_column_of_texts_or_whole_numbers_holds_classes(values, names, truth):
    data = rows(c=values)
    labels = fit_labels(data, "c")
    assert (labels.task, labels.names, labels.read(data).tolist()) == ("single_label_classification", names, truth)
    assert labels.known(labels.read(data)).tolist() == [name is not None for name in truth]
    assert labels.encode(labels.read(data)).tolist() == [names.index(n) if n else -1 for n in truth]


def test_class_labels_have_their_names_and_only_those_that_occur():
    features = datasets.Features(c=datasets.ClassLabel(names=["-1", "hand", "chest"]))
    data = datasets.Dataset.from_dict({"c": [2, 0, -1, None]}, features=features)
    assert fit_labels(data, "c").names == ("-1", "chest")
    assert fit_labels(data, "c").read(data).tolist() == ["chest", "-1", None, None]


def test_columns_of_yes_and_no_make_several_labels():
    data = rows(a=["yes", "NO", None, "unsure"], b=[0, 1, 1, -1])
    labels = fit_labels(data, "a, b")
    truth = labels.read(data)
    assert (labels.task, labels.names) == ("multi_label_classification", ("a", "b"))
    assert np.array_equal(truth, [[1, 0], [0, 1], [np.nan, 1], [np.nan, np.nan]], equal_nan=True)
    assert labels.known(truth).tolist() == [True, True, True, False]


def test_a_column_of_lists_makes_several_labels():
    data = rows(f=[["effusion", "nodule"], [], None, ["nodule"]])
    labels = fit_labels(data, "f")
    assert labels.names == ("effusion", "nodule")
    nothing = [np.nan, np.nan]
    assert np.array_equal(labels.read(data), [[1, 1], [0, 0], nothing, [0, 1]], equal_nan=True)


def test_lists_of_class_numbers_have_their_names():
    kind = datasets.ClassLabel(names=["nodule", "effusion"])
    features = datasets.Features(f=datasets.List(kind))
    data = datasets.Dataset.from_dict({"f": [[1], [0, 1], [], None]}, features=features)
    assert fit_labels(data, "f").names == ("effusion", "nodule")
    assert fit_labels(data, "f").read(data)[:3].tolist() == [[1, 0], [1, 1], [0, 0]]
    assert fit_labels(rows(f=[[10, 9], [9], [10]]), "f").names == ("9", "10")


def test_fractions_are_predicted_in_units_of_their_spread():
    data = rows(age=[10.5, 20.5, None, 30.5])
    labels = fit_labels(data, "age")
    targets = labels.encode(labels.read(data))
    assert labels.task == "regression" and targets.isnan().tolist() == [False, False, True, False]
    assert torch.allclose(targets[[0, 1, 3]] * labels.std + labels.mean, torch.tensor([10.5, 20.5, 30.5]))
    assert targets[[0, 1, 3]].mean().abs() < 1e-6


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([-0.5, 1.0, -1.0, 2.0], None),
        ([-1.5, -2.5, -1.0, np.nan], None),
        ([-2, 3, None, -1], "regression"),
        ([Decimal("-0.50"), Decimal("1.00"), None, Decimal("-1.00")], None),
        (["-1", "2.5", "", "-3"], "regression"),
    ],
)
def test_numbers_to_predict_may_be_negative_in_training_and_in_scores(values, task):
    data = rows(z=values)
    labels = fit_labels(data, "z", task)
    expected = [np.nan if value in (None, "") else float(value) for value in values]
    truth = labels.read(data)
    assert labels.task == "regression" and np.array_equal(truth, expected, equal_nan=True)
    known = np.flatnonzero(labels.known(truth))
    logits = np.zeros((len(known), 1), np.float32)
    found = score(Predictions.of(labels, known, truth[known], logits), bootstrap=20)
    assert found["mean_absolute_error"] == pytest.approx(np.abs(truth[known] - labels.mean).mean())


def test_one_negative_number_that_may_mean_a_missing_one_is_said(caplog):
    fit_labels(rows(age=[10.5, -1.0, 7.5, -1.0], z=[-1.0, -0.5, 2.0, 1.0]), "z")
    assert not caplog.text
    fit_labels(rows(age=[10.5, -1.0, 7.5, -1.0]), "age")
    assert "column age: 2 training images have -1, which is a number to predict" in caplog.text


def test_classes_that_differ_in_their_spelling_alone_are_said(caplog):
    fit_labels(rows(c=["yes", "No", "Hand", "foot"]), "c")
    assert not caplog.text
    fit_labels(rows(c=["yes", "Yes", "1", "no", "0", "left  hand", "Left hand", "foot"]), "c")
    assert "column c: 0 and no; 1 and Yes and yes; Left hand and left  hand are different classes" in caplog.text


def test_whole_numbers_are_predicted_where_the_task_says_so():
    assert fit_labels(rows(age=[10, 20, 30]), "age", "regression").task == "regression"


def test_a_class_that_training_lacks_has_no_target_but_is_known():
    labels = fit_labels(rows(c=["a", "b"]), "c")
    truth = labels.read(rows(c=["c", "b"]))
    assert labels.encode(truth).tolist() == [-1, 1] and labels.known(truth).all()


@pytest.mark.parametrize("column", ["c", "a,b", "age"])
def test_a_configuration_tells_the_labels_again(column, tmp_path):
    data = rows(c=["hand", "chest", "hand"], a=[1, 0, 1], b=["no", "yes", "no"], age=[1.5, 2.5, 4.5])
    labels = fit_labels(data, column)
    ViTConfig(**labels.config()).save_pretrained(tmp_path)
    assert Labels.of(ViTConfig.from_pretrained(tmp_path)) == labels


@pytest.mark.parametrize(
    ("label", "task", "message"),
    [
        ("region", None, "no column region; the columns are one, words, none, lists"),
        ("one", None, "expected two classes or more in 3 training images: x"),
        ("none", None, "expected two classes or more in 3 training images: no label"),
        ("words,one", None, "column words: expected yes, true, 1, no, false, 0, unsure or nothing, found 'a'"),
        ("words", "regression", "column words: expected numbers to predict, found 'a'"),
        ("words", "multi_label_classification", "expected lists of names"),
        ("words,one", "single_label_classification", "several columns make a multi-label task"),
        ("lists", None, "no training image has the label"),
        ("lists", "single_label_classification", "column lists: expected one class per image, found the list"),
        ("all,some", None, "every training image has the label all"),
        ("vectors", None, r"column vectors: expected lists of names, found the vector \[0, 1, 0\]: give a yes-no"),
        ("texts", None, r"column texts holds lists as texts, such as \['a', 'b'\]: write them as lists"),
        ("day", None, "column day: expected texts, truth values, numbers or lists of names, found a date"),
        ("far", "regression", "column far: expected numbers to predict, found inf"),
    ],
)
def test_what_cannot_be_learned_is_refused(label, task, message):
    data = rows(one=["x", "x", "x"], words=["a", "b", "c"], none=[None, None, ""], lists=[[], [], None])
    more = {"all": [1, 1, 1], "some": [0, 1, 1], "vectors": [[0, 1, 0], [1, 0, 0], None], "far": [1.5, np.inf, 2.0]}
    more |= {"texts": ["['a', 'b']", "[]", None]}
    for name, values in (more | {"day": [date(2020, 1, day) for day in (1, 2, 3)]}).items():
        data = data.add_column(name, values)
    with pytest.raises(ValueError, match=message):
        fit_labels(data, label, task)
