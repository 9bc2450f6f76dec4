"""The loss of labelled images: a weighted mean that no cut of a batch changes."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_radmae.classification.labels import Labels
from hf_radmae.classification.loss import fit_class_weights, label_weights, summed_loss

CLASSES = Labels(("c",), "single_label_classification", ("a", "b", "c"))
SEVERAL = Labels(("a", "b", "c"), "multi_label_classification", ("a", "b", "c"))


def mean(logits, targets, class_weights=None):
    weights = label_weights(targets, class_weights)
    return summed_loss(logits, targets, weights) / weights.sum()


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(12, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def several() -> torch.Tensor:
    targets = torch.randint(0, 2, (12, 3), generator=torch.Generator().manual_seed(1)).float()
    targets[0, 1] = targets[3] = float("nan")
    return targets


def test_classes_have_torchs_weighted_cross_entropy(logits):
    targets, weights = torch.arange(12) % 3, torch.tensor([0.2, 1.0, 3.0])
    assert mean(logits, targets, weights).item() == pytest.approx(F.cross_entropy(logits, targets, weights).item())


def test_an_image_without_a_label_changes_nothing(logits):
    targets = torch.arange(12) % 3
    targets[5] = -1
    kept = torch.arange(12) != 5
    assert mean(logits, targets).item() == pytest.approx(F.cross_entropy(logits[kept], targets[kept]).item())


def test_several_labels_have_torchs_cross_entropy_over_those_that_are_known(logits, several):
    known = ~several.isnan()
    expected = F.binary_cross_entropy_with_logits(logits[known], several[known])
    assert mean(logits, several).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.5, 2.0, 4.0])])
@pytest.mark.parametrize("pieces", [1, 4, 12])
def test_no_cut_of_a_batch_changes_the_loss(logits, several, pieces, class_weights):
    weights = label_weights(several, class_weights)
    parts = zip(logits.chunk(pieces), several.chunk(pieces), weights.chunk(pieces), strict=True)
    total = sum(summed_loss(*part) for part in parts)
    assert (total / weights.sum()).item() == pytest.approx(mean(logits, several, class_weights).item(), rel=1e-5)


def test_balanced_weights_give_each_class_the_same_say():
    targets = torch.tensor([0] * 6 + [1] * 3 + [-1] * 4)
    weights = fit_class_weights(targets, CLASSES, "balanced")
    assert torch.allclose(weights, torch.tensor([0.75, 1.5, 0.0]))
    assert label_weights(targets, weights)[:6].sum() == label_weights(targets, weights)[6:].sum()
    assert torch.allclose(fit_class_weights(targets, CLASSES, "sqrt"), weights.sqrt())


def test_balanced_weights_give_positive_and_negative_images_of_a_label_the_same_say(several):
    weights = label_weights(several, fit_class_weights(several, SEVERAL, "balanced"))
    for column in range(3):
        positive, negative = (weights[several[:, column] == answer, column].sum().item() for answer in (1, 0))
        assert positive == pytest.approx(negative)


@pytest.mark.parametrize(("kind", "labels"), [("inverse", CLASSES), ("balanced", Labels(("x",), "regression", ("x",)))])
def test_other_weights_are_refused(kind, labels):
    with pytest.raises(ValueError, match="class_weights"):
        fit_class_weights(torch.from_numpy(np.arange(3)), labels, kind)
