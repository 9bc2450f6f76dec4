"""Makes the card of a finished run again, or a page of it for the folder of cards.

    python scripts/card.py out/phantom --license apache-2.0
    python scripts/card.py out/phantom --name phantom_tiny --output model_cards/phantom_tiny.md

Everything on it is from the folder's results.json; a figure that is not there was not measured and is left out. The
picture of reconstructions is copied beside a page only if the images are generated: others show people.
"""

import argparse
import json
import shutil
from pathlib import Path

from hf_radmae.cli.command import command
from hf_radmae.publishing.card import FIGURE, TEMPLATES, read_results, render_card, use_of


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, help="output folder of a run or of an export")
    parser.add_argument("--output", type=Path, help="the card's file; README.md of the folder by default")
    parser.add_argument("--name", help="what code on the card loads; the name in the results by default")
    parser.add_argument("--license", help="licence of the weights, as apache-2.0")
    args = parser.parse_args()
    results = read_results(args.folder) | ({"name": args.name} if args.name else {})
    config = json.loads((args.folder / "config.json").read_text(encoding="utf-8"))
    output, figure = args.output or args.folder / "README.md", args.folder / FIGURE
    if args.output and figure.is_file() and results.get("data", {}).get("dataset") == "phantom":
        figure = Path(shutil.copyfile(figure, output.with_suffix(".png")))
    facts = {
        "license": args.license,
        "figure": figure.name if figure.is_file() and figure.parent == output.parent else None,
        "remote_code": "auto_map" in config,
        "use": use_of(config),
        "model_type": config.get("model_type"),
    }
    template = TEMPLATES["classifier" if "classes" in results else "model"]
    output.write_text(render_card(results, template, **facts), encoding="utf-8")
    print(f"{output}: the card of {args.folder}")
