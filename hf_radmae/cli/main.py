"""`hf-radmae COMMAND ...`: every command of this package under one name.

    hf-radmae pretrain --output_dir out/phantom

Each is a script in a checkout (search-lr is scripts/search_lr.py), which `accelerate launch` starts on several
processes.
"""

import ast
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

COMMANDS = {
    "pretrain": "pretrain",
    "finetune": "finetune",
    "search-lr": "search_lr",
    "study": "study",
    "label-reports": "label_reports",
    "prepare": "prepare",
    "bins": "bins",
    "export": "export",
    "card": "card",
    "push": "push",
    "embed": "embed",
    "search": "search",
    "demo": "demo",
    "replay": "replay",
}
"""Command -> module of this room with a function `main`, in the order of `hf-radmae --help`."""


def main() -> None:
    """Run the command that is named first; its own options follow."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"{__doc__}\nCommands (`hf-radmae COMMAND --help` explains one):\n\n{_listing()}")
        return
    if name.replace("_", "-") not in COMMANDS:
        sys.exit(f"hf-radmae: there is no command {name}; there are {', '.join(COMMANDS)}")
    sys.argv[:2] = [f"hf-radmae {name}"]
    import_module(f"hf_radmae.cli.{COMMANDS[name.replace('_', '-')]}").main()


def _listing() -> str:
    """The first line of each command's docstring, without the seconds that importing them takes."""
    lines = []
    for name, module in COMMANDS.items():
        spec = find_spec(f"hf_radmae.cli.{module}")
        text = ast.get_docstring(ast.parse(Path(str(spec and spec.origin)).read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:14}{text.splitlines()[0]}")
    return "\n".join(lines)
