"""Prepares an archive of radiographs once for fast training: Parquet shards at training resolution.

    python scripts/prepare.py --dataset mri --data_dir ARCHIVE --output_dir SHARDS --num_proc 16

`--help` says the rest.
"""

from hf_radmae.cli.prepare import main

if __name__ == "__main__":
    main()
