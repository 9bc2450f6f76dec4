"""A command whose processes fail: one of them, all of them, or one that is killed."""

import os
import signal
import sys
from pathlib import Path

from hf_radmae.batching.ranks import from_main, gathered, rank_and_size
from hf_radmae.cli.command import command


def fail(way: str) -> int:
    """Fails on the first process, where it is that one's turn."""
    if way == "first":
        raise ValueError("the first cannot")
    return 0


@command(many=True)
def main() -> None:
    rank, _ = rank_and_size()
    way = sys.argv[1]
    gathered(rank)
    Path(sys.argv[2]).touch()
    from_main(lambda: fail(way))
    if way == "all" or (way == "second" and rank == 1):
        raise ValueError(f"{way} cannot")
    if way == "killed" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    gathered(rank)


if __name__ == "__main__":
    main()
