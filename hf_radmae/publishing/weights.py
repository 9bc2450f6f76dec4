"""Weights written anew: the header of safetensors and the graph of ONNX, with names of a closed set.

The numbers stay as they are. Whoever hides a text in the numbers of a tensor is not found.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from hf_radmae.publishing.json_files import parse_json
from hf_radmae.publishing.words import words

_TENSOR = re.compile(
    rf"(?:{'|'.join(sorted(words('modules')))})(?:\.(?:(?:\d{{1,3}}\.)?(?:{'|'.join(sorted(words('modules')))})))*"
)
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}


def is_tensor_name(name: str) -> bool:
    """Whether a name is one of modules that networks of this package have, with numbers of layers between."""
    return _TENSOR.fullmatch(name) is not None


def rewrite_safetensors(source: Path, target: Path) -> None:
    """Copy the numbers of a safetensors file behind a header that holds names, types, shapes and places alone.

    Raises:
        ValueError: it is no whole safetensors file, has gaps, other metadata than its format, or other names or types
            of tensors than networks of this package have.
    """
    size = source.stat().st_size
    with source.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = parse_json(file.read(length)) if length <= size else None
        if not isinstance(header, dict):
            raise ValueError("is no whole safetensors file")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or metadata not in ({}, {"format": "pt"}):
            extra = sorted(set(metadata) - {"format"}) or ["another format"]
            raise ValueError(f"has metadata {', '.join(extra)}: save it with metadata={{'format': 'pt'}} alone")
        end = 0
        for name, tensor in sorted(header.items(), key=lambda item: _offsets(item[1])):
            if not is_tensor_name(name):
                raise ValueError(f"has the tensor {name!r}: no network of this package has a module of that name")
            if not isinstance(tensor, dict) or set(tensor) != {"dtype", "shape", "data_offsets"}:
                raise ValueError(f"says more of the tensor {name} than type, shape and place")
            counter = tensor["dtype"] == "I64" and tensor["shape"] == []  # of a batch norm
            if not counter and tensor["dtype"] not in _SIZES:
                raise ValueError(f"holds {tensor['dtype']} in {name}: expected floating point numbers")
            begin, after = _offsets(tensor)
            if begin != end or after - begin != prod(tensor["shape"]) * (8 if counter else _SIZES[tensor["dtype"]]):
                raise ValueError(f"has another length at the tensor {name} than its header says")
            end = after
        if size != 8 + length + end:
            raise ValueError("has another length than its header says")
        content = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
        content += b" " * (-len(content) % 8)
        with target.open("wb") as out:
            out.write(len(content).to_bytes(8, "little") + content)
            file.seek(8 + length)
            shutil.copyfileobj(file, out, 2**24)


def _offsets(tensor: Any) -> tuple[int, int]:
    places = tensor.get("data_offsets") if isinstance(tensor, dict) else None
    shape = tensor.get("shape") if isinstance(tensor, dict) else None
    numbers = [*places, *shape] if isinstance(places, list) and isinstance(shape, list) and len(places) == 2 else [None]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("is no whole safetensors file")
    return places[0], places[1]  # type: ignore[index]  # a list by now


_ENDS = {"pixel_values", "patch_mask", "logits", "last_hidden_state"}
_DIMENSIONS = re.compile(r"(?:(?:\d{1,4}\*)?(?:batch|rows|columns|height|width|channels|patches|tokens|classes)|)")


def rewrite_onnx(source: Path, target: Path) -> None:
    """Write the graph of an ONNX file anew: operations, numbers, inputs and outputs; every other name becomes a number.

    Raises:
        ValueError: it is no whole ONNX file, keeps weights elsewhere, or has operations, texts or names of its own.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ValueError("cannot be looked into: pip install hf_radmae[onnx]") from error
    try:
        model = onnx.load(source, load_external_data=False)
    except DecodeError as error:
        raise ValueError("is no whole ONNX file") from error
    if not model.HasField("graph") or not model.graph.node:
        raise ValueError("is no whole ONNX file")
    domains = {entry.domain for entry in model.opset_import} | {node.domain for node in model.graph.node}
    if domains - {"", "ai.onnx"} or model.functions:
        raise ValueError("has operations of its own: export it with standard operations only")
    names: dict[str, str] = {"": ""}
    for end in (*model.graph.input, *model.graph.output):
        if end.name not in _ENDS:
            raise ValueError(f"calls an input or output {end.name!r}: expected {', '.join(sorted(_ENDS))}")
        names[end.name] = end.name
    graph = onnx.helper.make_graph(
        list(_nodes(model.graph, names)),
        "graph",
        [_end(end) for end in model.graph.input],
        [_end(end) for end in model.graph.output],
        [_tensor(tensor, names) for tensor in model.graph.initializer if tensor.name in _used(model.graph)],
    )
    opsets = [onnx.helper.make_opsetid(entry.domain, entry.version) for entry in model.opset_import]
    written = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version, producer_name="")
    target.write_bytes(written.SerializeToString())


def _used(graph: Any) -> set[str]:
    """The names that the nodes of a graph read, those within it included, and its outputs."""
    used = {end.name for end in graph.output}
    for node in graph.node:
        used |= set(node.input)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                used |= _used(inner)
    return used


def _renamed(name: str, names: dict[str, str]) -> str:
    return names.setdefault(name, f"v{len(names)}")


def _nodes(graph: Any, names: dict[str, str]) -> Iterator[Any]:
    import onnx

    for node in graph.node:
        if not re.fullmatch(r"[A-Z][A-Za-z]{1,40}", node.op_type) or not onnx.defs.has(node.op_type):
            raise ValueError(f"has the operation {node.op_type!r}, which is none of ONNX")
        written = onnx.NodeProto(op_type=node.op_type)
        written.input.extend(_renamed(name, names) for name in node.input)
        written.output.extend(_renamed(name, names) for name in node.output)
        known = onnx.defs.get_schema(node.op_type).attributes
        for attribute in node.attribute:
            if attribute.name not in known:
                raise ValueError(f"has the attribute {attribute.name!r} of {node.op_type}, which is none of ONNX")
            written.attribute.append(_attribute(attribute, names))
        yield written


def _attribute(attribute: Any, names: dict[str, str]) -> Any:
    import onnx

    kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
    written = onnx.AttributeProto(name=attribute.name, type=attribute.type)
    if kind in ("INT", "FLOAT"):
        setattr(written, kind[0].lower(), getattr(attribute, kind[0].lower()))
    elif kind in ("INTS", "FLOATS"):
        getattr(written, kind.lower()).extend(getattr(attribute, kind.lower()))
    elif kind == "STRING":
        if attribute.s.decode("ascii", errors="replace") not in words("onnx_choices"):
            raise ValueError(f"has a text in the attribute {attribute.name}")
        written.s = attribute.s
    elif kind == "TENSOR":
        written.t.CopyFrom(_tensor(attribute.t, names))
    else:
        raise ValueError(f"has an attribute {attribute.name} of the kind {kind}: export it without")
    return written


def _tensor(tensor: Any, names: dict[str, str]) -> Any:
    import onnx

    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError("keeps its weights in another file: export it as one")
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    if kind not in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT64", "INT32", "BOOL"):
        raise ValueError(f"holds a tensor of {kind}: expected numbers")
    try:
        numbers = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ValueError("holds a tensor of another length than its shape says") from error
    if kind.startswith("INT") and numbers.size > 4096:
        raise ValueError(f"holds a table of {numbers.size} whole numbers, and networks of this package have none")
    return onnx.numpy_helper.from_array(numbers, _renamed(tensor.name, names) if tensor.name else "")


def _end(end: Any) -> Any:
    import onnx

    shape: list[int | str | None] = []
    for dimension in end.type.tensor_type.shape.dim:
        if not _DIMENSIONS.fullmatch(dimension.dim_param):
            raise ValueError(f"calls a dimension {dimension.dim_param!r}")
        shape.append(dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or None)
    known = end.type.tensor_type.HasField("shape")
    return onnx.helper.make_tensor_value_info(end.name, end.type.tensor_type.elem_type, shape if known else None)
