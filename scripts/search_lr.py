"""Searches the best learning rate by validation, for a classifier or for a masked autoencoder; killed, it resumes.

    accelerate launch scripts/search_lr.py finetune --model vit --output_dir out/search

`--help` says the rest.
"""

from hf_radmae.cli.search_lr import main

if __name__ == "__main__":
    main()
