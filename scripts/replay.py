"""Runs the step again at which a pre-training diverged, and names the first number that is none.

    python scripts/replay.py out/mine/diverged

`--help` says the rest.
"""

from hf_radmae.cli.replay import main

if __name__ == "__main__":
    main()
