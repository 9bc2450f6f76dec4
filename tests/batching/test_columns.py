"""Columns come from Arrow in the order of the rows."""

import tracemalloc

import datasets
import numpy as np
import pyarrow as pa
import pytest

from hf_radmae.batching.bucketing import bucketed
from hf_radmae.batching.columns import arrow_column, numbers, viewed_rows

ROWS = 1000
DATA = datasets.Dataset.from_dict({"a": list(range(ROWS)), "box": [[i, i + 1] for i in range(ROWS)], "s": ["x"] * ROWS})


@pytest.mark.parametrize(
    "rows",
    [
        DATA,
        DATA.select(range(10, 900)),
        DATA.select(np.random.default_rng(0).permutation(ROWS)),
        DATA.shuffle(seed=1).select(range(5, 500)).filter(lambda a: a % 3 == 0, input_columns="a"),
        DATA.select([3, 3, 1]).flatten_indices(),
        datasets.concatenate_datasets([DATA.select(range(9, 0, -1)), DATA.shuffle(seed=2)]),
        DATA.select([]),
    ],
)
def test_columns_are_those_of_the_rows_whatever_was_selected(rows):
    assert numbers(rows, "a").tolist() == list(rows["a"])
    assert numbers(rows, "box").tolist() == list(rows["box"])
    assert arrow_column(rows, "s").to_pylist() == list(rows["s"])


@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary()])
def test_rows_with_views_are_those_with_copies_whatever_part_of_a_table_they_are(binary):
    contents = [b"one", None, b"", b"two" * 9, None, b"three"]
    images = [{"bytes": content, "path": f"{row}" if row % 2 else None} for row, content in enumerate(contents)]
    kind = pa.struct([("bytes", binary), ("path", pa.string())])
    table = pa.table({"image": pa.array([*images, None], kind), "image_id": [*"abcdef", None]})
    copies = [*table.to_pylist()[:-1], {"image": {"bytes": None, "path": None}, "image_id": None}]
    for start in range(8):
        for count in range(8 - start):
            assert viewed_rows(table.slice(start, count)) == copies[start : start + count]
    assert viewed_rows(pa.concat_tables([table.slice(2, 3), table.slice(1)])) == copies[2:5] + copies[1:]


def test_missing_numbers_and_ragged_lists_are_named():
    with pytest.raises(ValueError, match="column a: 1 of 2 values are missing"):
        numbers(datasets.Dataset.from_dict({"a": [1, None]}), "a")
    with pytest.raises(ValueError, match="column b: expected lists of one length in 2 rows, found 3"):
        numbers(datasets.Dataset.from_dict({"b": [[1], [1, 2]]}), "b")


def test_a_column_takes_no_python_object_a_row():
    many = datasets.Dataset.from_dict({"a": np.arange(200_000)}).select(np.arange(199_999, -1, -1))
    tracemalloc.start()
    found = numbers(many, "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0] == 199_999
    assert peak < 30 * len(many)  # an integer object and its place in a list take 40 bytes


def test_no_bin_has_fewer_training_images_than_a_batch():
    """Evaluation images fill no batch of the training."""
    rng = np.random.default_rng(0)
    sizes = {"train": (120, 100), "validation": (40, 300), "test": (300, 40)}

    def rows(height: int, width: int) -> datasets.Dataset:
        heights = (height * rng.uniform(0.8, 1.2, 60)).astype(int)
        return datasets.Dataset.from_dict({"image": [None] * 60, "height": heights, "width": [width] * 60})

    parts = {split: rows(*size) for split, size in sizes.items()}
    data = bucketed(parts, patch_size=8, max_tokens=100, batch_size=16, num_bins=8, background="keep")
    counts = np.bincount(data.train.bin_ids, minlength=len(data.bins))
    assert counts.min() >= 16
    assert all((part.bin_ids >= 0).all() for part in data.parts.values())
