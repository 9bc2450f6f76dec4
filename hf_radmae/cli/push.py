r"""Pushes a finished run, an exported classifier or a prepared data set to the Hub, privately and through a gate.

    python scripts/push.py out/phantom radmae-phantom --dry_run
    python scripts/push.py out/phantom radmae-phantom

The first lists what would go, what stays and why, and asks the network nothing. Only files of an allow-list go; logs,
pickles and checkpoints stay. A file that would go and holds a path, a name of this machine or its user, an e-mail
address, a DICOM UID or an id of a patient is refused, and then nothing goes. A push is one commit: cut off, it leaves
the repository as it was, and the same command goes on. Log in first with `hf auth login`, or set HF_TOKEN.

A prepared data set (scripts/prepare.py) goes only with its licence and a sentence on its de-identification:

    python scripts/push.py SHARDS shards --licence cc-by-4.0 \
        --deidentified "Ids hashed with a key that stays here; every image checked for burnt-in text."

With the two options the picture of a model's reconstructions goes as well, which shows images of the training data.
"""

import argparse
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars

from hf_radmae.cli.command import command
from hf_radmae.publishing.gate import Kind, Statement, listing, refusals
from hf_radmae.publishing.push import Pusher, PushError


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", help="output folder of a run, exported model, or prepared data set")
    parser.add_argument("repo_id", help="owner/name, or a name of your own account")
    parser.add_argument("--dry_run", action="store_true", help="list what would go and why something does not, and end")
    parser.add_argument("--public", action="store_true", help="let the whole world see it")
    parser.add_argument("--licence", help="licence of the images, as cc-by-4.0 or other")
    parser.add_argument("--deidentified", help="a sentence: how the images were freed of what identifies people")
    parser.add_argument("--message", default="Push", help="title of the commit")
    parser.add_argument("--revision", help="branch of the repository, main by default")
    return parser.parse_args()


def push(args: argparse.Namespace) -> None:
    """Review, say what would go, and push.

    Raises:
        PushError, ValueError, NotADirectoryError: why nothing was pushed.
    """
    kind: Kind = "dataset" if Path(args.folder, "manifest.json").is_file() else "model"
    declared = args.licence is not None or args.deidentified is not None
    statement = Statement(args.licence or "", args.deidentified or "") if declared else None
    pusher = Pusher(args.repo_id, kind=kind, private=not args.public, statement=statement, revision=args.revision)
    entries = pusher.review(args.folder)
    print(listing(entries))
    if found := refusals(entries, kind, statement):
        raise PushError("Nothing goes:\n  " + "\n  ".join(found))
    going = [entry for entry in entries if entry.is_pushed]
    print(f"\n{len(going)} files, {sum(entry.size for entry in going) / 1e6:.1f} MB")
    if not args.dry_run:
        pusher.open()
        commit = pusher.push(args.folder, args.message)
        seen = "to be seen by everyone" if args.public else "private"
        print(f"Pushed to {pusher.repo_id}, {seen}: {commit.commit_url}")


@command
def main() -> None:
    disable_progress_bars()
    push(options())
