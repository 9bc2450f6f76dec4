"""Honest splits: a patient is in one split only, rare labels are in every split, label fractions keep patients whole.

Everything is a pure function of arrays with one entry per image, and of a seed. Missing labels are None, NaN, "" or a
negative integer.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from hf_radmae.metrics.bootstrap import is_missing

FRACTIONS = {"train": 0.80, "validation": 0.05, "test": 0.15}


def split_by_patient(
    patients: ArrayLike,
    labels: ArrayLike | None = None,
    fractions: Mapping[str, float] = FRACTIONS,
    seed: int = 42,
) -> np.ndarray:
    """Deal the patients to the splits, stratified on each patient's rarest label.

    A label is as rare as the number of patients that have it. Patients are put in order of their rarest label, at
    random within one, and dealt in even proportions along that order, so that each label with `m` patients has within
    two of `m * fraction` in every split. The result depends on the patients, labels and seed, not on the rows' order.

    Args:
        patients: (images,), any sortable key.
        labels: (images,) or (images, kinds): values of one or several kinds of label.
        fractions: name of the split -> share of the patients; the shares must sum to 1.
        seed: of the order within a label.

    Returns:
        (images,) array of split names.

    Raises:
        ValueError: shares that are no shares, arrays of different lengths, or fewer patients than splits.
    """
    shares = np.array([*fractions.values()], float)
    if (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(f"fractions {dict(fractions)}: expected positive shares that sum to 1")
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    count = int(patient.max(initial=-1)) + 1
    if count < len(shares):
        raise ValueError(f"{count} patients cannot fill {len(shares)} splits ({', '.join(fractions)}); add patients")
    stratum = np.zeros(count, np.int64) if labels is None else _rarest_label(patient, count, labels)
    order = np.lexsort((np.random.default_rng(seed).permutation(count), stratum))
    sizes = _sizes(count, shares)
    # The k-th patient of a split of n stands at (k + 1/2) / n of the whole order: every stretch of it is dealt evenly.
    places = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes])
    dealt = np.repeat(np.arange(len(sizes)), sizes)[np.argsort(places, kind="stable")]
    split = np.empty(count, np.int64)
    split[order] = dealt
    return np.array([*fractions])[split[patient]]


def audit_splits(patients: ArrayLike, splits: ArrayLike) -> dict[str, dict[str, int]]:
    """Prove that no patient is in two splits.

    Args:
        patients: (images,) keys of patients.
        splits: (images,) names of splits.

    Returns:
        split -> {"images": ..., "patients": ...}.

    Raises:
        ValueError: patients in several splits, with their number and the rows of the first of them.
    """
    patients, splits = np.asarray(patients), np.asarray(splits)
    if patients.shape != splits.shape:
        raise ValueError(f"{patients.shape} patients but {splits.shape} splits: expected one of each per image")
    _, patient = np.unique(patients, return_inverse=True)
    names, split = np.unique(splits, return_inverse=True)
    pairs = np.unique(patient * len(names) + split)
    leaking, times = np.unique(pairs // len(names), return_counts=True)
    if (times > 1).any():
        rows = np.flatnonzero(patient == leaking[times > 1][0])
        found = ", ".join(f"row {row} in {splits[row]}" for row in rows[:5])
        raise ValueError(
            f"{(times > 1).sum()} patients are in more than one split, the first with {found}; split again"
        )
    return {
        str(name): {"images": int((split == index).sum()), "patients": int((pairs % len(names) == index).sum())}
        for index, name in enumerate(names)
    }


def label_fraction(
    labels: ArrayLike, patients: ArrayLike, fraction: float, seed: int, balanced: bool = False
) -> np.ndarray:
    """Draw the training images whose labels are used: whole patients, about a fraction of the labelled images.

    The plain draw takes patients at random until the fraction is reached, and may miss a class. The balanced draw goes
    through the classes, rarest first, and takes patients at random until each has its equal part; a class with fewer
    images gives all that it has, and the other images of a patient come along.

    Args:
        labels: (images,), of the training split only.
        patients: (images,), any sortable key.
        fraction: share of the labelled images, in (0, 1].
        seed: of the draw; the same for every model that is compared.
        balanced: equal numbers per class in place of the natural ones.

    Returns:
        Sorted indices of the drawn images; all have a label.

    Raises:
        ValueError: a fraction outside of (0, 1], no labels at all, a balanced draw without some classes, with their
            list, or a plain one of a single class.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction {fraction}: expected more than 0 and at most 1")
    classes, label = _codes(labels)
    rows = np.flatnonzero(label >= 0)
    if not len(rows):
        raise ValueError("no image has a label; give a column with labels")
    _, patient = np.unique(np.asarray(patients)[rows], return_inverse=True)
    counts = np.zeros((patient.max() + 1, len(classes)), np.int64)
    np.add.at(counts, (patient, label[rows]), 1)
    wanted = fraction * len(rows)
    random = np.random.default_rng(seed)
    chosen = _balanced(counts, wanted, random) if balanced else _plain(counts, wanted, random)
    drawn_counts = counts[chosen].sum(0)
    if not balanced and (drawn_counts > 0).sum() > 1:
        return rows[chosen[patient]]
    if empty := [
        f"{name} ({total} of {len(rows)} images)"
        for name, total, drawn in zip(classes, counts.sum(0), drawn_counts, strict=True)
        if not drawn
    ]:
        raise ValueError(
            f"{fraction:.2%} of {len(rows)} labelled images leave {len(empty)} of {len(classes)} classes empty: "
            f"{', '.join(empty)}; use balanced=True, a larger fraction, or drop these classes"
        )
    return rows[chosen[patient]]


def _plain(counts: np.ndarray, wanted: float, random: np.random.Generator) -> np.ndarray:
    """Choose patients (bool) at random up to the wanted number of images."""
    order = random.permutation(len(counts))
    total = np.cumsum(counts.sum(1)[order])
    chosen = np.zeros(len(counts), bool)
    chosen[order[: int(np.argmin(np.abs(total - wanted))) + 1]] = True
    return chosen


def _balanced(counts: np.ndarray, wanted: float, random: np.random.Generator) -> np.ndarray:
    """Choose patients (bool) until each class, rarest first, has its equal part of the wanted number of images."""
    part = round(wanted / counts.shape[1])
    chosen = np.zeros(len(counts), bool)
    for label in np.argsort(counts.sum(0), kind="stable"):
        candidates = random.permutation(np.flatnonzero((counts[:, label] > 0) & ~chosen))
        lacking = part - counts[chosen, label].sum()
        before = np.cumsum(counts[candidates, label]) - counts[candidates, label]
        chosen[candidates[before < lacking]] = True
    return chosen


def _rarest_label(patient: np.ndarray, count: int, labels: ArrayLike) -> np.ndarray:
    """Return for each patient the rank of its rarest label, 0 the rarest of all; patients without labels come last."""
    columns = np.asarray(labels)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if len(columns) != len(patient):
        raise ValueError(f"{len(patient)} patients but {len(columns)} labels: expected one of each per image")
    coded = [_codes(column) for column in columns.T]
    starts = np.cumsum([0, *(len(classes) for classes, _ in coded)])
    total = starts[-1]
    pairs = [(patient * total + start + codes)[codes >= 0] for start, (_, codes) in zip(starts, coded, strict=False)]
    owner, label = np.divmod(np.unique(np.concatenate(pairs)), max(total, 1))
    rank = np.empty(total, np.int64)
    rank[np.argsort(np.bincount(label, minlength=total), kind="stable")] = np.arange(total)
    rarest = np.full(count, total, np.int64)
    np.minimum.at(rarest, owner, rank[label])
    return rarest


def _codes(labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes in order and, for each label, the index of its class, -1 where it is missing."""
    values = np.asarray(labels)
    missing = is_missing(values)
    codes = np.full(len(values), -1, np.int64)
    classes, codes[~missing] = np.unique(values[~missing], return_inverse=True)
    return classes, codes


def _sizes(count: int, shares: np.ndarray) -> np.ndarray:
    """Return whole numbers of patients by the largest remainders, at least one for each split."""
    sizes = np.floor(count * shares).astype(np.int64)
    sizes[np.argsort(sizes - count * shares, kind="stable")[: count - sizes.sum()]] += 1
    while (sizes == 0).any():
        sizes[np.argmin(sizes)] += 1
        sizes[np.argmax(sizes)] -= 1
    return sizes
