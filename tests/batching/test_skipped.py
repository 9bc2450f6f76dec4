"""Every unusable image is listed once, whoever met it and however often, and too many of them end the run."""

import csv
from multiprocessing import get_context

import pytest

from hf_radmae.batching.skipped import SkippedImages, TooManySkippedError, read_skipped, skipped_image, write_skipped


def records(*numbers: int) -> list[dict]:
    return [
        {"split": "train", "index": n, "image": f"scans/{n:03}, left.png", "reason": f'is "damaged", way {n}'}
        for n in numbers
    ]


def images(path) -> list[str]:
    """The image column as any CSV reader sees it."""
    with open(path, newline="", encoding="utf-8") as file:
        return [row["image"] for row in csv.DictReader(file)]


def test_an_image_is_listed_once_and_word_for_word(tmp_path):
    skipped = SkippedImages(tmp_path / "new" / "skipped.csv", total=1000)
    assert (len(skipped), skipped.rows(), skipped.path.exists()) == (0, [], False)
    for batch in ([], records(3), records(1, 3), records(3, 3), records(2)):
        skipped.add(batch)
    assert len(skipped) == 3
    assert skipped.rows() == records(1, 2, 3)
    assert images(skipped.path) == [record["image"] for record in records(3, 1, 2)]


def test_a_resumed_run_goes_on_with_the_list(tmp_path):
    path = tmp_path / "skipped.csv"
    SkippedImages(path, total=1000).add(records(1, 2))
    resumed = SkippedImages(path, total=1000)
    assert len(resumed) == 2
    resumed.add(records(2, 3))
    assert len(resumed) == 3
    assert images(path) == [record["image"] for record in records(1, 2, 3)]


def test_what_the_layout_leaves_out_is_listed_and_does_not_count_as_damage(tmp_path):
    left_out = [skipped_image(f"{n}.png", "is in no metadata file") for n in range(90)]
    for _ in range(2):  # a resumed run reads the list
        skipped = SkippedImages(tmp_path / "skipped.csv", total=100)
        skipped.add([*left_out, *records(1)])
        assert len(skipped) == 91
    with pytest.raises(TooManySkippedError, match="2 of 100"):
        skipped.add(records(2))


def test_a_whole_list_comes_back_as_it_was_written(tmp_path):
    entries = [*records(1, 2), skipped_image("scan\udcfc.png", 'is "odd",\nreally')]
    write_skipped(tmp_path / "list.csv", entries)
    assert read_skipped(tmp_path / "list.csv") == entries
    assert entries[-1]["image"] == r"scan\xfc.png"


def test_a_resumed_run_counts_what_the_list_held(tmp_path):
    path = tmp_path / "skipped.csv"
    SkippedImages(path, total=300).add(records(1, 2, 3))
    with pytest.raises(TooManySkippedError, match="4 of 300"):
        SkippedImages(path, total=300).add(records(4))


def _write(path: str, first: int) -> None:
    skipped = SkippedImages(path, total=100_000)
    for number in range(first, first + 100):
        skipped.add(records(number))


def test_two_processes_write_one_list(tmp_path):
    """Their entries mix, none is torn, and an image that both met, or a second header, counts once."""
    path = tmp_path / "skipped.csv"
    context = get_context("fork")
    processes = [context.Process(target=_write, args=(str(path), first)) for first in (0, 50)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    skipped = SkippedImages(path, total=100_000)
    assert [row["image"] for row in skipped.rows()] == [record["image"] for record in records(*range(150))]
    assert len(skipped) == 150


def test_an_entry_that_was_cut_off_does_not_hinder_the_resumed_run(tmp_path):
    path = tmp_path / "skipped.csv"
    SkippedImages(path, total=1000).add(records(1, 2))
    path.write_bytes(path.read_bytes()[:-1] + b"\n7")
    resumed = SkippedImages(path, total=1000)
    resumed.add(records(2, 3))
    assert {record["image"] for record in records(1, 2, 3)} <= {row["image"] for row in resumed.rows()}


def test_one_clear_error_ends_the_run_past_the_share_and_not_before(tmp_path):
    skipped = SkippedImages(tmp_path / "skipped.csv", total=200, max_share=0.01)
    skipped.add(records(1, 2))
    with pytest.raises(TooManySkippedError) as caught:
        skipped.add(records(3))
    message = str(caught.value)
    for part in ("3 of 200", "0.01", str(skipped.path), records(3)[0]["image"], records(3)[0]["reason"], "--max_skip"):
        assert part in message
    assert len(skipped.rows()) == 3  # the last straw is listed too


def test_a_share_of_nothing_allows_none(tmp_path):
    with pytest.raises(TooManySkippedError):
        SkippedImages(tmp_path / "skipped.csv", total=10**6, max_share=0).add(records(1))
