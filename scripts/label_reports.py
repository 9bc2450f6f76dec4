"""Reads radiology reports and writes what they say as labels, each with the words that say so.

    python scripts/label_reports.py --input REPORTS --output labels.parquet

`--help` says the rest.
"""

from hf_radmae.cli.label_reports import main

if __name__ == "__main__":
    main()
