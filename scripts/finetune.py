"""Trains a classifier on labelled radiographs of any size: a ResNet, a ViT from scratch, or from a masked autoencoder.

    accelerate launch scripts/finetune.py --model vit --output_dir out/vit

`--help` says the rest.
"""

from hf_radmae.cli.finetune import main

if __name__ == "__main__":
    main()
