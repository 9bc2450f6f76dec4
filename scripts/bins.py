"""Show what binning does to a data set, from the sizes alone: no image is decoded.

    python scripts/bins.py table.csv --patch_size 48 --max_tokens 4096 --plot bins.png

`--help` says the rest.
"""

from hf_radmae.cli.bins import main

if __name__ == "__main__":
    main()
