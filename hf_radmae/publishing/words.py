"""The gate's closed sets of words, from `words.csv`, and the attributes of DICOM's de-identification profile."""

import csv
from functools import cache
from importlib.resources import files


@cache
def words(kind: str) -> frozenset[str]:
    """A set of words; what each is for stands where it is used."""
    table = files("hf_radmae.publishing").joinpath("words.csv").read_text(encoding="utf-8").splitlines()
    sets = {row["kind"]: frozenset(row["words"].split()) for row in csv.DictReader(table)}
    return sets[kind]


@cache
def profile() -> frozenset[str]:
    """The keywords of DICOM PS3.15 (2026c), table E.1-1: what the basic profile removes or replaces."""
    table = files("hf_radmae.publishing").joinpath("profile.csv").read_text(encoding="utf-8").splitlines()
    return frozenset(row["keyword"] for row in csv.DictReader(table))
