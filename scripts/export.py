"""Exports a classifier, or an encoder, that bare transformers loads.

    python scripts/export.py --model out/phantom --probe_column body_region --output_dir out/classifier

`--help` says the rest.
"""

from hf_radmae.cli.export import main

if __name__ == "__main__":
    main()
