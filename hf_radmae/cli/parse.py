"""A recipe file and a command line -> dataclasses of options."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml
from transformers import HfArgumentParser

from hf_radmae.images.remote import SCHEMES, is_url, without_credentials

ALIASES = {"model_name_or_path": "model"}
"""Names of options that other scripts use -> ours."""


def parse(classes: Sequence[type], argv: Sequence[str] | None = None, description: str | None = None) -> tuple:
    """Parse a recipe and a command line into dataclasses; the command line wins.

    Args:
        classes: the dataclasses whose fields are the options.
        argv: the arguments, `sys.argv[1:]` by default. The first may be a recipe, a .yaml, .yml or .json file of
            options.
        description: the first part of `--help`, with its line breaks.

    Returns:
        One instance per class. An option that no class knows ends the program with the closest one that exists, and so
        does a value that a class refuses.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(cast(Any, classes), description=description, allow_abbrev=False, add_help=False)
    if {"-h", "--help", "--help_all"} & {*argv}:
        print(_help(parser, classes, description or "", everything="--help_all" in argv))
        sys.exit()
    if argv and Path(argv[0]).suffix in (".yaml", ".yml", ".json"):
        argv = _recipe(parser, classes, argv[0]) + argv[1:]
    argv = _renamed(argv)
    try:
        *instances, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
        for instance in instances:
            _check_urls(instance)
        _check_folders(instances)
    except ValueError as error:  # of a dataclass; what argparse finds ends the program by itself
        parser.error(str(error))
    if unknown:
        names = [option for action in parser._actions for option in action.option_strings]
        parser.error(
            "; ".join(f"{word}: {_suggest(word, names)}" for word in unknown if word.startswith("-"))
            or f"{unknown[0]} is neither an option nor a recipe (.yaml, .json)"
        )
    return tuple(instances)


def _check_urls(instance: Any) -> None:
    """Take passwords out of the URLs in a class' options, and refuse URLs where only local paths are taken.

    A class names the options that take URLs in `URLS`; by default they are `dataset` and `data_dir`.
    """
    allowed = getattr(instance, "URLS", ("dataset", "data_dir"))
    for option in dataclasses.fields(instance):
        value = getattr(instance, option.name)
        if isinstance(value, str) and value.partition("://")[0] in (*SCHEMES, "file"):
            clean = without_credentials(value)
            if is_url(clean) and option.name not in allowed:
                raise ValueError(f"--{option.name} {clean}: give a local path; a URL is taken by " + _urls(allowed))
            setattr(instance, option.name, clean)


def _check_folders(instances: Sequence[Any]) -> None:
    """Refuse an output folder within the data: what it holds would be read as images at the next start."""
    given = {
        name: getattr(found, name) for found in instances for name in ("data_dir", "output_dir") if name in vars(found)
    }
    data, output = given.get("data_dir"), given.get("output_dir")
    if not data or not output or is_url(data) or is_url(output):
        return
    if Path(output).expanduser().resolve().is_relative_to(Path(data).expanduser().resolve()):
        raise ValueError(
            f"--output_dir {output} lies in --data_dir {data}, and what is written there would be read as images at "
            "the next start: give a folder beside it"
        )


def _urls(names: Sequence[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Told once by several processes of a machine, which are all given the same words, and without usage."""
        if os.environ.get("LOCAL_RANK", "0") != "0":
            sys.exit()  # an error would let the launcher end the first process before it has said anything
        self.exit(2, f"{self.prog}: error: {message} (--help shows the options)\n")


def _renamed(argv: list[str]) -> list[str]:
    """The command line with our names, what had another one last, so that it wins."""
    kept: list[str] = []
    moved: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        ours = ALIASES.get(name.removeprefix("--")) if name.startswith("--") else None
        if ours is None:
            kept.append(word)
        elif equals:
            moved.append(f"--{ours}={value}")
        else:
            moved += [f"--{ours}", *islice(words, 1)]
    return kept + moved


def _help(parser: HfArgumentParser, classes: Sequence[type], description: str, everything: bool) -> str:
    """The description and our own options, grouped by class; with `everything` those of transformers too."""
    actions = {action.dest: action for action in parser._actions}
    lines = [f"usage: {parser.prog} [RECIPE.yaml] [--option value ...]", "", description.strip()]
    for cls in classes:
        ours = [base for base in cls.__mro__ if base.__module__.startswith("hf_radmae")]
        own = {name for base in ours for name in inspect.get_annotations(base)} - {*getattr(cls, "RARE", ())}
        shown = [field for field in dataclasses.fields(cls) if everything or field.name in own]
        lines += ["", (cls.__doc__ or cls.__name__).splitlines()[0]]
        for field in shown:
            action = actions[field.name]
            choices = f" ({', '.join(map(str, action.choices))})" if action.choices else ""
            default = field.default_factory() if callable(field.default_factory) else field.default
            shown_default = "" if default in (None, dataclasses.MISSING, []) else f" [{default}]"
            text = f"{(action.help or '').rstrip('.')}{choices}{shown_default}"
            lines += textwrap.wrap(
                f"  --{field.name:<30}{text}", 120, subsequent_indent=" " * 34, break_on_hyphens=False
            )
    if not everything:
        more = "--help_all shows every option, those of transformers' TrainingArguments too; --debug shows tracebacks."
        lines += ["", more]
    return "\n".join(lines)


def _recipe(parser: HfArgumentParser, classes: Sequence[type], path: str) -> list[str]:
    """The recipe as words of a command line, so that its types and choices are checked like those."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    except FileNotFoundError:
        parser.error(f"recipe {path}: there is no such file")
    except (yaml.YAMLError, ValueError) as error:
        parser.error(f"recipe {path} cannot be read: {error}")
    if not isinstance(values, dict):
        parser.error(f"recipe {path} must hold options (name: value), and holds a {type(values).__name__}")
    values = {ALIASES.get(str(name), str(name)): value for name, value in values.items()}
    names = [f.name for cls in classes for f in dataclasses.fields(cls)]
    if unknown := [name for name in values if name not in names]:
        parser.error(f"recipe {path}: " + "; ".join(f"{name}: {_suggest(name, names)}" for name in unknown))
    parser.set_defaults(**{name: None for name, value in values.items() if value is None})
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif value is not None:
            words.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return words


def _suggest(word: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(word.split("=")[0], names, n=1)
    return f"no such option, did you mean {close[0]}?" if close else "no such option, see --help"
