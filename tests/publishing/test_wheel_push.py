"""From `pip install` of the wheel over `hf-radmae push` to `pipeline` in a process that has transformers alone."""

import json
import sys

import pytest
import torch
from damaged import encode
from exported import LABELS, SIDE, WITHOUT_PACKAGE, head, limb, pixels, small_mae
from installed import install, run
from server import HubServer

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.models.modeling_radiograph_vit import pooled_width
from hf_radmae.publishing.card import TEMPLATES, write_card
from hf_radmae.publishing.export import export_classifier, export_processor

pytestmark = pytest.mark.slow  # builds and installs a wheel, and starts four processes that import for seconds

ELSEWHERE = """
import json
from transformers import pipeline

for name, remote in json.loads(sys.argv[1]):
    trust = {"trust_remote_code": True} if remote else {}
    print(json.dumps(pipeline("image-classification", name, device="cpu", **trust)("scan.png")))
"""


@pytest.mark.timeout(1800)
def test_what_the_installed_command_pushes_gives_the_same_scores_elsewhere(tmp_path):
    programs, here, elsewhere = install(tmp_path), tmp_path / "here", tmp_path / "elsewhere"
    expected = {}
    for pooling in ("cls", "mean+max+std"):
        name = pooling.replace("+", "-")
        model = export_classifier(small_mae(), *head(pooled_width(pooling, 32)), LABELS, pooling=pooling)
        model.save_pretrained(here / name)
        processor = RadiographImageProcessor(size={"height": SIDE, "width": SIDE})
        export_processor(processor, model.config).save_pretrained(here / name)
        write_card({"name": name, "classes": LABELS}, here / name, TEMPLATES["classifier"])
        with torch.no_grad():
            expected[name] = model(pixels(limb()).expand(-1, 3, -1, -1)).logits[0].softmax(-1).tolist()
    code = "import hf_radmae; print(hf_radmae.__file__)"
    assert str(programs.parent) in run(programs / "python", "-c", code, cwd=here)
    with HubServer() as hub:
        for name in expected:
            words = ["push", name, f"user/{name}", "--license", "apache-2.0"]
            assert "private" in run(
                programs / "hf-radmae", *words, cwd=here, HF_HOME=str(here / "hf"), **hub.environment
            )
            assert "license: apache-2.0" in hub.repos[f"models/user/{name}"].files["README.md"].decode()
        elsewhere.mkdir()
        (elsewhere / "scan.png").write_bytes(encode(limb(), "PNG"))
        cells = json.dumps([[f"user/{name}", name != "cls"] for name in expected])
        cache = {"HF_HOME": str(elsewhere / "cache"), **hub.environment}
        found = run(sys.executable, "-c", WITHOUT_PACKAGE + ELSEWHERE, cells, cwd=elsewhere, **cache).splitlines()
    for scores, line in zip(expected.values(), found, strict=True):
        by_label = {entry["label"]: entry["score"] for entry in json.loads(line)}
        assert [by_label[label] for label in LABELS] == pytest.approx(scores, abs=1e-4)
        assert max(scores) - min(scores) > 0.05  # scores that could not be told apart would prove nothing
