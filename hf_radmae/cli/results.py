"""`results.json` of a run, and its table for people; `publishing.card` makes a card of the first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_radmae.publishing.card import public


def save_results(results: Mapping[str, Any], folder: str | Path) -> Path:
    """Writes `results.json`, what is `public` of them."""
    path = Path(folder, "results.json")
    path.write_text(json.dumps(public(results), indent=1) + "\n", encoding="utf-8")
    return path


def probe_text(probe: Mapping[str, Any]) -> str:
    """The rows of a probe as a plain table, accuracies in per cent with their 95 % intervals."""
    lines = [f"Linear probe of {probe['column']} on mean-pooled features, test split, per cent (95 % interval):", ""]
    lines.append(f"{'labels':8}{'features':26}{'balanced accuracy':>26}{'accuracy':>26}")
    for row in probe["rows"]:
        cells = (
            f"{100 * row[m]:.1f} ({100 * row[m + '_low']:.1f} to {100 * row[m + '_high']:.1f})"
            for m in ("balanced_accuracy", "accuracy")
        )
        lines.append(f"{row['labels']:8}{row['model']:26}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)
