"""Scores agree with scikit-learn's, intervals with a plain loop over patients, the IRMA error with its definition."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from hf_radmae import metrics
from hf_radmae.metrics.bootstrap import drop_missing, is_missing, patient_weights
from hf_radmae.metrics.irma_error import axis_error


def labels(seed: int, images: int = 60, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted labels; the predicted ones are right half of the time, one class may be in either alone."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes - 1, images)
    return true, np.where(rng.random(images) < 0.5, true, rng.integers(1, classes, images))


@pytest.mark.parametrize("names", [None, np.array(["hand", "foot", "chest", "pelvis", "spine"])])
@pytest.mark.parametrize("seed", range(5))
def test_label_scores_agree_with_scikit_learn(seed, names):
    numbers = labels(seed)
    true, predicted = numbers if names is None else (names[part] for part in numbers)
    assert metrics.accuracy(true, predicted)[0] == pytest.approx((true == predicted).mean())
    assert metrics.macro_f1(true, predicted)[0] == pytest.approx(reference.f1_score(true, predicted, average="macro"))
    present = np.unique(true)
    recall = reference.recall_score(true, predicted, labels=present, average=None)
    assert metrics.balanced_accuracy(true, predicted)[0] == pytest.approx(recall.mean())
    expected = reference.precision_recall_fscore_support(true, predicted, zero_division=np.nan)
    np.testing.assert_allclose(metrics.per_class(true, predicted)[0], expected, rtol=1e-6)
    matrix = reference.confusion_matrix(*numbers, labels=range(5))
    np.testing.assert_array_equal(metrics.confusion_matrix(*numbers, 5), matrix)


@given(seed=st.integers(0, 10_000), levels=st.integers(2, 50))
@settings(max_examples=25, deadline=None)
def test_auroc_agrees_with_scikit_learn_with_ties(seed, levels):
    rng = np.random.default_rng(seed)
    true = np.concatenate([np.arange(4), rng.integers(0, 4, 40)])
    scores = rng.integers(1, levels, (44, 4)).astype(float)
    scores /= scores.sum(1, keepdims=True)
    assert metrics.auroc(true, scores)[0] == pytest.approx(
        reference.roc_auc_score(true, scores, multi_class="ovr", average="macro")
    )
    assert metrics.auroc(true > 1, scores[:, 0])[0] == pytest.approx(reference.roc_auc_score(true > 1, scores[:, 0]))


@given(seed=st.integers(0, 10_000), levels=st.integers(2, 50))
@settings(max_examples=25, deadline=None)
def test_scores_of_thresholds_agree_with_scikit_learn_with_ties(seed, levels):
    rng = np.random.default_rng(seed)
    true = np.concatenate([np.arange(2), rng.integers(0, 2, 40)])
    score = rng.integers(0, levels, 42) / levels
    both = np.stack([1 - score, score], 1)
    for given_scores in (score, both):
        assert metrics.average_precision(true, given_scores)[0] == pytest.approx(
            reference.average_precision_score(true, score)
        )
        wrong, right, _ = reference.roc_curve(true, score, drop_intermediate=False)
        assert metrics.sensitivity_at_specificity(true, given_scores)[0] == pytest.approx(
            right[wrong <= 0.1 + 1e-9].max()
        )
    assert metrics.brier(true, both)[0] == pytest.approx(2 * reference.brier_score_loss(true, score))


def test_scores_of_numbers_agree_with_scikit_learn_and_weights_equal_repeated_images():
    rng = np.random.default_rng(0)
    true, predicted, counts = rng.normal(size=40), rng.normal(size=40), rng.integers(0, 3, (4, 40))
    pairs = ((metrics.mean_absolute_error, reference.mean_absolute_error), (metrics.r2, reference.r2_score))
    for metric, known in pairs:
        assert metric(true, predicted)[0] == pytest.approx(known(true, predicted))
        expected = [known(np.repeat(true, row), np.repeat(predicted, row)) for row in counts]
        np.testing.assert_allclose(metric(true, predicted, counts.astype(np.float32)), expected)


def test_numbers_that_are_all_equal_have_no_r2():
    for value in (0.0, 0.1, -1e9 / 3):
        assert np.isnan(metrics.r2(np.full(7, value), np.arange(7.0))).all()
    found = metrics.bootstrap_interval(metrics.r2, np.array([-1.5, -1.5, 2.5]), np.array([-1.0, -2.0, 2.0]), n=200)
    assert found.value == pytest.approx(1 - 0.75 / (32 / 3)) and np.isfinite(found).all()


@pytest.mark.parametrize("missing", [np.nan, -1.0])
def test_a_mean_over_labels_takes_each_where_it_is_known(missing):
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 2, (40, 3)).astype(float), rng.random((40, 3))
    truth[:10, 0] = truth[:, 1] = missing
    truth[:5, 1] = 1  # of one answer alone there is nothing to score
    decided, known = (scores >= 0.5).astype(int), truth >= 0
    areas = [reference.roc_auc_score(truth[known[:, i], i], scores[known[:, i], i]) for i in (0, 2)]
    assert metrics.mean_over_labels(metrics.auroc)(truth, scores)[0] == pytest.approx(np.mean(areas))
    shares = [(truth[known[:, i], i] == decided[known[:, i], i]).mean() for i in (0, 2)]
    assert metrics.mean_over_labels(metrics.accuracy)(truth, decided)[0] == pytest.approx(np.mean(shares))
    assert np.isnan(metrics.mean_over_labels(metrics.accuracy)(np.full_like(truth, missing), decided)).all()
    truth[3] = missing  # an image without any label
    found = metrics.bootstrap_interval(metrics.mean_over_labels(metrics.auroc), truth, scores, n=50)
    assert found.value == metrics.mean_over_labels(metrics.auroc)(truth, scores)[0] and found.low < found.high


def test_reliability_of_probabilities_that_are_the_truth_is_the_diagonal():
    rng = np.random.default_rng(0)
    first = rng.random(20_000)
    scores = np.stack([first, 1 - first], 1)
    bins = metrics.reliability((rng.random(20_000) > first).astype(int), scores)
    assert sum(found["images"] for found in bins) == 20_000
    assert all(found["accuracy"] == pytest.approx(found["confidence"], abs=0.03) for found in bins)


def test_a_score_of_one_class_names_what_there_is():
    with pytest.raises(ValueError, match=r"two classes or more, but the references hold only 1: 3 images"):
        metrics.auroc(np.array([1, 1, 1]), np.array([0.1, 0.2, 0.3]))


@pytest.mark.parametrize(
    "metric",
    [metrics.accuracy, metrics.balanced_accuracy, metrics.macro_f1, metrics.per_class],
)
def test_weights_equal_repeated_images(metric):
    true, predicted = labels(0)
    counts = np.random.default_rng(1).integers(0, 3, (4, len(true)))
    repeated = [np.repeat(np.arange(len(true)), row) for row in counts]
    expected = [metric(true[rows], predicted[rows])[0] for rows in repeated]
    np.testing.assert_allclose(metric(true, predicted, counts.astype(np.float32)), expected, rtol=1e-6)


@pytest.mark.parametrize("metric", [metrics.auroc, metrics.average_precision, metrics.sensitivity_at_specificity])
def test_weights_of_scores_equal_repeated_images(metric):
    true, scores = labels(0)[0] > 1, np.random.default_rng(0).integers(0, 9, 60)
    counts = np.random.default_rng(1).integers(0, 3, (4, 60))
    expected = [metric(np.repeat(true, row), np.repeat(scores, row))[0] for row in counts]
    np.testing.assert_allclose(metric(true, scores, counts.astype(np.float32)), expected)


@pytest.mark.parametrize("labels", [[None, 1, None, 0], [-1, 1, -100, 0], ["", "1", None, "0"]])
def test_images_without_a_label_are_left_out_and_counted(labels):
    predictions = ["0", "1", "0", "1"] if "1" in labels else [0, 1, 0, 1]
    assert len(drop_missing(labels, predictions)[0]) == 2
    assert metrics.bootstrap_interval(metrics.accuracy, labels, predictions).value == 0.5


@pytest.mark.parametrize("labels", [[0.0, np.nan], np.array(["a", None], dtype=object), ["a", ""], [3, -1], [3, -100]])
def test_what_counts_as_no_label(labels):
    assert is_missing(labels).tolist() == [False, True]


def test_no_label_at_all_is_refused():
    with pytest.raises(ValueError, match="none of the 3 images has a label"):
        metrics.bootstrap_interval(metrics.accuracy, [None, -1, -100], [0, 1, 2])


def test_interval_is_that_of_a_loop_over_resampled_patients():
    """With patients of several images the loop that concatenates the images of the drawn patients gives the same."""
    true, predicted = labels(3, images=200)
    patients = np.random.default_rng(0).integers(0, 70, 200)
    interval = metrics.bootstrap_interval(metrics.balanced_accuracy, true, predicted, groups=patients, n=2000, seed=1)
    rng, keys, scores = np.random.default_rng(2), np.unique(patients), []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(patients == key) for key in rng.choice(keys, len(keys))])
        scores.append(metrics.balanced_accuracy(true[rows], predicted[rows])[0])
    assert interval.value == metrics.balanced_accuracy(true, predicted)[0]
    np.testing.assert_allclose(interval[1:], np.quantile(scores, [0.025, 0.975]), atol=0.01)


def test_patients_are_drawn_whole():
    weights = patient_weights(["a", "b", "a", "c", "b"], n=50, seed=0)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_within_their_classes_every_resample_has_as_many_patients_of_each(seed):
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, 30, 60)
    classes = rng.integers(0, 3, 30)[patients]
    weights = patient_weights(patients, 40, seed, classes)
    first = np.unique(patients, return_index=True)[1]
    for value in range(3):
        members = first[classes[first] == value]
        assert (weights[:, members].sum(1) == len(members)).all()


def test_images_of_few_patients_widen_the_interval():
    """200 images of 10 patients, each patient all right or all wrong, say as much as 10 images."""
    patients = np.repeat(np.arange(10), 20)
    right = (patients < 6).astype(int)
    by_patient = metrics.bootstrap_interval(metrics.accuracy, np.ones(200), right, groups=patients)
    by_image = metrics.bootstrap_interval(metrics.accuracy, np.ones(200), right)
    assert by_patient.high - by_patient.low > 3 * (by_image.high - by_image.low)


def test_pairing_narrows_the_interval_of_a_difference():
    """A model that is the other one with five more images right is better for certain, whichever patients are drawn."""
    true, worse = labels(0, images=300)
    better = worse.copy()
    better[np.flatnonzero(worse != true)[:15]] = true[np.flatnonzero(worse != true)[:15]]
    pair = metrics.paired_interval(metrics.accuracy, true, better, worse)
    assert pair.value == pytest.approx(0.05) and pair.low > 0
    alone = metrics.bootstrap_interval(metrics.accuracy, true, better)
    assert pair.high - pair.low < (alone.high - alone.low) / 2
    assert metrics.paired_interval(metrics.accuracy, true, worse, worse) == (0, 0, 0)


def test_draws_that_disagree_widen_the_interval():
    true = np.zeros(1000, dtype=int)
    draws = (np.random.default_rng(0).random((5, 1000)) > np.array([0.2, 0.4, 0.5, 0.6, 0.8])[:, None]).astype(int)
    several = metrics.bootstrap_interval(metrics.accuracy, true, draws, runs=1)
    one = metrics.bootstrap_interval(metrics.accuracy, true, draws[2])
    assert several.value == pytest.approx((draws == 0).mean())
    assert several.high - several.low > 3 * (one.high - one.low)


def test_seeds_that_disagree_widen_the_interval_and_a_pair_may_differ_in_their_number():
    true = np.zeros(1000, dtype=int)
    rng = np.random.default_rng(0)
    seeds = (rng.random((3, 4, 1000)) > np.array([0.3, 0.5, 0.7])[:, None, None]).astype(int)
    several = metrics.bootstrap_interval(metrics.accuracy, true, seeds, runs=2)
    assert several.high - several.low > 0.2
    pair = metrics.paired_interval(metrics.accuracy, true, seeds, seeds[:1], runs=2)
    assert pair.value == pytest.approx((seeds == 0).mean() - (seeds[0] == 0).mean())
    same = metrics.paired_interval(metrics.accuracy, true, seeds, seeds, runs=2)
    assert same == (0, 0, 0), "equal runs get equal resamples"
    with pytest.raises(ValueError, match="a pair needs equal shapes"):
        metrics.paired_interval(metrics.accuracy, true, seeds, seeds[:, :2], runs=2)


def coverage(times: int, draws: int = 1, spread: float = 0.0, clustered: bool = True) -> float:
    """How often a 95 % interval holds the true share of right images: patients of three alike, draws of labels."""
    rng, held = np.random.default_rng(0), 0
    true = NormalDist().cdf(0.8 / np.sqrt(1 + 1 + spread**2))
    for seed in range(times):
        patient, labels = np.repeat(np.arange(80), 3), np.repeat(rng.integers(0, 3, 80), 3)
        harder = rng.normal(size=80)[patient] + spread * rng.normal(size=(draws, 1))
        right = rng.normal(size=(draws, 240)) < 0.8 + harder
        groups = patient if clustered else None
        found = metrics.bootstrap_interval(
            metrics.accuracy, labels, np.where(right, labels, 3), groups=groups, strata=labels, runs=1, n=200, seed=seed
        )
        held += found.low <= true <= found.high
    return held / times


def test_an_interval_holds_the_truth_as_often_as_it_says_where_patients_are_kept_whole():
    assert 0.91 <= coverage(200) <= 0.98
    assert coverage(200, clustered=False) < 0.88, "images of a patient are not independent"


def test_an_interval_over_few_draws_is_a_little_too_narrow():
    assert 0.86 <= coverage(200, draws=5, spread=0.5) <= 0.97


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="3 references, but 2 predictions or groups"):
        metrics.bootstrap_interval(metrics.accuracy, [0, 1, 2], [0, 1])


TWO = ((2, 2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
CODES = ["1121-127-700-500", "1121-120-942-700", "1123-211-520-300", "112d-121-500-000", "1124-410-620-625"]
code = st.sampled_from(CODES)


@pytest.mark.parametrize(
    ("predicted", "error"),
    [
        ("318a", 0.0),
        ("318*", 0.06),
        ("3187", 0.12),
        ("31*a", 0.14),
        ("31**", 0.14),
        ("3177", 0.28),
        ("3***", 0.26),
        ("32**", 0.52),
        ("1000", 1.0),
    ],
)
def test_worked_example(predicted, error):
    """True code 318a, two labels at every position: the positions weigh 1/2, 1/4, 1/6 and 1/8 of 25/24 in all, that is
    0.48, 0.24, 0.16 and 0.12. A `*` at the third and all below it cost (0.16 + 0.12) / 2 = 0.14."""
    assert axis_error("318a", predicted, TWO[0]) == pytest.approx(error)


def test_branching_comes_from_the_tree_below_the_true_path():
    """Codes 11, 12, 13 and 21 (as axis TTTT: 11aa, ...): two labels first, three below 1, then one each. All below the
    first are wrong: (1/6 + 1/3 + 1/4) of (1/2 + 1/6 + 1/3 + 1/4) is 0.6."""
    tree = metrics.CodeTree([f"{t}aa-000-000-000" for t in ("11", "12", "13", "21")])
    assert tree.branching(0, "11aa") == [2, 3, 1, 1]
    assert tree.branching(0, "31aa") == [3, 1, 1, 1], "a label that the tree lacks is one more"
    assert metrics.irma_error("11aa-000-000-000", "12aa-000-000-000", tree) == pytest.approx(0.6 / 4)


@given(true=code)
def test_exact_is_0_unknown_a_half_and_wrong_1(true):
    for tree in (metrics.CodeTree(CODES), metrics.CodeTree(branching=TWO)):
        assert metrics.irma_error(true, true, tree) == 0
        assert metrics.irma_error(true, true.replace("-", ""), tree) == 0
        assert metrics.irma_error(true, "****-***-***-***", tree) == pytest.approx(0.5)
        assert metrics.irma_error(true, "zzzz-zzz-zzz-zzz", tree) == pytest.approx(1)


@given(true=code, predicted=code, axis=st.integers(0, 3), data=st.data())
def test_an_error_is_never_forgiven_deeper_and_early_errors_cost_more(true, predicted, axis, data):
    branching = metrics.CodeTree(CODES).branching(axis, true.split("-")[axis])
    truth = true.split("-")[axis]
    errors, guesses = [], []
    for at in range(len(truth)):
        wrong = truth[:at] + "z" + truth[at + 1 :]
        tail = data.draw(st.text("0123456789abcz*", min_size=len(truth) - at - 1, max_size=len(truth) - at - 1))
        errors.append(axis_error(truth, wrong, branching))
        guesses.append(axis_error(truth, wrong[: at + 1] + tail, branching))
        unsure = axis_error(truth, truth[:at] + "*" + tail, branching)
        assert unsure == pytest.approx(errors[-1] / 2)
    assert guesses == errors, "what follows the first wrong label does not matter"
    assert errors == sorted(errors, reverse=True) and len(set(errors)) == len(errors)


def test_the_mean_error_has_an_interval():
    references, predictions = [*CODES, None], [*CODES[:4], "z" * 13, CODES[0]]
    found = metrics.bootstrap_interval(metrics.IRMAError(codes=CODES), references, predictions, n=200)
    assert found.value == pytest.approx(0.2) and found.low == 0 and 0.4 <= found.high <= 0.8


@pytest.mark.parametrize("bad", ["1121-127-700", "1121-127-700-50A0", "ABCD"])
def test_what_is_no_code_is_refused(bad):
    with pytest.raises(ValueError, match="no IRMA code"):
        metrics.IRMAError(codes=CODES)(CODES[:1], [bad])


def test_a_true_code_with_a_star_and_a_wrong_branching_are_refused():
    with pytest.raises(ValueError, match="cannot be scored"):
        metrics.irma_error("112*-127-700-500", CODES[0], metrics.CodeTree(CODES))
    with pytest.raises(ValueError, match="branching needs counts >= 1"):
        metrics.IRMAError(branching=((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)))
    with pytest.raises(ValueError, match="either the codes"):
        metrics.IRMAError()


def test_the_irma_error_is_an_evaluate_module():
    module = metrics.IRMAError(codes=CODES)
    found = module.compute(predictions=["****-***-***-***", CODES[1]], references=CODES[:2])
    assert found == pytest.approx({"irma_error": 0.5, "mean_irma_error": 0.25, "images": 2})
