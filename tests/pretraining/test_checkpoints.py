"""A resumed run repeats the straight one, or says what is not the same and what to do."""

import logging

import pytest

from hf_radmae.batching.sampler import BucketBatchSampler
from hf_radmae.batching.streaming import StreamBatchSampler
from hf_radmae.pretraining.checkpoints import OtherBatchesError, check_order, save_order

BINS = [0, 1] * 30
STRAIGHT = {"ranks": 1, "batch size": 8, "gradient accumulation": 1}


def order(batch_size: int, world_size: int = 1, *, bins=BINS, seed: int = 42, micro_steps: int = 1) -> dict:
    return BucketBatchSampler(bins, batch_size, rank=0, world_size=world_size, seed=seed, micro_steps=micro_steps).order


@pytest.mark.parametrize(("batch_size", "ranks", "steps"), [(4, 2, 1), (2, 4, 1), (4, 1, 2), (1, 4, 2)])
def test_another_split_of_the_same_batches_goes_on_and_says_so(tmp_path, caplog, batch_size, ranks, steps):
    save_order(tmp_path / "checkpoint-3", order(8), STRAIGHT)
    split = {"ranks": ranks, "batch size": batch_size, "gradient accumulation": steps}
    with caplog.at_level(logging.WARNING):
        check_order(tmp_path / "checkpoint-3", order(batch_size, ranks, micro_steps=steps), split, begin_anew=False)
    (message,) = caplog.messages
    assert f"resumes with ranks {ranks}, batch size {batch_size}" in message and "up to rounding" in message


def test_the_same_split_goes_on_in_silence(tmp_path, caplog):
    save_order(tmp_path / "checkpoint-3", order(8), STRAIGHT)
    check_order(tmp_path / "checkpoint-3", order(8), STRAIGHT, begin_anew=False)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (order(8, 2), r"images of a global batch was \[8\], now \[16\]"),
        (order(8, seed=7), "seed was 42, now 7"),
        (order(8, bins=[*BINS, 0]), "images was 60, now 61; checksum of bins was"),
        (order(8, bins=BINS[::-1]), "checksum of bins was"),
        (StreamBatchSampler(BINS, [0, 60], 8, rank=0, world_size=1).order, "ranks was not written down, now 1"),
    ],
)
def test_other_batches_are_refused_by_name_unless_the_epoch_may_begin_anew(tmp_path, caplog, now, found):
    checkpoint = tmp_path / "checkpoint-3"
    save_order(checkpoint, order(8), STRAIGHT)
    with pytest.raises(OtherBatchesError, match=f"made with other batches: .*{found}.*ignore_data_skip"):
        check_order(checkpoint, now, STRAIGHT, begin_anew=False)
    check_order(checkpoint, now, STRAIGHT, begin_anew=True)
    assert "The epoch begins anew" in caplog.messages[0]


def test_a_stream_goes_on_with_the_ranks_and_batches_that_it_was_dealt_to_alone(tmp_path):
    def stream(**options) -> dict:
        return StreamBatchSampler(
            BINS, range(0, 61, 5), **{"batch_size": 4, "rank": 0, "world_size": 2, **options}
        ).order

    save_order(tmp_path, stream(), STRAIGHT)
    check_order(tmp_path, stream(rank=1), STRAIGHT, begin_anew=False)
    for changed in ({"world_size": 1}, {"batch_size": 2}, {"window": 2}, {"seed": 1}):
        with pytest.raises(OtherBatchesError):
            check_order(tmp_path, stream(**changed), STRAIGHT, begin_anew=False)


def test_a_checkpoint_that_does_not_tell_is_refused(tmp_path):
    with pytest.raises(OtherBatchesError, match="seed was not written down"):
        check_order(tmp_path, order(8), STRAIGHT, begin_anew=False)
