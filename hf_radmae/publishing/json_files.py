"""JSON written anew: numbers under short names, and texts under a closed set of names for each file.

Class names are the one text that a user chooses: they are looked at as labels, see `Private.label_findings`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any

from hf_radmae.pretraining.results import PACKAGES
from hf_radmae.publishing.private import Private
from hf_radmae.publishing.words import words
from hf_radmae.shards.prepare import PACKAGES as PREPARED_WITH

FREE_TEXT = 300
"""Characters: no option, class or figure is that long, a report is."""
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=+%/*-]{0,63}")
_VERSION = re.compile(  # PEP 440, with the local parts that builds of torch and of a checkout have; years from 2015 on
    r"(?:\d{1,3}|20(?:1[5-9]|[2-9]\d))(?:\.\d{1,4}){0,3}(?:(?:a|b|rc|\.?post|\.?dev)\d{0,8})*"
    r"(?:\+(?:cpu|cu\d{2,3}|rocm[\d.]{1,6}|xpu|(?:git|g)?[0-9a-f]{7,40}(?:\.(?:d20\d{6}|nv\d\d\.\d\d))?))?"
)
_CLASS = re.compile(r"modeling_radiograph_vit\.RadiographViT(?:Config|ForImageClassification)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,60}/[A-Za-z0-9][\w.-]{0,90}")
_LOCAL = {
    *(
        "_name_or_path",
        "model_name_or_path",
        "data_dir",
        "output_dir",
        "cache_dir",
        "key_file",
        "report_labels",
        "resume_from_checkpoint",
    ),
    *("name_or_path", "logging_dir", "run_name", "hub_model_id", "hub_token", "_commit_hash", "left_out_columns"),
}
"""Keys whose texts are places on this machine or name someone's account: they are taken out."""
_VERSIONS = {"python", "transformers_version", "version", "hf_radmae", "torchvision", *PACKAGES, *PREPARED_WITH}
_GOES_NOWHERE = {
    "manifest.json": frozenset({"input", "key", "left_out"}),
    "results.json": frozenset({"refused", "fingerprint", "label_sources"}),
}
"""What nobody else needs: digests, dropped columns of an archive, sentences on why a table was not made."""
_OWN = {"name", "images", "patients"}
"""Keys of this package that a field of a person may have as well."""
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ()@./_-]{0,63}")


class OpenText(ValueError):
    """A text that tells something; `text` is what a person of the lab may look at and allow."""

    def __init__(self, reason: str, text: str):
        super().__init__(reason)
        self.text = text


def parse_json(content: bytes) -> Any:
    """A JSON value.

    Raises:
        ValueError: it is none, or an object has a key twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"has the key {', '.join(map(repr, repeated))} twice")
        return dict(pairs)

    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=once)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError("is no JSON") from error


def rewritten_json(
    name: str, content: bytes, private: Private, allows: Callable[[str], bool] = lambda text: False
) -> tuple[bytes, list[str], list[str]]:
    """A JSON file of a repository written anew, the keys that were taken out, and what was allowed.

    Args:
        name: of the file; says which keys may hold texts.
        content: of the file.
        private: what is looked for.
        allows: whether a person has looked at a text and allowed it.

    Raises:
        ValueError: it is no JSON object, or holds what does not go.
    """
    value = parse_json(content)
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")
    if name == "model.safetensors.index.json":
        return _text(_index(value), value, content), [], []
    only = _Filter(name, private, value, allows)
    kept = only.value(value, name)
    return _text(kept, value, content), sorted(set(only.dropped)), only.allowed


def _text(kept: Any, value: Any, content: bytes) -> bytes:
    """A value as JSON, in the layout of the file if it had one that this package and transformers write."""
    layouts: list[dict[str, Any]] = [{"indent": 2}, {"indent": 2, "sort_keys": True}, {"indent": 1}, {}]
    ways = [(layout, end) for layout in layouts for end in ("\n", "")]
    same = (way for way in ways if (json.dumps(value, **way[0]) + way[1]).encode() == content)
    layout, end = next(same, ways[0])
    return (json.dumps(kept, **layout) + end).encode()


def _index(value: dict[str, Any]) -> dict[str, Any]:
    from hf_radmae.publishing.weights import is_tensor_name

    weights, metadata = value.get("weight_map"), value.get("metadata", {})
    if set(value) - {"metadata", "weight_map"} or not isinstance(weights, dict) or not isinstance(metadata, dict):
        raise ValueError("holds more than metadata and weight_map")
    for tensor, file in weights.items():
        if not is_tensor_name(tensor) or not re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", str(file)):
            raise ValueError(f"maps {tensor!r} to {file!r}: expected a tensor of a network and a file of weights")
    if set(metadata) - {"total_size", "total_parameters"} or not all(
        type(size) in (int, float) for size in metadata.values()
    ):
        raise ValueError("holds other metadata than the size of the weights")
    return value


@cache
def _known() -> dict[str, frozenset[str]]:
    """File -> names that may hold texts."""
    from transformers import ViTConfig, ViTMAEConfig
    from transformers.models.resnet import ResNetConfig

    from hf_radmae.classification.setup import TaskArguments  # rooms that push, and so import this one
    from hf_radmae.models.mae import preset_config
    from hf_radmae.models.modeling_radiograph_vit import RadiographViTConfig
    from hf_radmae.pretraining.arguments import DataArguments, ModelArguments

    configs = (ViTConfig(), ViTMAEConfig(), ResNetConfig(), RadiographViTConfig(), preset_config("tiny"))
    texts = {key for config in configs for key, value in config.to_dict().items() if isinstance(value, str | list)}
    options = {
        field.name
        for kind in (DataArguments, ModelArguments, TaskArguments)
        for field in fields(kind)
        if "str" in str(field.type)
    }
    return {
        "config.json": frozenset(words("config") | texts - _LOCAL),
        "preprocessor_config.json": words("processor"),
        "results.json": frozenset(words("results") | options - _LOCAL),
        "manifest.json": words("manifest"),
    }


def _class_names(value: dict[str, Any]) -> frozenset[str]:
    """The class names of a configuration or of results."""
    found: list[Any] = []
    for key in ("classes", "id2label", "label2id"):
        part = value.get(key)
        found += part if isinstance(part, list) else []
        found += part.values() if isinstance(part, dict) and key == "id2label" else []
        found += part if isinstance(part, dict) and key == "label2id" else []
    return frozenset(name for name in found if isinstance(name, str))


def _models(value: Any, gone: frozenset[str]) -> frozenset[str]:
    """The models that have a row in a table of results, outside of keys that do not go."""
    if isinstance(value, list):
        return frozenset().union(*(_models(part, gone) for part in value))
    if not isinstance(value, dict):
        return frozenset()
    found = frozenset().union(*(_models(part, gone) for key, part in value.items() if key not in gone))
    return found | {value["model"]} if "pooling" in value and isinstance(value.get("model"), str) else found


_GONE: Any = object()


def _is_phrase(text: str) -> bool:
    """Whether a text is made of words that this package writes into results, and of short numbers between them."""
    found = set(re.findall(r"[^\W\d_]+", text.lower()))
    return bool(found) and found <= words("phrases") and len(text) <= 120 and not re.search(r"\d{4}|\d\W\d+\W\d", text)


class _Filter:
    """Takes out what does not belong to a file, and refuses what tells something."""

    def __init__(self, name: str, private: Private, value: dict[str, Any], allows: Callable[[str], bool]):
        self.private, self.texts, self.allows = private, _known()[name], allows
        self.gone = _GOES_NOWHERE.get(name, frozenset())
        self.classes, self.models = _class_names(value), _models(value, self.gone)
        self.dropped: list[str] = []
        self.allowed: list[str] = []

    def value(self, value: Any, key: str) -> Any:
        """A value under a key as it goes, `_GONE` if it does not."""
        if isinstance(value, dict):
            timings = {"seconds"} if isinstance(value.get("seconds"), dict) else frozenset()  # by a study's steps
            self.dropped += value.keys() & (self.gone | timings)
            value = {name: child for name, child in value.items() if name not in self.gone | timings}
            for name in value:
                self._key(name, key)
            pairs = [(name, self.value(child, key if name.isdigit() else name)) for name, child in value.items()]
            return {name: child for name, child in pairs if child is not _GONE}
        if isinstance(value, list):
            children = [self.value(child, key) for child in value]
            return [child for child in children if child is not _GONE]
        if isinstance(value, str):
            return self._text(value, key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._number(value, key)
        return value

    def _key(self, key: str, parent: str) -> None:
        known = key in self.texts or key in _VERSIONS or key in _OWN or key in _LOCAL
        number = parent == "id2label" and re.fullmatch(r"\d{1,4}", key)
        if key in self.classes or not (known or number):
            self._label(key, parent, "the key")

    def _number(self, value: float, key: str) -> None:
        if not math.isfinite(value) or abs(value) < 1e5 or value != int(value):
            return
        text = f"{key.replace('_', ' ')}: {int(value)}"
        for kind, told in self.private.findings(text):
            self._refuse(f"holds {kind}, {told} (under {key!r})", text)

    def _refuse(self, reason: str, text: str) -> None:
        if not self.allows(text):
            raise OpenText(reason, text)
        self.allowed.append(reason)

    def _text(self, text: str, key: str) -> Any:
        if key in self.texts and (_is_phrase(text) or self._is_joined(text, key)):
            return text
        if len(text) > FREE_TEXT:
            reason = f"holds a text of {len(text)} characters under {key!r}: reports and remarks do not go"
            self._refuse(reason, text)
            return text
        if key in _LOCAL:
            if key == "model_name_or_path" and self._is_on_the_hub(text):
                return text
            self.dropped.append(key)
            return _GONE
        if text == "" or (key in _VERSIONS and _VERSION.fullmatch(text)):
            return text
        if key.startswith("Auto") and _CLASS.fullmatch(text):
            return text
        before = len(self.allowed)
        self._label(text, key)
        if len(self.allowed) > before:
            return text
        if text in self.classes or (key == "device" and _DEVICE.fullmatch(text)):
            return text
        if not _IDENTIFIER.fullmatch(text):
            self._refuse(f"holds the text {text[:80]!r} under {key!r}: expected a number or one word", text)
            return text
        if key in self.texts:
            return text
        self.dropped.append(key)
        return _GONE

    def _label(self, text: str, key: str, what: str = "the text") -> None:
        for kind, told in self.private.label_findings(text):
            self._refuse(f"holds {kind}, {told}, in {what} {text[:80]!r} (under {key!r})", text)
        if len(text) > 64 or len(text.split()) > 6 or not text.isprintable():
            self._refuse(f"holds {what} {text[:80]!r} under {key!r}: expected a short name", text)

    def _is_joined(self, text: str, key: str) -> bool:
        """Whether a text joins what is looked at where it stands: all labels, or a table's model and words of ours."""
        if key == "label":
            return all(part in self.classes for part in text.split(","))
        model, _, rest = text.partition(", ")
        return model in self.models and _is_phrase(rest)

    def _is_on_the_hub(self, text: str) -> bool:
        """Whether a checkpoint is one on the Hub, owner/name, rather than a folder."""
        return bool(_HUB_ID.fullmatch(text)) and next(self.private.label_findings(text), None) is None
