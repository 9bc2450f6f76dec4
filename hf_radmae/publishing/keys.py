"""Names of fields that identify people: keys of JSON, columns, tensors, classes, and the left side of "Patient ID: 7".

They are the attributes that the basic profile of DICOM PS3.15, Annex E, removes or replaces, and what data sets call
the same things. A name is compared without case, spaces, signs and accents, so that `PatientName`, `patient_name`
and "Patient's Name" are one.
"""

import re
import unicodedata
from functools import cache

from hf_radmae.publishing.words import profile, words

_WHOLE = str.maketrans(
    {"ß": "ss", "ı": "i", "ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "æ": "ae", "Æ": "AE"}
)
"""Letters that Unicode does not decompose."""
_LONG = 8  # letters from which on a field's name is looked for within a longer one
_PERSONAL = re.compile(
    r"^mrn$|pat(?:id|nr|no|name)$|patient(?!s$|en$)|fall(?:id|nr|nummer)|^case(?:id|nr|no|number)$|aktenzeichen"
    r"|vorname|nachname"
    r"|surname|(?:first|last|given|family|full|maiden)name|geburts|gebdat|^geb$|^dob$|birth|insurance|versichert"
    r"|versicherungsnummer|kvnr|^ssn$|socialsecurity|phone|telefon|accession|auftragsnummer|befund(?:nummer|er|text)"
    r"|physician|radiologist|radiologe|hausarzt|medicalrecord|recordnumber|admission|instanceuid|studyid|studyuid"
    r"|(?:study|series|acquisition|content|exam)date|untersuchungsdatum|aufnahmedatum|nhsnumber|pesel|personname"
    r"|hospitalid|^pid$|operatorsname|sterbedatum|familienname|rufname|apellido|prenom|cognome|soyad|nazwisko|hasta"
    r"|paciente|paziente"
    r"|kimlik|dogum|nacimiento|historiaclinica|refphys|ansprechpartner|karteinummer|archivnummer|rontgennummer"
    r"|filmnummer|rufnummer|^nhc$|^dni$|^nie$|reisepass|passport"
)


def plain_name(name: str) -> str:
    """A name in lower case, without signs, spaces, accents and a possessive s."""
    whole = re.sub(r"['’`´]s\b", "", name).translate(_WHOLE)
    folded = unicodedata.normalize("NFKD", whole).casefold()
    return re.sub(r"[^a-z0-9]", "", folded)


@cache
def identifying_names() -> frozenset[str]:
    """The plain names of all fields that identify people."""
    return frozenset({plain_name(word) for word in profile()} | words("fields"))


@cache
def key_finding(name: str) -> str | None:
    """The field that a name spells, or holds among other words, and None where it names none.

    `original_patient_name` and `PatientID2` hold one; `height` and `patient` (a column of hashes) do not.
    """
    plain = re.sub(r"\d+$", "", plain_name(name))
    known = identifying_names()
    if plain in known:
        return plain
    return next((word for word in known if len(word) >= _LONG and word in plain), None) or _in_words(name)


def _in_words(name: str) -> str | None:
    """A short field among the words of a name, as mrn in `hospital_mrn` and dob in `DOB_1`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = {plain_name(word) for word in re.split(r"[\W_\d]+", spaced)}
    short = {"mrn", "dob", "ssn", "geb", "patid", "patnr", "pid", "kvnr", "vorname", "nachname", "surname", "uid"}
    return next(iter(sorted(words & short)), None)


@cache
def is_personal(name: str) -> bool:
    """Whether what stands after this name and a colon in a text is of one person: an id, a name, a date, an address."""
    plain = re.sub(r"\d+$", "", plain_name(name))
    return plain in identifying_names() and bool(_PERSONAL.search(plain))
