"""Writes the embedding of every radiograph of a folder, or of prepared shards, to Parquet.

    python scripts/embed.py --model out/phantom --data_dir RADIOGRAPHS --output_dir out/embeddings

`--help` says the rest.
"""

from hf_radmae.cli.embed import main

if __name__ == "__main__":
    main()
