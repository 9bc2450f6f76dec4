"""Makes the card of a finished run again, or a page of it for the folder of cards.

    python scripts/card.py out/phantom --license apache-2.0

`--help` says the rest.
"""

from hf_radmae.cli.card import main

if __name__ == "__main__":
    main()
