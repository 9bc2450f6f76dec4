"""Finds the images that are closest to a query among embeddings, as a table and as a contact sheet.

    python scripts/search.py --embeddings out/embeddings --query knee.dcm --model out/phantom --data_dir RADIOGRAPHS

`--help` says the rest.
"""

from hf_radmae.cli.search import main

if __name__ == "__main__":
    main()
