r"""Pushes a finished run, an exported classifier or a prepared data set to the Hub, privately and through a gate.

    python scripts/push.py out/phantom radmae-phantom --dry_run
    python scripts/push.py out/phantom radmae-phantom

The first lists what would go, what stays and why, and asks the network nothing. Only files of an allow-list go, each
written anew; logs, pickles and checkpoints stay. A push is one commit: cut off, it leaves the repository as it was, and
the same command sends what is missing. Log in first with `hf auth login`, or set HF_TOKEN.

A file is refused, and then nothing goes, in which the gate finds a path, a name of this machine or its user, an e-mail
address, a phone number, a DICOM UID, a date, a number that looks like an id, a name beside "Patient", "Dr." or "geb.",
or a field of DICOM's de-identification profile (PatientName in any spelling): in texts, keys, values, class names,
names of files, tensors, columns, repository and branch, in the message and the card. It cannot see a name that stands
in no list without such a word beside it, or one that hides in the numbers of a tensor. It is no proof: look at what
goes. What you have looked at and is harmless, an address of contact for example, goes with --allow and the hash that
the refusal names; with other content it is refused again.

A prepared data set (scripts/prepare.py) goes only with its license and a sentence on its de-identification:

    python scripts/push.py SHARDS shards --license cc-by-4.0 --burned_in_checked \
        --deidentified "Ids hashed with a key that stays here; every image checked for burnt-in text."

--burned_in_checked says that someone has looked for names in the pixels; generated images need it not. --deid looks
further, with presidio over texts and with OCR over the pixels of every shard (pip install hf_radmae[deid]).
With --license and --deidentified the picture of a model's reconstructions goes as well, which shows images of the
training data.
"""

import argparse
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars

from hf_radmae.cli.command import command
from hf_radmae.publishing.deid import finders
from hf_radmae.publishing.gate import Kind, Statement, listing
from hf_radmae.publishing.push import Pusher, PushError


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", help="output folder of a run, exported model, or prepared data set")
    parser.add_argument("repo_id", help="owner/name, or a name of your own account")
    parser.add_argument("--dry_run", action="store_true", help="list what would go and why something does not, and end")
    parser.add_argument("--public", action="store_true", help="let the whole world see it")
    parser.add_argument("--license", help="of the images or weights, as cc-by-4.0, apache-2.0 or other")
    parser.add_argument("--deidentified", help="a sentence: how the images were freed of what identifies people")
    parser.add_argument(
        "--burned_in_checked", action="store_true", help="a person has looked for names in the pixels of the images"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="HASH", help="of what you have looked at and may go; repeatable"
    )
    parser.add_argument("--deid", action="store_true", help="look with presidio and OCR as well")
    parser.add_argument("--deid_model", default="en_core_web_lg", help="spaCy's pipeline for --deid, by name or folder")
    parser.add_argument("--message", default="Push", help="title of the commit")
    parser.add_argument("--revision", help="branch of the repository, main by default")
    return parser.parse_args()


def push(args: argparse.Namespace) -> None:
    """Review, say what would go, and push.

    Raises:
        PushError, ValueError, NotADirectoryError: why nothing was pushed.
    """
    kind: Kind = "dataset" if Path(args.folder, "manifest.json").is_file() else "model"
    statement = None
    if args.deidentified is not None or (kind == "dataset" and args.license is not None):
        statement = Statement(args.license or "", args.deidentified or "", args.burned_in_checked)
    pusher = Pusher(
        args.repo_id,
        kind=kind,
        private=not args.public,
        statement=statement,
        revision=args.revision,
        allow=args.allow,
        license=args.license,
        finders=finders(args.deid_model) if args.deid else None,
    )
    entries = pusher.review(args.folder)
    print(listing(entries))
    if found := pusher.refusals(entries, args.message):
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
