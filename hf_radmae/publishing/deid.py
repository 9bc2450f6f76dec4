"""A second look, by what others wrote: presidio at texts, and OCR at the pixels of images (the extra `deid`).

Without it the gate knows patterns and lists of names. presidio finds names by a language model of spaCy
(`python -m spacy download en_core_web_lg`), and rapidocr reads what is burnt into an image. Neither finds all.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from hf_radmae.publishing.gate import Finders
from hf_radmae.publishing.private import words_of_the_field

logger = logging.getLogger(__name__)

ENTITIES = ("PERSON", "EMAIL_ADDRESS", "PHONE_NUMBER", "IBAN_CODE", "US_SSN", "UK_NHS", "IP_ADDRESS", "MEDICAL_LICENSE")
"""What presidio is asked for; dates are found by the gate's own patterns, which know versions from dates."""
_SURE = 0.6
_SMALLEST_TEXT = 3  # letters and digits: L, R, and numbers of two digits are markers of a side or of a film


def finders(model: str = "en_core_web_lg", language: str = "en") -> Finders:
    """What looks at texts and pixels.

    Args:
        model: a pipeline of spaCy for `language`, by name or folder.
        language: of cards and results.

    Raises:
        ModuleNotFoundError: the extra is not installed.
        ValueError: spaCy has no such pipeline here.
    """
    return Finders(pixels=pixel_finder(), texts=(text_finder(model, language),))


def text_finder(model: str = "en_core_web_lg", language: str = "en") -> Callable[[str], list[tuple[str, str]]]:
    """From a text to (kind, words) of what presidio finds in it; see `finders`."""
    try:
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ImportError as error:
        raise ModuleNotFoundError("--deid needs presidio: pip install hf_radmae[deid]") from error
    engine = {"nlp_engine_name": "spacy", "models": [{"lang_code": language, "model_name": model}]}
    try:
        nlp = NlpEngineProvider(nlp_configuration=engine).create_engine()
        analyzer = AnalyzerEngine(nlp_engine=nlp, supported_languages=[language])
    except (OSError, SystemExit) as error:  # presidio tries to download a model that is not there
        raise ValueError(f"spaCy has no pipeline {model!r} here: python -m spacy download {model}") from error

    def find(text: str) -> list[tuple[str, str]]:
        found = analyzer.analyze(text, language, entities=list(ENTITIES), score_threshold=_SURE)
        told = [(f"{result.entity_type.lower()} by presidio", text[result.start : result.end]) for result in found]
        return [(kind, words) for kind, words in told if not is_of_the_field(words)]

    return find


def is_of_the_field(text: str) -> bool:
    """Whether a text holds words of the field and of our cards alone, which models of language take for names."""
    return set(re.findall(r"[^\W_]+", text.lower())) <= words_of_the_field()


def pixel_finder() -> Callable[[bytes], list[tuple[str, str]]]:
    """From an encoded image to (kind, words) of the texts that OCR reads in it; sides and film markers are none.

    Raises:
        ModuleNotFoundError: the extra is not installed.
    """
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:
        raise ModuleNotFoundError("--deid needs rapidocr: pip install hf_radmae[deid]") from error
    reader: Any = RapidOCR()

    def find(content: bytes) -> list[tuple[str, str]]:
        grey = np.asarray(Image.open(io.BytesIO(content)), np.float32)
        grey = grey if grey.ndim == 2 else grey.mean(-1)
        low, high = float(grey.min()), float(grey.max())
        pixels = ((grey - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
        return [("a text burnt into the pixels", text) for text in _texts(reader, pixels)]

    return find


def _texts(reader: Any, pixels: np.ndarray) -> Iterator[str]:
    """What is read in grey pixels (height, width), small images enlarged first."""
    scale = max(1, -(-640 // max(pixels.shape)))
    enlarged = Image.fromarray(pixels).resize((pixels.shape[1] * scale, pixels.shape[0] * scale))
    lines, _ = reader(np.stack([np.asarray(enlarged)] * 3, -1))
    for _, text, confidence in lines or ():
        if float(confidence) > 0.5 and sum(map(str.isalnum, text)) >= _SMALLEST_TEXT:
            yield text
