"""A recipe file and a command line -> dataclasses of options."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from transformers import HfArgumentParser


def parse(classes: Sequence[type], argv: Sequence[str] | None = None, description: str | None = None) -> tuple:
    """Parses a recipe and a command line into dataclasses; the command line wins.

    Args:
        classes: the dataclasses whose fields are the options.
        argv: the arguments, `sys.argv[1:]` by default. The first may be a recipe, a .yaml, .yml or .json file of
            options.
        description: what `--help` says first.

    Returns:
        One instance per class. An option that no class knows ends the program with the closest one that exists.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(cast(Any, classes), description=description, allow_abbrev=False)
    if argv and Path(argv[0]).suffix in (".yaml", ".yml", ".json"):
        argv = _recipe(parser, classes, argv[0]) + argv[1:]
    *instances, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    if unknown:
        names = [option for action in parser._actions for option in action.option_strings]
        parser.error(
            "; ".join(f"{word}: {_suggest(word, names)}" for word in unknown if word.startswith("-"))
            or f"{unknown[0]} is neither an option nor a recipe (.yaml, .json)"
        )
    return tuple(instances)


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
