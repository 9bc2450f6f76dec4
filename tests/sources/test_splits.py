"""Splits and label fractions: patients whole, labels in proportion, repeatable, refused where they cannot be honest."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_radmae.sources.splits import FRACTIONS, audit_splits, label_fraction, split_by_patient


def archive(seed: int, images: int, patients: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return patient keys and labels of an archive in which a patient has one or two of very unequal classes."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(classes, 0.5))
    own = random.choice(classes, (patients, 2), p=shares)
    patient = random.integers(0, patients, images)
    return np.char.add("P", patient.astype(str)), own[patient, random.integers(0, 2, images)]


archives = st.builds(archive, st.integers(0, 2**32), st.integers(200, 2000), st.integers(100, 400), st.integers(1, 14))


@settings(max_examples=60, deadline=None)
@given(archives, st.integers(0, 100))
def test_no_patient_is_in_two_splits_and_every_image_is_in_one(data, seed):
    patients, labels = data
    splits = split_by_patient(patients, labels, seed=seed)
    report = audit_splits(patients, splits)
    assert set(report) == set(FRACTIONS) and sum(part["images"] for part in report.values()) == len(patients)
    assert sum(part["patients"] for part in report.values()) == len(set(patients))


@settings(max_examples=60, deadline=None)
@given(archives, st.integers(0, 100))
def test_each_stretch_of_equal_rarest_label_is_dealt_in_proportion_within_two_patients(data, seed):
    patients, labels = data
    splits = split_by_patient(patients, labels, seed=seed)
    keys, first = np.unique(patients, return_index=True)
    owned = {key: set(labels[patients == key].tolist()) for key in keys}
    popularity = {label: sum(label in own for own in owned.values()) for label in set(labels.tolist())}
    order = sorted(popularity, key=lambda label: (popularity[label], label))
    rarest = np.array([min(order.index(label) for label in owned[key]) for key in keys])
    for stratum in set(rarest):
        members = splits[first][rarest == stratum]
        for name, share in FRACTIONS.items():
            assert abs((members == name).sum() - share * len(members)) < 2


@settings(max_examples=40, deadline=None)
@given(archives, st.integers(0, 100), st.randoms(use_true_random=False))
def test_the_split_depends_on_the_seed_and_not_on_the_order_of_the_rows(data, seed, random):
    patients, labels = data
    shuffled = list(range(len(patients)))
    random.shuffle(shuffled)
    splits = split_by_patient(patients, labels, seed=seed)
    np.testing.assert_array_equal(split_by_patient(patients[shuffled], labels[shuffled], seed=seed), splits[shuffled])
    assert (split_by_patient(patients, labels, seed=seed + 1) != splits).any()


def test_a_label_that_few_patients_have_is_in_every_split_whatever_else_they_have():
    """20 of 10,000 patients have a fracture, and all of them have the commonest body part too."""
    patients = np.repeat(np.arange(10_000), 2)
    fracture = np.where(patients < 20, 1, -1)
    labels = np.stack([np.tile(["chest", "hand"], 10_000), fracture.astype(str)], 1)
    splits = split_by_patient(patients, labels)
    counts = [(splits[fracture == 1] == name).sum() // 2 for name in FRACTIONS]
    np.testing.assert_allclose(counts, [16, 1, 3], atol=1)


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_missing_labels_are_no_class(missing):
    labels = np.array(["a", missing, "b", missing] * 100, object)
    drawn = label_fraction(labels, np.arange(400), 0.2, seed=0)
    assert set(labels[drawn]) == {"a", "b"}
    split_by_patient(np.arange(400), labels)


def test_a_leak_is_found_and_named_by_its_rows():
    patients = np.array(["x", "y", "x", "z"])
    with pytest.raises(
        ValueError, match="1 patients are in more than one split, the first with row 0 in train, row 2 in"
    ):
        audit_splits(patients, np.array(["train", "train", "test", "test"]))


@settings(max_examples=80, deadline=None)
@given(archives, st.floats(0.05, 1), st.integers(0, 100), st.booleans())
def test_a_fraction_keeps_patients_whole_and_a_balanced_one_holds_every_class(data, fraction, seed, balanced):
    patients, labels = data
    try:
        drawn = label_fraction(labels, patients, fraction, seed, balanced)
    except ValueError as error:
        assert "classes empty" in str(error) and "use balanced=True" in str(error)
        assume(False)
    np.testing.assert_array_equal(drawn, np.flatnonzero(np.isin(patients, patients[drawn])))
    assert set(labels[drawn]) == set(labels) if balanced else len(set(labels[drawn])) >= min(2, len(set(labels)))
    np.testing.assert_array_equal(label_fraction(labels, patients, fraction, seed, balanced), drawn)
    if not balanced:
        largest = np.unique(patients, return_counts=True)[1].max()
        assert abs(len(drawn) - fraction * len(labels)) <= largest / 2


def test_the_balanced_draw_gives_each_class_its_part_or_all_that_it_has():
    labels = np.repeat(["many", "some", "few"], [900, 90, 10])
    drawn = label_fraction(labels, np.arange(1000), 0.1, seed=1, balanced=True)
    counts = dict(zip(*np.unique(labels[drawn], return_counts=True), strict=True))
    assert counts == {"many": 33, "some": 33, "few": 10}


def test_a_draw_that_cannot_hold_every_class_is_refused_with_the_list():
    labels = np.repeat(np.arange(50), 10)
    with pytest.raises(
        ValueError, match=r"1.00% of 500 labelled images leave 50 of 50 classes empty: .*\(10 of 500 images\)"
    ):
        label_fraction(labels, np.arange(500), 0.01, seed=0, balanced=True)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: split_by_patient([1, 2], fractions={"train": 0.5, "test": 0.6}),
            "expected positive shares that sum to 1",
        ),
        (lambda: split_by_patient(["a", "a", "b"]), r"2 patients cannot fill 3 splits \(train, validation, test\)"),
        (lambda: split_by_patient([1, 2, 3], [0, 1]), "3 patients but 2 labels: expected one of each per image"),
        (lambda: audit_splits([1, 2, 3], ["train"]), "patients but .* splits: expected one of each per image"),
        (lambda: label_fraction([0, 1], [0, 1], 1.5, seed=0), "fraction 1.5: expected more than 0 and at most 1"),
        (lambda: label_fraction([None, None], [0, 1], 0.5, seed=0), "no image has a label; give a column with labels"),
    ],
)
def test_what_cannot_be_split_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
