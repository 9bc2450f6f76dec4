"""Every image once per epoch, one bin a step on all ranks, and an order that only the seed and the epoch know."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import DataLoader

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.sampler import BucketBatchSampler, batch_lengths, batch_sizes, plan, simulate

quick = settings(max_examples=80, deadline=None)
bin_lists = st.lists(st.integers(-1, 4), min_size=1, max_size=120).filter(lambda ids: max(ids) >= 0)
batches_per_bin = st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=5, max_size=5)
worlds = st.integers(1, 6)


def epoch_of_all_ranks(bin_ids, batch_size, world_size, epoch=0, **options):
    """(ranks, steps) lists of indices."""
    samplers = [
        BucketBatchSampler(bin_ids, batch_size, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return samplers[0], [list(sampler) for sampler in samplers]


@quick
@given(bin_lists, batches_per_bin, worlds, st.integers(1, 3), st.integers(0, 3), st.booleans())
def test_every_image_with_a_bin_comes_once_but_for_the_stated_repeats(ids, size, world, micro, epoch, shuffle):
    sampler, ranks = epoch_of_all_ranks(ids, size, world, epoch, micro_steps=micro, shuffle=shuffle)
    seen = [index for rank in ranks for batch in rank for index in batch]
    assert set(seen) == {index for index, bin_id in enumerate(ids) if bin_id >= 0}
    assert len(seen) - len(set(seen)) == sampler.repeats


@quick
@given(bin_lists, batches_per_bin, worlds, st.integers(1, 3))
def test_all_ranks_take_as_many_steps_on_the_same_bin_with_as_many_images(ids, size, world, micro):
    sampler, ranks = epoch_of_all_ranks(ids, size, world, micro_steps=micro)
    limits = size if isinstance(size, list) else [size] * 5
    assert {len(rank) for rank in ranks} == {len(sampler)}
    for step in zip(*ranks, strict=True):
        (bin_id,) = {ids[index] for batch in step for index in batch}
        lengths = [len(batch) for batch in step]
        assert min(lengths) >= 1 and max(lengths) <= min(limits[bin_id], min(lengths) + 1)


@quick
@given(bin_lists, st.integers(0, 5))
def test_one_two_and_four_ranks_train_on_the_same_global_batches(ids, epoch):
    def global_batches(world, micro):
        _, ranks = epoch_of_all_ranks(ids, 8 // world // micro, world, epoch, micro_steps=micro, bin_tokens=range(5))
        steps = [[index for batch in step for index in batch] for step in zip(*ranks, strict=True)]
        pieces = [steps[start : start + micro] for start in range(0, len(steps), micro)]
        # Repeats are the one thing that depends on the ranks.
        return [list(dict.fromkeys(index for piece in batch for index in piece)) for batch in pieces]

    straight = global_batches(1, 1)
    assert all(global_batches(world, micro) == straight for world, micro in [(2, 1), (4, 1), (1, 2), (2, 2), (8, 1)])


@quick
@given(bin_lists, st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_order_is_a_function_of_seed_and_epoch_and_iterating_changes_nothing(ids, seed, epoch):
    first, second = (BucketBatchSampler(ids, 3, seed=seed) for _ in range(2))
    list(first)
    first.set_epoch(epoch)
    first.set_epoch(epoch)
    second.set_epoch(epoch)
    assert list(first) == list(first) == list(second)


def test_epochs_and_seeds_differ_and_bins_are_interleaved():
    ids = np.arange(4000) % 4
    orders = [plan(ids, [10] * 4, seed=seed, epoch=epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert len({tuple(batch.tolist()) for order in orders for batch in order}) == 3 * 400
    bins = np.array([ids[batch[0]] for batch in orders[0]])
    assert 0.65 < (np.diff(bins) != 0).mean() < 0.85  # 3/4 for a fair shuffle of four equal bins


@quick
@given(bin_lists, batches_per_bin, worlds, st.lists(st.integers(1, 500), min_size=5, max_size=5))
def test_the_first_batch_of_all_is_the_one_of_most_tokens(ids, size, world, tokens):
    sampler = BucketBatchSampler(ids, size, bin_tokens=tokens, rank=0, world_size=world)
    batches = plan(ids, np.resize(sampler.global_batch_sizes, 5), seed=42, epoch=0, bin_tokens=tokens)
    loads = [len(batch) * tokens[ids[batch[0]]] for batch in batches]
    assert loads[0] == max(loads)
    assert ids[next(iter(sampler))[0]] == ids[batches[0][0]]


@quick
@given(st.integers(0, 500), st.integers(1, 64))
def test_a_bin_ends_in_batches_of_at_least_half_the_size_unless_it_holds_less(count, size):
    lengths = batch_lengths(count, size)
    assert lengths.sum() == count and (lengths <= size).all() and (lengths[:-2] == size).all()
    assert len(lengths) == -(-count // size)
    assert count == 0 or lengths.min() >= min(count, size / 2)


@quick
@given(bin_lists, batches_per_bin, worlds, st.integers(1, 3))
def test_simulation_agrees_with_the_batches_of_real_samplers(ids, size, world, micro):
    tokens = [7, 50, 3, 11, 100]
    sampler, ranks = epoch_of_all_ranks(ids, size, world, micro_steps=micro)
    load = simulate(ids, tokens, size, world, micro_steps=micro)
    slots = sum(max(len(batch) for batch in step) * tokens[ids[step[0][0]]] for step in zip(*ranks, strict=True))
    useful = sum(tokens[bin_id] for bin_id in ids if bin_id >= 0)
    assert (load.steps, load.repeats) == (len(sampler), sampler.repeats)
    assert load.images == sum(bin_id >= 0 for bin_id in ids)
    assert load.idle_share == pytest.approx(1 - useful / (slots * world))


def test_evaluation_keeps_the_given_order_within_bins_in_every_epoch():
    ids = [1, 0, 1, 0, 0, -1, 1]
    sampler = BucketBatchSampler(ids, 2, shuffle=False, bin_tokens=[4, 9])
    straight = list(sampler)
    sampler.set_epoch(3)
    assert straight == list(sampler) == [[1, 3], [4], [0, 2], [6]]


@quick
@given(st.lists(st.tuples(st.integers(8, 900), st.integers(8, 900)), min_size=1, max_size=40), st.integers(1, 5000))
def test_batch_sizes_fill_the_token_budget_and_never_pass_it_but_with_one_image(sizes, budget):
    bins = fit_bins(sizes, min_images=1)
    images = batch_sizes(bins, budget)
    assert (((images * bins.tokens <= budget) & ((images + 1) * bins.tokens > budget)) | (images == 1)).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_accelerate_neither_shards_again_nor_loses_the_place(workers):
    """A loader prepared for one process yields the sampler's batches, and skipping resumes them index for index."""
    assert not {"batch_size", "sampler", "batch_sampler"} & set(dir(BucketBatchSampler([0], 1)))
    sampler = BucketBatchSampler(np.arange(90) % 3, 4, rank=1, world_size=2)
    loader = DataLoader(torch.arange(90), batch_sampler=sampler, num_workers=workers)
    loader = prepare_data_loader(loader, device=torch.device("cpu"), num_processes=1, process_index=0)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        straight = list(sampler)
        assert [batch.tolist() for batch in loader] == straight and len(loader) == len(straight)
        sampler.set_epoch(epoch)
        assert [batch.tolist() for batch in skip_first_batches(loader, 5)] == straight[5:]


def test_rank_and_world_come_from_the_process_group():
    dist.init_process_group("fake", rank=3, world_size=8, store=FakeStore())
    try:
        sampler = BucketBatchSampler(np.zeros(64, int), 4)
    finally:
        dist.destroy_process_group()
    assert (sampler.rank, sampler.world_size, len(sampler)) == (3, 8, 2)
    assert list(sampler) == list(BucketBatchSampler(np.zeros(64, int), 4, rank=3, world_size=8))


def test_errors_name_what_was_found():
    with pytest.raises(ValueError, match="None of the 2 images has a bin"):
        BucketBatchSampler([-1, -1], 4)
    with pytest.raises(ValueError, match=r"each of 3 bins, found \[4, 4\]"):
        BucketBatchSampler([0, 2], [4, 4])
    with pytest.raises(ValueError, match=r"at least 1 .*found"):
        BucketBatchSampler([0, 0], 0)
    with pytest.raises(ValueError, match=r"rank 2 must be in 0\.\.1"):
        BucketBatchSampler([0], 1, rank=2, world_size=2)
