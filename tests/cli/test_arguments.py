"""Options come from a recipe, the command line or both, with the same checks, and none is swallowed."""

import json
from pathlib import Path

import pytest
import yaml

from hf_radmae.cli.embed import EmbedArguments
from hf_radmae.cli.parse import parse
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.trainer import RadMAETrainingArguments

ALL = (DataArguments, ModelArguments, RadMAETrainingArguments)
RECIPE = {
    "dataset": "imagefolder",
    "data_dir": "scans",
    "num_bins": 5,
    "norm_pix_loss": False,
    "mask_ratio": 0.6,
    "learning_rate": 2e-4,
    "report_to": "none",
    "save_total_limit": None,
}


def write(folder: Path, name: str, options) -> str:
    path = folder / name
    path.write_text(json.dumps(options) if name.endswith("json") else yaml.safe_dump(options), encoding="utf-8")
    return str(path)


def refusal(capsys, *argv: str) -> str:
    """What the program says when it dies of these arguments."""
    with pytest.raises(SystemExit) as end:
        parse(ALL, argv)
    said = capsys.readouterr().err
    assert end.value.code == 2 and "usage:" not in said  # of 130 lines
    return said


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.yml", "recipe.json"])
def test_a_recipe_sets_what_it_names_and_leaves_the_rest(name, tmp_path):
    data, model, args = parse(ALL, [write(tmp_path, name, RECIPE)])
    found = {**vars(data), **vars(model), **vars(args)}
    assert {key: found[key] for key in RECIPE} == RECIPE | {"report_to": []}
    assert data.binning == DataArguments().binning
    assert model.preset == ModelArguments().preset


def test_a_recipe_says_what_the_command_line_would(tmp_path):
    words = [f"--{name}={value}" for name, value in RECIPE.items() if value is not None]
    said = parse(
        (DataArguments, ModelArguments), [word for word in words if "learn" not in word and "report" not in word]
    )
    only = {key: RECIPE[key] for key in ("dataset", "data_dir", "num_bins", "norm_pix_loss", "mask_ratio")}
    assert parse((DataArguments, ModelArguments), [write(tmp_path, "recipe.yaml", only)]) == said


def test_the_command_line_wins_over_the_recipe(tmp_path):
    argv = [write(tmp_path, "recipe.yaml", RECIPE), "--num_bins", "9", "--norm_pix_loss", "--save_total_limit=3"]
    data, model, args = parse(ALL, argv)
    assert (data.num_bins, model.norm_pix_loss, args.save_total_limit) == (9, True, 3)
    assert (data.dataset, model.mask_ratio) == ("imagefolder", 0.6)


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "0.0001"])
def test_a_small_number_of_a_yaml_recipe_is_a_number(number, tmp_path):
    """YAML reads 1e-4, without a dot, as text."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"learning_rate: {number}\n")
    assert parse(ALL, [str(path)])[2].learning_rate == 1e-4


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.json"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"binning": "smrt"}, "--binning: invalid choice: 'smrt'"),
        ({"scaling": "window"}, "--scaling: invalid choice: 'window'"),
        ({"num_channels": 2}, "--num_channels/--num-channels: invalid choice: 2"),
        ({"num_bins": 7.5}, "--num_bins/--num-bins: invalid int value: '7.5'"),
        ({"mask_ratio": "much"}, "--mask_ratio/--mask-ratio: invalid float value: 'much'"),
        ({"norm_pix_loss": "perhaps"}, "--norm_pix_loss"),
        (["tiny"], "must hold options (name: value), and holds a list"),
    ],
)
def test_a_recipe_is_checked_like_the_command_line(options, message, name, tmp_path, capsys):
    assert message in refusal(capsys, write(tmp_path, name, options))


@pytest.mark.parametrize(
    ("name", "closest"), [("learning_rat", "learning_rate"), ("numbins", "num_bins"), ("preset_", "preset")]
)
def test_an_unknown_option_dies_with_the_closest_name(name, closest, tmp_path, capsys):
    recipe = write(tmp_path, "recipe.yaml", {"num_images": 3, name: 1})
    said = refusal(capsys, recipe)
    assert recipe in said
    assert f"{name}: no such option, did you mean {closest}?" in said
    for words in ([f"--{name}", "1"], [f"--{name}=1"]):
        said = refusal(capsys, "--num_images", "3", *words)
        assert f"did you mean --{closest.replace('_', '-')}?" in said or f"did you mean --{closest}?" in said


def test_an_abbreviation_is_an_unknown_option(capsys):
    assert "--num_imag: no such option" in refusal(capsys, "--num_imag", "3")


def test_every_unknown_option_is_named(tmp_path, capsys):
    said = refusal(capsys, write(tmp_path, "recipe.json", {"presett": 1, "zzzzzz": 2}))
    assert "presett: no such option, did you mean preset?" in said
    assert "zzzzzz: no such option, see --help" in said


def test_a_word_that_is_no_option_is_refused(tmp_path, capsys):
    assert "phantom is neither an option nor a recipe" in refusal(capsys, "phantom")
    recipe = write(tmp_path, "recipe.yaml", {})
    assert "neither an option nor a recipe" in refusal(capsys, "--num_bins=3", recipe)


def test_a_recipe_that_is_missing_or_broken_is_named(tmp_path, capsys):
    assert "recipe gone.yaml: there is no such file" in refusal(capsys, "gone.yaml")
    for name in ("broken.yaml", "broken.json"):
        (tmp_path / name).write_text("{preset: [")
        assert f"{name} cannot be read" in refusal(capsys, str(tmp_path / name))


def test_data_sets_with_regions_are_probed_by_region():
    assert DataArguments(dataset="phantom").probe_column == "body_region"
    assert DataArguments(dataset="phantom", probe_column="fracture").probe_column == "fracture"
    assert DataArguments(dataset="imagefolder").probe_column is None


@pytest.mark.parametrize("output", ["scans", "scans/out", "scans/../scans/a/b", "link/out"])
def test_an_output_folder_within_the_data_is_refused(output, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("scans").mkdir()
    Path("link").symlink_to("scans")
    said = refusal(capsys, "--dataset", "imagefolder", "--data_dir", "scans", "--output_dir", output)
    assert f"--output_dir {output} lies in --data_dir scans" in " ".join(said.split())
    parse(ALL, ["--dataset", "imagefolder", "--data_dir", "scans", "--output_dir", "scans2/out"])


def test_counts_of_an_embedding_are_at_least_one():
    for name in ("images_per_part", "batch_size", "threads"):
        with pytest.raises(ValueError, match=f"--{name} 0: expected at least 1"):
            EmbedArguments(model="m", data_dir="d", output_dir="o", **{name: 0})


@pytest.mark.parametrize("name", ["phantom", "radiographs_tiny"])
def test_the_recipes_that_the_readme_starts_are_read(name, tmp_path):
    root = Path(__file__).parents[2]
    recipe = f"scripts/recipes/{name}.yaml"
    assert f"hf-radmae pretrain {recipe}" in (root / "README.md").read_text(encoding="utf-8")
    data, model, args = parse(ALL, [str(root / recipe), "--output_dir", str(tmp_path), "--use_cpu", "true"])
    assert (data.max_tokens, data.crop_scale, model.preset or "tiny") == (144, 0.5, "tiny")
    assert args.eval_steps == args.save_steps < 1  # shares of all steps, so that the best model is one that was saved
