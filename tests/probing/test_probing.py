"""Probes agree with scikit-learn's and torch's on the same problem, and features are those of each image alone."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from transformers import ViTMAEModel, ViTModel

from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.probing import (
    extract_features,
    fold_into_linear,
    linear,
    linear_probe,
    multilabel_probe,
    predict_by_attention,
    predict_by_neighbours,
    probe_table,
    train_linear_probes,
)

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
    features = extract_features(model, batches(), grid=3)
    assert features.rows.tolist() == [0, 1, 2, 3, 4, 5]
    alone = {}
    for batch in batches():
        for i, row in enumerate(batch["index"].tolist()):
            single = {name: value[i : i + 1] for name, value in batch.items()}
            alone[row] = extract_features(model, [single], grid=3)
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
    options = {"cache_dir": tmp_path, "poolings": ("cls", "mean"), "grid": 2}
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


def test_feature_mistakes_are_named(model, tmp_path):
    with pytest.raises(ValueError, match="unknown pooling 'median': choose from cls, mean, max"):
        extract_features(model, batches(), poolings=("median",))
    with pytest.raises(ValueError, match="cache_dir needs data_fingerprint"):
        extract_features(model, batches(), cache_dir=tmp_path)
    with pytest.raises(ValueError, match="no 'index'"):
        extract_features(model, [{"pixel_values": torch.rand(1, 1, 16, 16)}])


# Linear probe by one solve


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("names", [None, np.array(["chest", "foot", "hand", "spine"])])
def test_the_solve_agrees_with_scikit_learn_for_every_penalty_and_draw(names, class_weights):
    features, labels = task()
    labels = labels if names is None else names[labels]
    rng = np.random.default_rng(0)
    draws = [np.arange(300), *(rng.choice(300, size, replace=False) for size in (15, 18, 40, 120))]
    for penalty in (1e-3, 1e-2, 1.0):
        options = {"penalties": [penalty], "class_weights": class_weights}
        probe = linear_probe(features, labels, draws=draws, tolerance=1e-6, **options)
        for draw, logits in zip(draws, probe.logits(features), strict=True):
            mean, std = features[draw].mean(0), np.sqrt(features[draw].var(0) + 1e-6)
            weighted = None if class_weights == "none" else class_weights
            strength = {"C": 1 / (penalty * len(draw)), "class_weight": weighted}
            reference = LogisticRegression(**strength, tol=1e-8, max_iter=10_000)
            reference.fit((features[draw] - mean) / std, labels[draw])
            expected = reference.predict_proba((features - mean) / std)
            np.testing.assert_allclose(probabilities(logits), expected, atol=5e-3)


def test_solving_together_equals_solving_alone():
    """Draws are padded and stacked, penalties run side by side: none of it changes a head."""
    features, labels = task(width=60)
    validation = task(seed=1, width=60)
    draws = [np.arange(0, 300, step) for step in (1, 7, 6, 5, 1)]
    together = linear_probe(features, labels, validation, draws, penalties=(1.0, 0.1, 0.01))
    for i, draw in enumerate(draws):
        alone = linear_probe(features[draw], labels[draw], validation, penalties=(1.0, 0.1, 0.01))
        assert together.chosen[i] == alone.chosen[0]
        np.testing.assert_allclose(together.logits(features)[i], alone.logits(features)[0], atol=2e-2)


@pytest.mark.parametrize("width", [15, 400])
def test_the_eigenbasis_does_not_change_the_solution(monkeypatch, width):
    features, labels = task(width=width)
    rotated = linear_probe(features, labels, penalties=[0.01]).logits(features)
    monkeypatch.setattr(linear, "MAX_ROTATION", 1)
    np.testing.assert_allclose(
        probabilities(linear_probe(features, labels, penalties=[0.01]).logits(features)),
        probabilities(rotated),
        atol=2e-3,
    )


@pytest.mark.parametrize("criterion", ["accuracy", "balanced_accuracy"])
@pytest.mark.parametrize("probe", [linear_probe, train_linear_probes])
def test_the_best_setting_on_validation_is_chosen_and_returned(probe, criterion):
    features, labels = task(images=80)
    (seen, truth), draws = task(seed=1), [np.arange(80), np.arange(30)]
    truth[:150] = 0  # unlike classes, so that the two criteria differ
    result = probe(features, labels, (seen, truth), draws, criterion=criterion)
    hits = result.predict(seen) == truth
    per_class = np.stack([hits[:, truth == c].mean(1) for c in range(4)])
    expected = hits.mean(1) if criterion == "accuracy" else per_class.mean(0)
    np.testing.assert_allclose(result.scores.max(1), expected, atol=1e-5)
    np.testing.assert_array_equal(result.scores.argmax(1), result.chosen)


def test_folding_standardisation_changes_nothing():
    rng = np.random.default_rng(0)
    features, weight, bias = rng.normal(5, 3, (10, 6)), rng.normal(size=(2, 4, 6)), rng.normal(size=(2, 4))
    mean, std = features.mean(0), features.std(0)
    folded, offset = fold_into_linear(mean, std, weight, bias)
    expected = ((features - mean) / std) @ weight.swapaxes(1, 2) + bias[:, None]
    np.testing.assert_allclose(features @ folded.swapaxes(1, 2) + offset[:, None], expected)


@pytest.mark.parametrize("probe", [linear_probe, train_linear_probes])
@pytest.mark.parametrize("none", [None, -1, -100])
def test_images_without_a_label_are_as_if_they_were_not_there(probe, none, caplog):
    features, labels = task()
    some = labels.astype(object)
    some[::3] = none
    kept = np.flatnonzero(np.arange(300) % 3)
    with caplog.at_level("INFO"):
        probed = probe(features, some if none is None else some.astype(int), task(seed=1))
    assert "100 of 300 images have no label" in caplog.text
    expected = probe(features[kept], labels[kept], task(seed=1))
    np.testing.assert_allclose(probed.logits(features), expected.logits(features), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("probe", [linear_probe, train_linear_probes])
def test_absent_classes(probe):
    """A class that a draw lacks is never predicted; one that training lacks altogether is wrong, not an error; a class
    with one image is learned from that image."""
    features, labels = task()
    labels[labels == 3] = np.where(np.arange((labels == 3).sum()) == 0, 3, 0)  # one image of class 3 is left
    seen, truth = task(seed=1)
    truth[:30] = 9
    draws = [np.flatnonzero(labels != 3), np.arange(300)]
    probed = probe(features, labels, (seen, truth), draws)
    predicted = probed.predict(features)
    assert probed.classes.tolist() == [0, 1, 2, 3]
    assert 3 not in predicted[0] and np.isneginf(probed.bias[0, 3])
    assert np.isfinite(probed.bias[1]).all() and np.isfinite(probed.weight).all()
    assert probed.scores.max() <= 0.9


@pytest.mark.parametrize("probe", [linear_probe, train_linear_probes])
def test_a_draw_of_one_class_is_refused_with_what_it_holds(probe):
    features, labels = task()
    with pytest.raises(ValueError, match=r"draw 1 has fewer than two classes .*\(2: \d+\)"):
        probe(features, labels, task(seed=1), [np.arange(300), np.flatnonzero(labels == 2)])
    with pytest.raises(ValueError, match="rows 0 to 300, but there are 300 images"):
        probe(features, labels, task(seed=1), [np.array([0, 300])])


def test_several_labels_agree_with_scikit_learn_one_against_the_rest():
    """Two classes have twice the weights of one logit: half its penalty. Images that lack a label do not train it."""
    features, labels = task()
    several = np.stack([labels == 0, labels >= 2], axis=1).astype(int)
    several[::7, 1] = -1
    probes = multilabel_probe(features, several, (features, several), penalties=[0.02], tolerance=1e-6)
    for probe, truth in zip(probes, several.T, strict=True):
        known = truth >= 0
        reference = LogisticRegression(C=1 / (0.01 * known.sum()), tol=1e-8, max_iter=10_000)
        mean, std = features[known].mean(0), np.sqrt(features[known].var(0) + 1e-6)
        reference.fit((features[known] - mean) / std, truth[known])
        expected = reference.predict_proba((features - mean) / std)
        np.testing.assert_allclose(probabilities(probe.logits(features)[0]), expected, atol=5e-3)
    with pytest.raises(ValueError, match=r"label 1: draw 0 has fewer than two classes"):
        multilabel_probe(features, several, (features, several), [np.flatnonzero(several[:, 1] != 1)])
    with pytest.raises(ValueError, match=r"expected \(images, labels\) of both"):
        multilabel_probe(features, labels, (features, labels))


def test_the_square_root_of_class_weights_lies_between():
    """Of a rare class, whose images lie among those of a common one, the more is found the more it counts."""
    rng = np.random.default_rng(0)
    labels = (np.arange(1000) < 100).astype(int)
    features = (rng.normal(size=(1000, 3)) + labels[:, None]).astype(np.float32)
    found = [
        linear_probe(features, labels, penalties=[1e-3], class_weights=kind).predict(features).sum()
        for kind in ("none", "sqrt", "balanced")
    ]
    assert found == sorted(set(found))
    with pytest.raises(ValueError, match="class_weights='heavy': expected none, balanced, sqrt"):
        linear_probe(features, labels, penalties=[1e-3], class_weights="heavy")


def test_a_choice_without_validation_is_refused():
    with pytest.raises(ValueError, match="2 penalties, but no validation"):
        linear_probe(*task(), penalties=(1, 2))


# Linear heads by training


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_training_together_equals_torch_adam_one_head_at_a_time(class_weights):
    """Whole-batch Adam from the same start: after each count of epochs the head is torch's, for each rate and draw."""
    features, labels = task(images=60)
    draws, rates = [np.arange(40), np.arange(20, 60)], (0.003, 0.03)
    options = {"learning_rates": rates, "epochs": 1, "batch_size": 64, "class_weights": class_weights}
    probed = train_linear_probes(features, labels, (features, labels), draws, **options)
    for k, draw in enumerate(draws):
        head = torch.nn.Linear(20, 4)
        start = torch.randn(21, 1, 4, generator=torch.Generator().manual_seed(k)) / 100
        with torch.no_grad():
            head.weight.copy_(start[:-1, 0].T)
            head.bias.zero_()
        optimizer = torch.optim.Adam(head.parameters(), lr=rates[probed.chosen[k]])
        mean, std = features[draw].mean(0), np.sqrt(features[draw].var(0) + 1e-6)
        inputs = torch.from_numpy((features - mean) / std)
        weight = None if class_weights == "none" else torch.from_numpy(1 / np.bincount(labels[draw])).float()
        truth = torch.from_numpy(labels[draw])
        torch.nn.functional.cross_entropy(head(inputs[draw]), truth, weight).backward()
        optimizer.step()
        np.testing.assert_allclose(probed.logits(features)[k], head(inputs).detach(), atol=1e-4)


def test_trained_heads_do_not_depend_on_the_heads_beside_them():
    features, labels = task()
    validation, draws = task(seed=1), [np.arange(300), np.arange(0, 300, 10)]
    together = train_linear_probes(features, labels, validation, draws, batch_size=32)
    for rate in (0, 5, 9):
        alone = train_linear_probes(
            features, labels, validation, draws, batch_size=32, learning_rates=[together.settings[rate]]
        )
        np.testing.assert_allclose(together.scores[:, rate], alone.scores[:, 0], atol=0.01)


def test_trained_heads_stop_after_their_patience():
    """Labels by chance: a head that cannot get better ends with its best epoch, long before the last one."""
    features, labels = task(images=200)
    chance = np.random.default_rng(0).integers(0, 4, 200)
    brief, long = (
        train_linear_probes(features, labels, (features, chance), epochs=epochs, patience=2) for epochs in (60, 5000)
    )
    np.testing.assert_array_equal(brief.weight, long.weight)


def test_equal_draws_are_repetitions_with_other_seeds_and_the_same_seed_repeats():
    features, labels = task()
    first, again = (train_linear_probes(features, labels, task(seed=1), [np.arange(300)] * 2) for _ in range(2))
    np.testing.assert_array_equal(first.weight, again.weight)
    assert not np.allclose(first.weight[0], first.weight[1])


def test_training_reaches_what_the_solve_reaches():
    features, labels = task(images=1000)
    seen, truth = task(seed=1, images=1000)
    solved = linear_probe(features, labels, (seen, truth)).scores.max()
    trained = train_linear_probes(features, labels, (seen, truth)).scores.max()
    assert trained == pytest.approx(solved, abs=0.02)


# Neighbours, attention, table


def test_neighbours_agree_with_scikit_learn():
    features, labels = task()
    queries, draws = task(seed=1)[0], [np.arange(300), np.arange(0, 300, 20)]
    predicted = predict_by_neighbours(features, labels, queries, draws, k=9, chunk=64)
    for draw, found in zip(draws, predicted, strict=True):
        reference = KNeighborsClassifier(9, weights=lambda d: np.exp((1 - d) / 0.07), metric="cosine")
        np.testing.assert_array_equal(found, reference.fit(features[draw], labels[draw]).predict(queries))


def test_attention_finds_the_token_that_the_mean_hides():
    """One token of 16 carries the class, the others noise as strong: the mean's probe fails, attention does not."""

    def images(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 400)
        tokens = rng.normal(size=(400, 16, 8)).astype(np.float32)
        tokens[:, :, 0] = 0
        tokens[np.arange(400), rng.integers(0, 16, 400), :2] = np.stack([np.full(400, 4), 2.0 * labels - 1], 1)
        return tokens, labels

    (train, labels), validation, (test, truth) = images(0), images(1), images(2)
    draws = [np.arange(400), np.arange(100)]
    attended = predict_by_attention(train, labels, validation, test, draws, learning_rates=(0.01,), epochs=30)
    mean = linear_probe(train.mean(1), labels, (validation[0].mean(1), validation[1])).predict(test.mean(1))
    assert (attended[0] == truth).mean() > 0.9 > 0.8 > (mean[0] == truth).mean()
    assert attended.shape == (2, 400)
    again = predict_by_attention(train, labels, validation, test, draws[1:], learning_rates=(0.01,), epochs=2)
    assert again.shape == (1, 400)


def test_table_has_each_model_beside_the_majority_and_a_paired_difference():
    splits = {"train": task(), "validation": task(seed=1), "test": task(seed=2)}
    labels = {name: np.array(list("abcd"), dtype=object)[part[1]] for name, part in splits.items()}
    labels["train"][2], labels["test"][7] = None, None
    features = {
        "pre-trained": {name: part[0] for name, part in splits.items()},
        "untrained": {name: part[0][:, :3] for name, part in splits.items()},
    }
    draws = {"all": [np.arange(300)], "10 %": [np.arange(i, 300, 10) for i in range(5)]}
    rows = probe_table(features, labels, draws, patients=np.arange(300) // 2, n=200)
    names = ["majority class", "pre-trained", "untrained", "pre-trained - untrained"]
    assert [(row["labels"], row["model"]) for row in rows] == [(share, name) for share in draws for name in names]
    assert [row["images"] for row in rows if row["model"] == "untrained"] == [299, 29.8]
    for share in (rows[:4], rows[4:]):
        majority, trained, untrained, difference = (row["balanced_accuracy"] for row in share)
        assert majority == 0.25 and difference == pytest.approx(trained - untrained)
        assert share[3]["balanced_accuracy_low"] > 0, "twenty features tell more than three"
        assert all(row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in share)
    twice = dict.fromkeys(("pre-trained", "untrained"), features["untrained"])
    same = probe_table(twice, labels, {"all": draws["all"]}, n=50)[-1]
    assert same["accuracy_low"] == same["accuracy_high"] == 0
    with pytest.raises(ValueError, match="no features of pre-trained for the difference, only of mine"):
        probe_table({"mine": features["untrained"], "untrained": features["untrained"]}, labels, draws)
