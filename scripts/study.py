"""Runs the whole study: pre-training, probes, supervised networks, learning rates, label efficiency, and a report.

    python scripts/study.py scripts/recipes/study_tiny.yaml --output_dir out/study

`--help` says the rest.
"""

from hf_radmae.cli.study import main

if __name__ == "__main__":
    main()
