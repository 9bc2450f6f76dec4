"""Bins are legal, assignment is closest, nothing is lost but by strict binning, and the fit is near the optimum."""

import json
import runpy
import sys
from fractions import Fraction
from itertools import combinations
from math import ceil
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_radmae.batching.bin_report import compare, report
from hf_radmae.batching.binning import STRATEGIES, Bins, NoBinsError, assign, content_sizes, fit_bins
from hf_radmae.batching.grids import log_aspect_scale, naflex_grids, target_sizes
from hf_radmae.batching.kmedoids import k_medoids
from hf_radmae.batching.levels import with_levels
from hf_radmae.batching.sampler import simulate
from hf_radmae.cli import bins as bins_command

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

side = st.integers(1, 4000) | st.sampled_from([1, 2, 16, 48, 480, 481, 512, 20_000])
size_lists = st.lists(st.tuples(side, side), min_size=1, max_size=60)
budgets = st.fixed_dictionaries(
    {"patch_size": st.sampled_from([1, 8, 16, 48]), "max_tokens": st.integers(1, 300)},
    optional={"max_side": st.integers(48, 2000)},
)
quick = settings(max_examples=60, deadline=None)


def fit(sizes, strategy, **options):
    try:
        return fit_bins(sizes, strategy=strategy, **options)
    except NoBinsError:
        return None


def stated_costs(points, shapes):
    aspect, scale = np.abs(log_aspect_scale(points)[:, None] - log_aspect_scale(shapes)[None]).transpose(2, 0, 1)
    return aspect**1.5 + 0.05 * scale**1.5


@quick
@given(size_lists, budgets, st.sampled_from(list(STRATEGIES)), st.integers(1, 6), st.integers(1, 4))
def test_shapes_are_patch_grids_within_the_budget_largest_first(sizes, budget, strategy, num_bins, batch_size):
    bins = fit(sizes, strategy, num_bins=num_bins, batch_size=batch_size, **budget)
    if bins is not None:
        assert (bins.shapes % budget["patch_size"] == 0).all() and (bins.shapes > 0).all()
        assert (bins.tokens <= budget["max_tokens"]).all() and (np.diff(bins.tokens) <= 0).all()
        assert bins.shapes.max() <= budget.get("max_side", np.inf)
        assert strategy not in ("smart", "mixed") or len(bins) <= num_bins
        assert strategy == "strict" or len(np.unique(bins.shapes, axis=0)) == len(bins)


@quick
@given(size_lists, budgets, st.sampled_from(list(STRATEGIES)), st.integers(1, 4))
def test_only_strict_binning_loses_images_and_only_sizes_with_less_than_a_batch(sizes, budget, strategy, batch_size):
    bins = fit(sizes, strategy, batch_size=batch_size, **budget)
    lost = np.full(len(sizes), True) if bins is None else assign(sizes, bins) < 0
    rare = np.array([sizes.count(size) < batch_size for size in sizes])
    assert (lost == (rare if strategy == "strict" else False)).all()


@quick
@given(size_lists, size_lists, budgets, st.sampled_from([s for s in STRATEGIES if s != "strict"]))
def test_sizes_never_seen_get_a_bin_too_and_their_content_lies_within_it(seen, unseen, budget, strategy):
    bins = fit_bins(seen, strategy=strategy, **budget)
    ids = assign(unseen, bins)
    content = content_sizes(unseen, bins, ids)
    assert ids.min() >= 0 and ids.max() < len(bins)
    assert (content >= 1).all() and (content <= bins.shapes[ids]).all()


@quick
@given(size_lists, budgets, st.sampled_from(["mixed", "round_up", "pad"]))
def test_padding_keeps_the_aspect_to_a_rounded_pixel(sizes, budget, strategy):
    bins = fit_bins(sizes, strategy=strategy, **budget)
    sizes, content = np.array(sizes), content_sizes(sizes, bins, assign(sizes, bins))
    longer = sizes.argmax(1)[:, None]
    scale = np.take_along_axis(content / sizes, longer, 1)
    slack = 0.5 + 0.5 * sizes / np.take_along_axis(sizes, longer, 1)  # both sides are rounded
    assert (np.abs(content - sizes * scale) <= slack + 1e-9)[content > 1].all()


@quick
@given(size_lists, budgets)
def test_padded_images_keep_their_own_scale_within_a_patch_of_their_bin(sizes, budget):
    bins = fit_bins(sizes, strategy="pad", **budget)
    ids = assign(sizes, bins)
    content = content_sizes(sizes, bins, ids)
    assert (bins.shapes[ids] - content <= budget["patch_size"]).all()  # less than a patch, and half a pixel's rounding
    small = (np.ceil(np.array(sizes) / budget["patch_size"]).prod(1) <= budget["max_tokens"]) & (
        np.max(sizes, 1) <= budget.get("max_side", np.inf) // budget["patch_size"] * budget["patch_size"]
    )
    assert (content[small] == np.array(sizes)[small]).all()


@quick
@given(size_lists, budgets)
def test_target_sizes_only_shrink_keep_the_aspect_and_use_the_budget_up(sizes, budget):
    targets, sizes = target_sizes(sizes, **budget), np.array(sizes)
    used = [targets.prod(1) / budget["patch_size"] ** 2 / budget["max_tokens"], (targets / sizes).max(1)]
    used += [targets.max(1) / budget["max_side"]] if "max_side" in budget else []
    np.testing.assert_allclose(np.max(used, axis=0), 1)  # one of the limits is met, none passed
    np.testing.assert_allclose(targets[:, 0] * sizes[:, 1], targets[:, 1] * sizes[:, 0])


@quick
@given(side, side, st.integers(1, 60), st.sampled_from([1, 16, 48]), st.booleans())
def test_naflex_grids_are_those_of_the_largest_scale_that_fits(height, width, tokens, patch, upscale):
    """Against exact arithmetic: only a scale at which a side fills whole patches can be the largest."""
    sides = Fraction(height, patch), Fraction(width, patch)
    scales = {Fraction(n) / s for s in sides for n in range(1, tokens + 1)} | ({Fraction(1)} if not upscale else set())
    grids = {s: tuple(ceil(s * a) for a in sides) for s in scales if upscale or s <= 1}
    best = max((s for s, (rows, columns) in grids.items() if rows * columns <= tokens), default=None)
    expected = (1, 1) if best is None else grids[best]
    found = naflex_grids([(height, width)], patch_size=patch, max_tokens=tokens, upscale=upscale)
    assert tuple(found[0]) == expected


@quick
@given(size_lists, budgets, st.integers(1, 5))
def test_each_image_goes_to_the_shape_of_least_stated_cost(sizes, budget, num_bins):
    bins = fit_bins(sizes, num_bins=num_bins, min_images=1, **budget)
    costs = stated_costs(target_sizes(sizes, **budget), bins.shapes)
    chosen = costs[np.arange(len(sizes)), assign(sizes, bins)]
    np.testing.assert_allclose(chosen, costs.min(1), atol=1e-12)


@quick
@given(size_lists, budgets, st.integers(2, 5), st.integers(1, 12))
def test_every_bin_holds_the_fewest_images_asked_for_or_is_the_only_one(sizes, budget, num_bins, floor):
    bins = fit_bins(sizes, num_bins=num_bins, min_images=floor, **budget)
    assert len(bins) == 1 or np.bincount(assign(sizes, bins), minlength=len(bins)).min() >= floor


@quick
@given(size_lists, st.integers(1, 200), st.integers(1, 5))
def test_twice_the_size_and_twice_the_patch_give_twice_the_shapes(sizes, max_tokens, num_bins):
    small = fit_bins(sizes, num_bins=num_bins, patch_size=8, max_tokens=max_tokens, min_images=1)
    large = fit_bins(np.array(sizes) * 2, num_bins=num_bins, patch_size=16, max_tokens=max_tokens, min_images=1)
    assert (large.shapes == 2 * small.shapes).all()


@pytest.mark.parametrize(("floor", "worst"), [(1, 0.02), (12, 0.25), (20, 0.6)])
def test_fit_meets_the_brute_force_optimum_on_most_small_cases_and_nearly_on_all(floor, worst):
    """Over all sets of at most k legal grids in which every one gets as many images as the floor asks for."""
    gaps = []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        tokens, k = int(rng.integers(12, 22)), 2 + seed % 2
        sizes = np.exp(rng.normal(4.6, rng.uniform(0.2, 0.7), (80, 2))).astype(int) + 8
        targets = target_sizes(sizes, patch_size=16, max_tokens=tokens)
        grids = np.array([(rows, columns) for rows in range(1, tokens + 1) for columns in range(1, tokens // rows + 1)])
        costs = stated_costs(targets, grids * 16)
        sets = [list(chosen) for size in range(1, k + 1) for chosen in combinations(range(len(grids)), size)]
        filled = [s for s in sets if np.bincount(costs[:, s].argmin(1), minlength=len(s)).min() >= floor or len(s) == 1]
        bins = fit_bins(sizes, num_bins=k, max_tokens=tokens, min_images=floor)
        gaps.append(stated_costs(targets, bins.shapes).min(1).sum() / min(costs[:, s].min(1).sum() for s in filled) - 1)
    assert max(gaps) <= worst and np.quantile(gaps, 0.75) <= 1e-9 and min(gaps) >= -1e-9


@quick
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_k_medoids_cannot_be_bettered_by_one_swap(seed, k):
    rng = np.random.default_rng(seed)
    costs, weights = rng.random((12, 9)), rng.integers(1, 4, 12)
    chosen = k_medoids(costs, weights, k)
    assert len(set(chosen)) == len(chosen) == k
    for out in range(k):
        others = np.delete(costs[:, chosen], out, 1).min(1, initial=np.inf)
        swapped = weights @ np.minimum(others[:, None], costs)
        assert swapped.min() >= weights @ costs[:, chosen].min(1) * (1 - 1e-5)


@quick
@given(size_lists, budgets, st.sampled_from(list(STRATEGIES)))
def test_bins_come_back_from_json_the_same(sizes, budget, strategy):
    bins = fit(sizes, strategy, batch_size=1, **budget)
    again = Bins.from_dict(json.loads(json.dumps(bins.to_dict())))
    assert again.to_dict() == bins.to_dict() and (assign(sizes, again) == assign(sizes, bins)).all()


@quick
@given(size_lists, budgets, st.sampled_from(list(STRATEGIES)))
def test_report_counts_every_image_and_its_bins_add_up(sizes, budget, strategy):
    bins = fit(sizes, strategy, batch_size=1, **budget)
    figures = report(sizes, bins, assign(sizes, bins), batch_size=4)
    assert sum(row.images for row in figures.rows) == figures.total.images == len(sizes) - figures.total.lost
    tokens = sum(row.images * row.tokens for row in figures.rows) / figures.total.images
    assert tokens == pytest.approx(figures.total.tokens) and max(r.aspect_worst for r in figures.rows) >= 0
    assert len(figures.table().splitlines()) == len(figures.rows) + 2
    if strategy in ("smart", "strict", "square"):
        assert figures.total.padding == pytest.approx(0)


def test_errors_name_what_was_found_and_what_is_known():
    with pytest.raises(ValueError, match=r"smrat.*smart, mixed, strict"):
        fit_bins([(10, 10)], strategy="smrat")
    with pytest.raises(ValueError, match=r"Row 1 has size \[0, 7\]"):
        fit_bins([(10, 10), (0, 7)])
    for size in (1.024, np.inf, np.nan):  # a thousand with a point, and what is no size
        with pytest.raises(ValueError, match=r"Row 1 has size .* whole numbers of pixels"):
            fit_bins([[8, 8], [size, 7]], patch_size=8, max_tokens=4, batch_size=1)
    with pytest.raises(ValueError, match=r"found \(3,\)"):
        assign([1, 2, 3], fit_bins([(10, 10)]))
    with pytest.raises(ValueError, match="max_side=8"):
        fit_bins([(10, 10)], max_side=8)
    with pytest.raises(NoBinsError, match=r"loses all 2 images.*most frequent 1 times"):
        fit_bins([(10, 10), (20, 20)], strategy="strict", batch_size=2)


@pytest.fixture(scope="module")
def archive_sizes():
    """640,000 sizes with the quantiles of a hospital archive."""
    return runpy.run_path(str(SCRIPTS / "benchmarks" / "binning.py"))["draw_sizes"](640_000, 0.7)


def test_archive_in_sixteen_bins_keeps_every_image_near_its_aspect_and_64_ranks_busy(archive_sizes):
    budget = {"patch_size": 48, "max_tokens": 4096}
    bins = fit_bins(archive_sizes, num_bins=16, **budget)
    ids = assign(archive_sizes, bins)
    total = report(archive_sizes, bins, ids).total
    assert total.images == 640_000 and total.lost == 0 and total.padding == 0
    assert total.aspect_mean <= 0.06 and total.aspect_p95 <= 0.15
    own_scale = target_sizes(archive_sizes, **budget).prod(1).mean() / 48**2
    assert total.tokens <= own_scale and 2.8 * total.tokens <= 64 * 64
    load = simulate(ids, bins.tokens, 8, 64)
    assert load.idle_share < 0.01 and load.repeats < 0.005 * load.images


@pytest.mark.slow
def test_benchmark_writes_the_figures_of_every_strategy(tmp_path, monkeypatch):
    words = ["binning.py", "--json", str(tmp_path / "figures.json"), "--images", "20000", "--ranks", "1", "4"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(SCRIPTS / "benchmarks" / "binning.py"), run_name="__main__")
    figures = json.loads((tmp_path / "figures.json").read_text())["strategies"]
    assert list(figures) == [*STRATEGIES, "naflex"]
    for name, found in figures.items():
        if found.get("images_used"):
            seconds = {"fit_seconds", "assign_seconds", "plan_seconds", "peak_megabytes"}
            assert {*seconds, "tokens", "padding", "aspect_mean", "aspect_p95", "ranks"} <= found.keys()
            assert all(found[figure] > 0 for figure in seconds) and set(found["ranks"]) == {"1", "4"}, name
    smart = figures["smart"]
    assert smart["images_used"] == 1 and smart["padding"] == pytest.approx(0)
    assert smart["ranks"]["4"]["idle_share"] < 0.01 and smart["ranks"]["4"]["repeats"] == 0
    assert figures["strict"]["images_used"] < 0.25 and figures["square"]["tokens"] > 2.8 * smart["tokens"]
    assert figures["naflex"]["tokens"] == 4096


def test_strategies_stand_beside_each_other_even_where_strict_loses_all():
    rows = {row.name: row for row in compare([(100, 200), (300, 50)] * 3, batch_size=4)}
    assert list(rows) == [*STRATEGIES, "naflex"]
    assert rows["strict"].images == 0 and rows["strict"].lost == 6 and rows["smart"].images == 6


def test_bins_script_reads_the_same_sizes_from_every_kind_of_table(tmp_path, monkeypatch, capsys):
    sizes = np.random.default_rng(0).integers(50, 900, (200, 2))
    table = pd.DataFrame({"height": sizes[:, 0], "width": sizes[:, 1]})
    shapes = pd.DataFrame({"path": "x", "pixelarr_shape": [str((h, w)) for h, w in sizes.tolist()]})
    (tmp_path / "shards").mkdir()
    (tmp_path / "folder").mkdir()
    table.to_csv(tmp_path / "comma.csv")
    table.to_csv(tmp_path / "semicolon.csv", sep=";")
    table.to_csv(tmp_path / "tab.tsv", sep="\t", encoding="utf-16")
    shapes.to_csv(tmp_path / "shapes.csv")
    table.to_csv(tmp_path / "folder" / "metadata.csv")
    table[:120].to_parquet(tmp_path / "shards" / "a.parquet")
    table[120:].to_parquet(tmp_path / "shards" / "b.parquet")
    saved = datasets.Dataset.from_pandas(table)
    saved.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict(train=saved.select(range(150)), test=saved.select(range(150, 200))).save_to_disk(
        str(tmp_path / "splits")
    )
    script = vars(bins_command)
    for name in ("comma.csv", "semicolon.csv", "tab.tsv", "shapes.csv", "folder", "shards", "saved", "splits"):
        assert (script["read_sizes"](tmp_path / name, ["height", "width"]) == sizes).all(), name
    with pytest.raises(ValueError, match=r"no columns rows and columns or pixelarr_shape, but .*height, width"):
        script["read_sizes"](tmp_path / "comma.csv", ["rows", "columns"])
    (tmp_path / "words.csv").write_text("height,width\nhigh,wide\n")
    with pytest.raises(ValueError, match=r"words.csv: the columns height, width hold no sizes"):
        script["read_sizes"](tmp_path / "words.csv", ["height", "width"])
    for number, size in enumerate(sizes[:5]):
        (tmp_path / "images" / f"part{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("L", tuple(size[::-1].tolist())).save(tmp_path / "images" / f"part{number % 2}" / f"{number}.png")
    found = script["read_sizes"](tmp_path / "images", ["height", "width"])
    assert sorted(found.tolist()) == sorted(sizes[:5].tolist())
    with pytest.raises(FileNotFoundError, match="expected a CSV"):
        script["read_sizes"](tmp_path / "nothing", ["height", "width"])
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["bins.py", str(tmp_path / "comma.csv"), "--plot", str(tmp_path / "bins.png")])
    script["main"]()
    printed = capsys.readouterr().out
    assert "200 images" in printed and "naflex" in printed and (tmp_path / "bins.png").stat().st_size > 10_000


@quick
@given(st.lists(st.tuples(side, side), min_size=30, max_size=80), st.integers(1, 4), st.data())
def test_the_summary_has_a_line_per_shape_and_says_what_is_left_out(sizes, num_levels, data):
    bins = fit_bins(np.array(sizes), num_bins=4, patch_size=16, max_tokens=64, batch_size=2)
    ids = assign(np.array(sizes), bins)
    shares = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(sizes), max_size=len(sizes))))
    levels = with_levels(bins, ids, shares, num_levels=num_levels)
    ids = assign(np.array(sizes), levels, shares)
    found = report(np.array(sizes), levels, ids, batch_size=2)
    lines = found.summary().splitlines()
    shapes = {tuple(shape) for shape in levels.shapes[np.unique(ids)].tolist()}
    assert len(lines) == 1 + len(shapes) + 2
    assert sum(int(line.split()[3].replace(",", "")) for line in lines[1:-2]) == len(sizes)
    whole = bins.patches[assign(np.array(sizes), bins)].sum()
    assert f"{1 - found.total.tokens * len(sizes) / whole:.0%} of the patches" in lines[-1]
