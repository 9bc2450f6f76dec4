"""A look into one file that may go: what it tells beside what it is for, and its content without that."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_radmae.publishing.private import Private, strip_png
from hf_radmae.publishing.tables import allowed_columns, shard_finding
from hf_radmae.shards.anonymous import IDENTIFYING

_LOCAL_KEYS = {"_name_or_path", "data_dir", "output_dir", "cache_dir"}
_FREE_TEXT = 300  # characters: no option, label or figure is that long, a report is


def scrubbed(path: Path, folder: Path, private: Private) -> tuple[bytes | None, str]:
    """The content to push in place of a file's own, None for as it is, and what was taken out.

    JSON loses the keys that hold places on this machine, PNG its texts.

    Args:
        path: the file.
        folder: of the repository; a shard's columns are those of its manifest.
        private: what must not be in a text.

    Raises:
        ValueError: it must not go; says why.
    """
    match path.suffix:
        case ".parquet":
            _refuse(shard_finding(path, allowed_columns(_manifest(folder)), private))
        case ".safetensors":
            _refuse(_safetensors_finding(path, private))
        case ".onnx":
            finding = private.find_in_graph(_without_tensors(path))
            _refuse(finding and f"holds {finding}: export without the exporter's stack traces")
        case ".png":
            content = path.read_bytes()
            if (pixels := strip_png(content)) != content:
                return pixels, "without the texts in the picture"
        case ".json":
            content = path.read_bytes()
            value = json.loads(content)
            dropped = sorted(set(_drop_local(value)))
            for key, found in _leaves(value):
                _refuse(_finding(key, found, private))
            if dropped:
                return f"{json.dumps(value, indent=2)}\n".encode(), f"without {', '.join(dropped)}"
        case _:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if finding := private.find(line):
                    raise ValueError(f"line {number} holds {finding}")
    return None, ""


def _refuse(finding: str | None) -> None:
    if finding is not None:
        raise ValueError(finding)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError("there is no manifest.json that says which columns it may have: prepare the data set again")
    return json.loads(path.read_text(encoding="utf-8"))


def _finding(key: str, value: Any, private: Private) -> str | None:
    if key in IDENTIFYING and value not in (None, ""):
        return f"holds {key!r}, by which people are known"
    text = str(value)
    if len(text) > _FREE_TEXT:
        return f"holds a text of {len(text)} characters under {key!r}: reports and remarks do not go"
    finding = private.find(text)
    return finding and f"holds {finding} (under {key!r})"


def _without_tensors(path: Path) -> bytes:
    """An ONNX model without the numbers of its tensors, in which any short text is found by chance."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ValueError("cannot be looked into: pip install hf_radmae[onnx]") from error
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError("is no whole ONNX file") from error
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError("keeps its weights in another file: export it as one")
        tensor.ClearField("raw_data")
    return model.SerializeToString()


def _safetensors_finding(path: Path, private: Private) -> str | None:
    """What is beside the tensors: metadata other than their format, names that tell something, bytes after the end."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= path.stat().st_size else b"null"
    tensors = json.loads(header)
    if not isinstance(tensors, dict):
        return "is no whole safetensors file"
    metadata = tensors.pop("__metadata__", {})
    if extra := sorted(metadata.keys() - {"format"}):
        return f"has metadata {', '.join(extra)}: save it with metadata={{'format': 'pt'}} alone"
    end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    if path.stat().st_size != 8 + length + end:
        return "has another length than its header says"
    finding = private.find("\n".join([*metadata.values(), *tensors]))
    return finding and f"holds {finding}"


def _drop_local(value: Any) -> Iterator[str]:
    """Take out of a JSON value, in place, the keys that hold places on this machine; yields their names."""
    if isinstance(value, dict):
        for key in [key for key in value if key in _LOCAL_KEYS and isinstance(value[key], str)]:
            del value[key]
            yield key
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _drop_local(child)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of every text, number and truth value in a JSON value, keys included."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield key, name
            yield from _leaves(child, name)
    elif isinstance(value, list):
        for child in value:
            yield from _leaves(child, key)
    else:
        yield key, value
