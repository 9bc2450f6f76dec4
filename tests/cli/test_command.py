"""Every command teaches with `--help`, and dies of a mistake with one line."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from hf_radmae.batching.skipped import TooManySkippedError
from hf_radmae.cli.command import command, describe
from hf_radmae.cli.main import COMMANDS, main
from hf_radmae.cli.parse import parse
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.training_args import RadMAETrainingArguments

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, **options)


def test_the_console_command_lists_every_script():
    listed = run("-c", "import sys; sys.argv = ['hf-radmae']; from hf_radmae.cli.main import main; main()").stdout
    assert {path.stem.replace("_", "-") for path in SCRIPTS.glob("*.py")} - {"minimal"} == set(COMMANDS)
    assert all(f"  {name} " in listed for name in COMMANDS)


def test_help_shows_our_options_in_under_80_lines_with_lines_to_copy():
    shown = run(str(SCRIPTS / "pretrain.py"), "--help").stdout
    assert len(shown.splitlines()) < 80
    assert "    accelerate launch scripts/pretrain.py scripts/recipes/phantom.yaml --output_dir out/phantom\n" in shown
    assert "--mask_ratio" in shown and "--adam_epsilon" not in shown and max(map(len, shown.splitlines())) <= 120


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name, capsys, monkeypatch):
    module = import_module(f"hf_radmae.cli.{COMMANDS[name]}")
    monkeypatch.setattr(sys, "argv", ["hf-radmae", name, "--help"])
    try:
        main()
    except SystemExit as end:
        assert not end.code
    assert module.__doc__.splitlines()[0] in capsys.readouterr().out


def test_help_all_shows_every_option(capsys):
    with pytest.raises(SystemExit):
        parse((DataArguments, ModelArguments, RadMAETrainingArguments), ["--help_all"], "What it is.")
    shown = capsys.readouterr().out
    assert all(f"  --{name} " in shown for name in ("adam_epsilon", "mask_ratio", "remove_unused_columns"))


@pytest.mark.parametrize("words", [["--model_name_or_path", "there"], ["--model_name_or_path=there"]])
@pytest.mark.parametrize("more", [[], ["--model", "mae"]])
def test_the_name_that_other_scripts_use_for_a_checkpoint_is_known(words, more):
    for argv in ([*words, *more], [*more, *words]):
        assert parse((ModelArguments,), argv)[0].model == "there"


@pytest.mark.parametrize("words", [["--model_name_or_path"], ["--model_name_or_path", "--num_channels", "3"]])
def test_that_name_without_a_checkpoint_is_an_error_as_for_ours(words, capsys):
    with pytest.raises(SystemExit):
        parse((ModelArguments,), words)
    assert "--model: expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError("scan.png: there is no such file"), "error: scan.png: there is no such file"),
        (TooManySkippedError("3 of 4"), "error: 3 of 4"),
        (
            ValueError("Caught in a worker.\nTraceback (most recent call last)\n  File\nValueError: row 3"),
            "error: Value",
        ),
        (
            RuntimeError(
                "Caught.\nTraceback (most recent call last)\n  File\nhf_radmae.images.image.ImageError: a.png: bad"
            ),
            "error: a.png: bad",
        ),
        (KeyError("pixels"), "KeyError: 'pixels' (--debug shows"),
    ],
)
def test_an_error_is_one_line(error, text, monkeypatch):
    def fail() -> None:
        raise error

    assert describe(error).startswith(text)
    monkeypatch.setattr(sys, "argv", ["scripts/pretrain.py"])
    with pytest.raises(SystemExit) as end:
        command(fail)()
    assert str(end.value).startswith(f"pretrain.py: {text}") and "\n" not in str(end.value)
    monkeypatch.setattr(sys, "argv", ["scripts/pretrain.py", "--debug"])
    with pytest.raises(type(error)):
        command(fail)()
    assert sys.argv == ["scripts/pretrain.py"]


def test_importing_the_package_changes_nothing_elsewhere():
    code = """
import sys
import six  # has a finder of its own, and pandas imports it where nothing else did
from transformers.pipelines import PIPELINE_REGISTRY as registry
before = [*sys.meta_path], {task: entry["impl"] for task, entry in registry.supported_tasks.items()}
import hf_radmae
assert all(getattr(hf_radmae, name) for name in hf_radmae.__all__)
assert before == ([*sys.meta_path], {task: entry["impl"] for task, entry in registry.supported_tasks.items()})
"""
    found = run("-c", code)
    assert found.returncode == 0, found.stderr


def test_no_module_but_init_lies_at_the_root():
    import hf_radmae

    assert [path.name for path in Path(hf_radmae.__file__).parent.glob("*.py")] == ["__init__.py"]


TOGETHER = {"pretrain", "finetune", "search-lr", "study", "export", "embed"}


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - TOGETHER))
def test_a_command_of_one_process_is_refused_in_one_line_on_two(name, monkeypatch):
    module = import_module(f"hf_radmae.cli.{COMMANDS[name]}")
    monkeypatch.setattr(sys, "argv", [name])
    for rank, expected in (("0", rf"^{name}: error: runs in one process, and 2 were started: .*"), ("1", "^0$")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(SystemExit, match=expected) as ended:
            module.main()
        assert "\n" not in str(ended.value)


def test_a_wrong_option_is_told_once_on_two_processes(monkeypatch, capsys):
    for rank, code in (("0", 2), ("1", None)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit) as ended:
            parse((DataArguments,), ["--no_such_option", "1"])
        assert ended.value.code == code
    assert capsys.readouterr().err.count("no such option") == 1
