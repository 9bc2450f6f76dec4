"""`results.json` of a run, and its table for people; `publishing.card` makes a card of the first."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_radmae.images.storage import write_whole
from hf_radmae.publishing.card import public
from hf_radmae.study.report import table_lines


def save_results(results: Mapping[str, Any], folder: str | Path) -> Path:
    """Write `results.json`, what is `public` of them; a number that is none, such as an undefined score, is null."""
    path = Path(folder, "results.json")
    write_whole(path, json.dumps(_finite(public(results)), indent=1, allow_nan=False) + "\n")
    return path


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def probe_text(probe: Mapping[str, Any]) -> str:
    """The tables of a probe as text, scores in per cent with their 95 % intervals."""
    lines = [line for table in probe["tables"] for line in table_lines(probe["column"], table)]
    if probe["dropped"]:
        lines.append(f"\nDropped, fewer than ten test images: {', '.join(probe['dropped'])}.")
    return "\n".join([*lines, f"\nPer cent with 95 % intervals over {probe['resampled']} and draws; test split."])
