"""Probes agree with scikit-learn's and torch's on the same problem, and features are those of each image alone."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rows import make_rows
from sklearn.linear_model import LogisticRegression, Ridge
from transformers import ViTMAEModel, ViTModel

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.dataset import RadiographDataset, sizes_of
from hf_radmae.metrics.classification import brier
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.probing import (
    attentive_probe,
    extract_features,
    fold_into_linear,
    linear_probe,
    propagated_probe,
    searched_probe,
)
from hf_radmae.probing import features as features_module
from hf_radmae.probing.heads import PENALTY, ridge_left_out
from hf_radmae.probing.watch import FeatureWatch, alignment, effective_rank, knn_accuracy

PATCH = 8


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return RadMAEForPreTraining(preset_config("tiny", image_size=32, patch_size=PATCH, hidden_size=32)).eval()


def batches(seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Three batches of two shapes, their rows out of order, one image twice."""
    generator = torch.Generator().manual_seed(seed)
    images = {row: torch.rand(1, *((40, 24) if row % 2 else (32, 48)), generator=generator) for row in range(6)}
    masks = {row: torch.rand(15 if row % 2 else 24, generator=generator) > 0.3 for row in range(6)}
    return [
        {
            "pixel_values": torch.stack([images[row] for row in rows]),
            "patch_mask": torch.stack([masks[row] for row in rows]),
            "index": torch.tensor(rows),
        }
        for rows in ([5, 1], [2, 0, 4], [3, 1])
    ]


def task(seed: int = 0, images: int = 300, width: int = 20, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Features of unlike scale around one centre per class, float32, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    centres = np.random.default_rng(7).normal(size=(classes, width)) * 0.6
    scale = np.random.default_rng(8).uniform(0.1, 10, width)
    return ((centres[labels] + rng.normal(size=(images, width)) + 3) * scale).astype(np.float32), labels


def standardised(features: np.ndarray) -> np.ndarray:
    return (features - features.mean(0)) / np.sqrt(features.var(0) + 1e-6)


def probabilities(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(-1).numpy()


# Features


def test_features_come_once_per_row_in_row_order_whatever_the_batches(model):
    features = extract_features(model, batches())
    assert features.rows.tolist() == [0, 1, 2, 3, 4, 5]
    alone = {}
    for batch in batches():
        for i, row in enumerate(batch["index"].tolist()):
            single = {name: value[i : i + 1] for name, value in batch.items()}
            alone[row] = extract_features(model, [single])
    for pooling, values in features.pooled.items():
        assert values.dtype == np.float32
        expected = np.concatenate([alone[row][pooling] for row in range(6)])
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_features_of_our_model_are_those_of_bare_vit(model, tmp_path):
    model.save_pretrained(tmp_path)
    vit = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False)
    ours, bare = extract_features(model, batches()), extract_features(vit, batches())
    for pooling in ours.pooled:
        np.testing.assert_allclose(ours[pooling], bare[pooling], atol=1e-4)


def test_features_leave_the_model_in_its_mode_without_gradients(model):
    model.train()
    first, second = extract_features(model, batches()), extract_features(model, batches())
    assert model.training and all(p.grad is None for p in model.parameters())
    model.eval()
    np.testing.assert_array_equal(first["mean"], second["mean"])


def test_an_encoder_that_shuffles_is_refused(model):
    with pytest.raises(ValueError, match="masks and shuffles its patches"):
        extract_features(ViTMAEModel(model.config), batches())


def test_cached_features_are_taken_only_for_the_same_weights_and_data(model, tmp_path):
    options = {"cache_dir": tmp_path, "poolings": ("cls", "mean")}
    first = extract_features(model, batches(), data_fingerprint="a", **options)
    again = extract_features(model, [], data_fingerprint="a", **options)  # an empty loader: nothing is computed
    assert again.rows.tolist() == first.rows.tolist()
    np.testing.assert_array_equal(again["mean"], first["mean"])
    with pytest.raises(ValueError, match="the loader gave no batch"):
        extract_features(model, [], data_fingerprint="b", **options)
    model.save_pretrained(tmp_path / "saved")
    loaded = RadMAEForPreTraining.from_pretrained(tmp_path / "saved")
    extract_features(loaded, [], data_fingerprint="a", **options)
    with torch.no_grad():
        loaded.vit.layernorm.bias[0] += 1e-3
    with pytest.raises(ValueError, match="the loader gave no batch"):
        extract_features(loaded, [], data_fingerprint="a", **options)


def test_another_version_of_the_package_encodes_again(model, tmp_path, monkeypatch):
    options = {"cache_dir": tmp_path, "poolings": ["mean"], "data_fingerprint": "a"}
    extract_features(model, batches(), **options)
    monkeypatch.setattr(features_module, "__version__", "99.0")
    with pytest.raises(ValueError, match="the loader gave no batch"):
        extract_features(model, [], **options)
    extract_features(model, batches(), **options)
    extract_features(model, [], **options)


def test_feature_mistakes_are_named(model, tmp_path):
    with pytest.raises(ValueError, match="unknown pooling 'median': choose from cls, mean, max"):
        extract_features(model, batches(), poolings=("median",))
    with pytest.raises(ValueError, match="cache_dir needs data_fingerprint"):
        extract_features(model, batches(), cache_dir=tmp_path)
    with pytest.raises(ValueError, match="no 'index'"):
        extract_features(model, [{"pixel_values": torch.rand(1, 1, 16, 16)}])


# Linear heads


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("width", [20, 200])  # fewer and more than the images of the small draws
@pytest.mark.parametrize("classes", [2, 4])
def test_heads_are_those_of_scikit_learn_on_standardised_features(classes, width, class_weights):
    features, labels = task(width=width, classes=classes)
    names = np.array(["chest", "foot", "hand", "spine"])[labels]
    rng = np.random.default_rng(0)
    draws = [np.arange(300), *(rng.choice(300, size, replace=False) for size in (18, 40))]
    probe = linear_probe(features, names, draws, penalty=0.1, class_weights=class_weights)
    for draw, found in zip(draws, probe.probabilities(features), strict=True):
        mean, std = features[draw].mean(0), np.sqrt(features[draw].var(0) + 1e-6)
        weighted = None if class_weights == "none" else class_weights
        reference = LogisticRegression(C=1 / (0.1 * len(draw)), class_weight=weighted, tol=1e-8, max_iter=10_000)
        reference.fit((features[draw] - mean) / std, names[draw])
        np.testing.assert_allclose(found, reference.predict_proba((features - mean) / std), atol=5e-3)


def test_folding_standardisation_changes_nothing():
    rng = np.random.default_rng(0)
    features, weight, bias = rng.normal(5, 3, (10, 6)), rng.normal(size=(2, 4, 6)), rng.normal(size=(2, 4))
    mean, std = features.mean(0), features.std(0)
    folded, offset = fold_into_linear(mean, std, weight, bias)
    expected = ((features - mean) / std) @ weight.swapaxes(1, 2) + bias[:, None]
    np.testing.assert_allclose(features @ folded.swapaxes(1, 2) + offset[:, None], expected)


@pytest.mark.parametrize("none", [None, -1, -100])
def test_images_without_a_label_are_as_if_they_were_not_there(none, caplog):
    features, labels = task()
    some = labels.astype(object)
    some[::3] = none
    kept = np.flatnonzero(np.arange(300) % 3)
    with caplog.at_level("INFO"):
        probed = linear_probe(features, some if none is None else some.astype(int))
    assert "100 of 300 images have no label" in caplog.text
    expected = linear_probe(features[kept], labels[kept])
    np.testing.assert_allclose(probed.logits(features), expected.logits(features), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("probe", [linear_probe, propagated_probe])
def test_a_class_that_a_draw_lacks_is_never_predicted_and_one_image_is_enough(probe):
    features, labels = task()
    labels[labels == 3] = np.where(np.arange((labels == 3).sum()) == 0, 3, 0)  # one image of class 3 is left
    probed = probe(features, labels, [np.flatnonzero(labels != 3), np.arange(300)])
    assert probed.classes.tolist() == [0, 1, 2, 3]
    assert 3 not in probed.predict(features)[0] and np.isneginf(probed.bias[0, 3])
    assert np.isfinite(probed.bias[1]).all() and np.isfinite(probed.weight).all()


@pytest.mark.parametrize("probe", [linear_probe, propagated_probe])
def test_a_draw_of_one_class_is_refused_with_what_it_holds(probe):
    features, labels = task()
    with pytest.raises(ValueError, match=r"draw 1 has fewer than two classes .*\(2: \d+\)"):
        probe(features, labels, [np.arange(300), np.flatnonzero(labels == 2)])
    with pytest.raises(ValueError, match="rows 0 to 300, but there are 300 images"):
        probe(features, labels, [np.array([0, 300])])


def test_the_square_root_of_class_weights_lies_between():
    """Of a rare class, whose images lie among those of a common one, the more is found the more it counts."""
    rng = np.random.default_rng(0)
    labels = (np.arange(1000) < 100).astype(int)
    features = (rng.normal(size=(1000, 3)) + labels[:, None]).astype(np.float32)
    found = [
        linear_probe(features, labels, penalty=1e-3, class_weights=kind).predict(features).sum()
        for kind in ("none", "sqrt", "balanced")
    ]
    assert found == sorted(set(found))
    with pytest.raises(ValueError, match="class_weights='heavy': expected none, sqrt, balanced"):
        linear_probe(features, labels, class_weights="heavy")


# Labels that are spread


def crescents(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two long clusters side by side, each with its label at one end in the draws: neighbours know, a line cannot."""
    rng = np.random.default_rng(seed)
    along, labels = rng.uniform(-3, 3, 400), np.arange(400) % 2
    points = np.stack([along, np.sin(along) + 4 * labels - 2, np.cos(along)], 1)
    return np.concatenate([points + rng.normal(size=(400, 3)) * 0.1, np.ones((400, 1))], 1).astype(np.float32), labels


def test_the_head_of_a_search_is_that_of_its_best_rate_and_needs_no_class():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    features = (np.eye(5)[truth] * 3 + rng.normal(size=(300, 5)) * [1, 10, 100, 1, 1]).astype(np.float32) + 7
    draws = [np.arange(100), np.flatnonzero(truth[:100] < 2)]
    options = {"validation": (features[100:200], truth[100:200]), "epochs": 20}
    both = searched_probe(features, truth, draws, rates=[1e-7, 3e-2], **options)
    good = searched_probe(features, truth, draws, rates=[3e-2], **options)
    np.testing.assert_array_equal(both.weight, good.weight)
    bad = searched_probe(features, truth, draws, rates=[1e-7], **options)
    right = [(probe.predict(features[200:]) == truth[200:]).mean(1) for probe in (good, bad)]
    solved = linear_probe(features, truth, draws).predict(features[200:]) == truth[200:]
    assert (abs(right[0] - solved.mean(1)) < 0.1).all() and right[1][0] < right[0][0]
    assert set(both.predict(features)[1]) == {0, 1}, "a class that the draw lacks"


def test_labels_spread_along_clusters():
    features, labels = crescents(0)
    far = [np.flatnonzero(labels == 0)[np.argsort(features[labels == 0, 0])[:2]]]
    far += [np.flatnonzero(labels == 1)[np.argsort(-features[labels == 1, 0])[:2]]]
    draws = [np.concatenate(far)]
    spread = propagated_probe(features, labels, draws)
    alone = linear_probe(features, labels, draws)
    test, truth = crescents(1)
    assert (spread.predict(test)[0] == truth).mean() > 0.95 > (alone.predict(test)[0] == truth).mean()


def test_labels_that_are_not_drawn_change_nothing():
    features, labels = task()
    draws = [np.arange(0, 300, 12), np.arange(5, 300, 20)]
    other = labels.copy()
    undrawn = np.setdiff1d(np.arange(300), np.concatenate(draws))
    other[undrawn] = np.random.default_rng(0).permutation(other[undrawn])
    first, second = (propagated_probe(features, found, draws).weight for found in (labels, other))
    np.testing.assert_array_equal(first, second)
    few = propagated_probe(features, labels, draws, unlabelled=np.arange(0))
    assert not np.allclose(few.weight, first), "the other images are what is spread to"


@pytest.mark.parametrize("width", [12, 600])  # fewer and more than the images
@pytest.mark.parametrize(("apart", "each"), [(9, 0), (3, 0), (1, 0), (9, 6), (5, 6)])
def test_the_scale_of_a_propagated_head_makes_probabilities_and_no_other_predictions(width, apart, each):
    """All labels, or a few of each class, of clusters that overlap or not: beside scikit-learn's ridge regression."""
    rng = np.random.default_rng(apart)
    truth = np.arange(1000) % 5
    features = rng.normal(size=(1000, width)).astype(np.float32)
    features[:, :5] += apart * np.eye(5)[truth]
    labels, draw = truth[:400], rng.permutation(400)
    if each:
        draw = np.concatenate([draw[labels[draw] == code][:each] for code in range(5)])
    inputs = features[draw].astype(np.float64)
    ridge = Ridge(PENALTY * len(draw)).fit(standardised(inputs), np.eye(5)[labels[draw]])
    raw = ridge.predict((features[400:] - inputs.mean(0)) / np.sqrt(inputs.var(0) + 1e-6))
    alone = propagated_probe(features[:400], labels, [draw], unlabelled=np.arange(0))
    logits = alone.logits(features[400:])[0]
    clear = np.diff(np.sort(raw, axis=1)[:, -2:])[:, 0] > 1e-3
    np.testing.assert_array_equal(logits.argmax(1)[clear], raw.argmax(1)[clear])
    np.testing.assert_allclose(logits, raw * (logits.std() / raw.std()), rtol=1e-2, atol=1e-2)
    found, truth = propagated_probe(features[:400], labels, [draw]).probabilities(features[400:])[0], truth[400:]
    confidence, right = found.max(1).mean(), (found.argmax(1) == truth).mean()
    assert confidence < right + 0.1, "no more sure than right"
    assert brier(truth, found)[0] < brier(truth, probabilities(raw))[0] or right < 0.3
    if right > 0.99:
        assert brier(truth, found)[0] < 0.03 and brier(truth, probabilities(raw))[0] > 0.3


@pytest.mark.parametrize("width", [4, 40])
def test_what_a_ridge_predicts_without_an_image_is_that_of_a_fit_without_it(width):
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(20, width)), rng.normal(size=(20, 3))
    inputs -= inputs.mean(0)
    weight, bias, left_out = ridge_left_out(inputs, targets, 0.7)
    whole = Ridge(0.7).fit(inputs, targets)
    np.testing.assert_allclose(inputs @ weight + bias, whole.predict(inputs), atol=1e-9)
    for i in range(20):
        other = np.arange(20) != i
        expected = Ridge(0.7).fit(inputs[other], targets[other]).predict(inputs[[i]])[0]
        np.testing.assert_allclose(left_out[i], expected, atol=1e-9)


HEADS = {
    "linear": linear_probe,
    "searched": partial(searched_probe, validation=(np.eye(4, dtype=np.float32), np.arange(4) % 2), rates=[0.1]),
    "propagated": propagated_probe,
    "attentive": partial(attentive_probe, tokens=2, steps=3),
}


@pytest.mark.parametrize("head", HEADS)
def test_rows_that_are_none_or_not_finite_are_refused_by_every_head(head):
    features, labels = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32), np.arange(12) % 2
    features[3, 1] = np.nan
    for draw, message in (
        (np.ones(12, bool), "draw 0 holds bool: expected numbers of rows"),
        ([0.0, 1.0], "draw 0 holds float64"),
        ([0, 12], "draw 0 has rows 0 to 12, but there are 12 images"),
        ([0, 1, 3], "draw 0: 1 images, row 3 first, have features that are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            HEADS[head](features, labels, [draw])
    HEADS[head](
        features, np.where(np.arange(12) == 3, -1, labels), **{"unlabelled": []} if head == "propagated" else {}
    )
    if head == "propagated":
        with pytest.raises(ValueError, match="unlabelled: 1 images, row 3"):
            propagated_probe(features, labels, [np.arange(3)])
    if head == "attentive":
        with pytest.raises(ValueError, match="4 values of an image are not those of 3 tokens"):
            attentive_probe(features, labels, tokens=3)


# Attentive heads


def test_an_attentive_head_finds_the_one_token_that_tells_the_class():
    """Anywhere of 16 tokens; the mean of them hides it. One draw has few labels, one lacks a class."""
    rng = np.random.default_rng(0)
    truth = np.arange(1200) % 3
    tokens = rng.normal(size=(1200, 16, 12))
    tokens[np.arange(1200), rng.integers(0, 16, 1200)] += 7 * np.eye(12)[truth]
    tokens = (tokens * rng.uniform(0.1, 10, 12) + 5).astype(np.float32)
    draws = [np.arange(800), np.arange(36), np.flatnonzero(truth[:800] < 2)]
    flat, labels = tokens.reshape(1200, -1), np.where(np.arange(1200) < 800, truth, -1)
    probe = attentive_probe(flat, labels, draws, tokens=16, steps=200)
    found = probe.probabilities(flat[800:])
    right = found.argmax(2) == truth[800:]
    alone = linear_probe(tokens.mean(1), labels, draws).predict(tokens[800:].mean(1)) == truth[800:]
    assert right[0].mean() > 0.95 and (right.mean(1) > alone.mean(1) + 0.1)[:2].all()
    np.testing.assert_allclose(found.sum(2), 1, atol=1e-5)
    assert (found[2, :, 2] == 0).all() and right[2][truth[800:] < 2].mean() > 0.95
    assert brier(truth[800:], found[0])[0] < 0.1
    again = attentive_probe(flat, labels, draws[:1], tokens=16, steps=200)
    np.testing.assert_array_equal(again.weight, probe.weight[:1])


# What is watched


def test_the_effective_rank_of_equal_directions_is_their_number():
    features = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 8)))[0] + 5
    assert effective_rank(features) == pytest.approx(8, abs=0.2)
    assert effective_rank(np.outer(np.arange(50.0), np.ones(6))) == pytest.approx(1, abs=0.01)


def test_alignment_is_zero_of_equals_and_four_of_opposites():
    features = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    assert alignment(features, 3 * features) == pytest.approx(0, abs=1e-5)
    assert alignment(features, -features) == pytest.approx(4, abs=1e-5)


def test_an_image_is_no_neighbour_of_itself():
    features, labels = np.eye(40, dtype=np.float32), np.arange(40) % 2
    assert knn_accuracy(features, labels, k=39) == 0, "each has one more neighbour of the other class"
    clear, names = task(classes=2, width=200)
    assert knn_accuracy(clear / clear.std(0), names) > 0.9
    assert knn_accuracy(features, [1] * 40) is None


def test_a_column_of_lists_is_watched_like_any_other():
    """Two names in each of them made a table of two columns, and the first evaluation ended the run."""
    rows = make_rows(images=4, columns={"f": [["a", "b"], ["b", "c"], None, ["a", "b"]]})
    data = RadiographDataset(rows, fit_bins(sizes_of(rows), patch_size=8, max_tokens=36, min_images=1))
    labels = FeatureWatch(SimpleNamespace(eval_dataset=data), "f").labels
    assert knn_accuracy(np.array([[1, 0], [0, 1], [5, 5], [1, 0.1]]), labels, k=1) == pytest.approx(2 / 3)
