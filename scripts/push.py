"""Pushes a finished run, an exported classifier or a prepared data set to the Hub, privately and through a gate.

    python scripts/push.py out/phantom radmae-phantom --dry_run

`--help` says the rest.
"""

from hf_radmae.cli.push import main

if __name__ == "__main__":
    main()
