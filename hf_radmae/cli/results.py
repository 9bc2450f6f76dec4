"""`results.json` of a run, and its table for people; `publishing.card` makes a card of the first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_radmae.publishing.card import public
from hf_radmae.study.report import table_lines


def save_results(results: Mapping[str, Any], folder: str | Path) -> Path:
    """Writes `results.json`, what is `public` of them."""
    path = Path(folder, "results.json")
    path.write_text(json.dumps(public(results), indent=1) + "\n", encoding="utf-8")
    return path


def probe_text(probe: Mapping[str, Any]) -> str:
    """The tables of a probe as text, scores in per cent with their 95 % intervals."""
    lines = [line for table in probe["tables"] for line in table_lines(probe["column"], table)]
    if probe["dropped"]:
        lines.append(f"\nDropped, fewer than ten test images: {', '.join(probe['dropped'])}.")
    return "\n".join([*lines, f"\nPer cent with 95 % intervals over {probe['resampled']} and draws; test split."])
