"""An ONNX file computes what torch computes, on every grid, and tells nothing of the machine that wrote it."""

import os

import pytest
from exported import LABELS, head, small_mae

from hf_radmae.models.modeling_radiograph_vit import pooled_width
from hf_radmae.publishing.export import export_classifier, export_encoder
from hf_radmae.publishing.onnx import GRIDS, export_onnx, largest_difference

for name in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(name)


def model(kind: str):
    if kind == "encoder":
        return export_encoder(small_mae())
    return export_classifier(small_mae(), *head(pooled_width(kind, 32)), LABELS, pooling=kind)


@pytest.mark.parametrize("kind", ["encoder", "cls", "mean+std+grid"])
def test_onnx_equals_torch_on_five_grids_and_says_nothing_of_the_machine(kind, tmp_path):
    network = model(kind)
    path = export_onnx(network, tmp_path / "model.onnx")
    assert len(GRIDS) == 5
    assert largest_difference(network, path) < 1e-4
    for place in (str(tmp_path), os.getcwd(), "site-packages", os.path.expanduser("~") + "/"):
        assert place.encode() not in path.read_bytes()
    if kind == "cls":  # the difference is one of outputs: another head is told apart
        other = export_classifier(small_mae(), *head(32, seed=1), LABELS)
        assert largest_difference(other, path) > 0.1
