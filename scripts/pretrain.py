"""Pre-trains a masked autoencoder on radiographs of any size and shows what it learned.

    accelerate launch scripts/pretrain.py scripts/recipes/phantom.yaml --output_dir out/phantom

`--help` says the rest.
"""

from hf_radmae.cli.pretrain import main

if __name__ == "__main__":
    main()
