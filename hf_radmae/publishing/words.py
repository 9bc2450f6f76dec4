"""The gate's closed sets of words, from `words.csv`, and the attributes of DICOM's de-identification profile."""

import csv
from functools import cache
from importlib.resources import files


@cache
def words(kind: str) -> frozenset[str]:
    """A set of words; what each is for stands where it is used."""
    return _sets("words.csv")[kind]


@cache
def names(kind: str) -> frozenset[str]:
    """Names of people, "given" or "surname", that are words of no language here, plain as of `keys.plain_name`.

    They are those of Faker's lists for 25 countries (MIT licence, copyright 2012 Daniele Faraglia), without the words
    of English and German dictionaries and of scientific code.
    """
    return _sets("names.csv")[kind]


@cache
def _sets(file: str) -> dict[str, frozenset[str]]:
    table = files("hf_radmae.publishing").joinpath(file).read_text(encoding="utf-8").splitlines()
    rows = (line.partition(",") for line in table[1:])  # not by `csv`, whose limit of a field is one of the process
    return {kind: frozenset(row.split()) for kind, _, row in rows}


@cache
def profile() -> frozenset[str]:
    """The keywords of DICOM PS3.15 (2026c), table E.1-1: what the basic profile removes or replaces."""
    table = files("hf_radmae.publishing").joinpath("profile.csv").read_text(encoding="utf-8").splitlines()
    return frozenset(row["keyword"] for row in csv.DictReader(table))
