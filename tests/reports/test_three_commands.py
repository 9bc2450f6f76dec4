"""From a CSV of reports and a folder of images to a trained classifier, by the commands of the benchmarks page."""

import csv
import json
import re
import shlex
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_radmae.sources.phantom.cohort import generate
from hf_radmae.sources.phantom.people import person, visit
from hf_radmae.sources.phantom.reports import write_report

PAGE = Path(__file__).parents[2] / "scripts" / "benchmarks" / "README.md"
COMMAND = "import sys; sys.argv[0] = 'hf-radmae'; from hf_radmae.cli.main import main; main()"


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_three_commands_lead_from_reports_and_images_to_a_classifier(tmp_path):
    section = PAGE.read_text(encoding="utf-8").partition("### Three commands\n")[2]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block is not None
    commands = [shlex.split(line) for line in block[1].replace("\\\n", " ").splitlines() if line.strip()]
    assert [words[:2] for words in commands] == [
        ["hf-radmae", command] for command in ("label-reports", "pretrain", "finetune")
    ]
    with (tmp_path / "reports.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["exam", "text"])
        for patient, images in groupby(generate(100, seed=5, scale=0.03), key=lambda image: image.patient):
            for number, exam in groupby(images, key=lambda image: image.exam):
                taken, when = list(exam), visit(5, patient, number)
                table.writerow([when.exam, write_report(taken, False, person(5, patient), when, None)])
                folder = tmp_path / "images" / f"patient{patient}" / when.exam
                folder.mkdir(parents=True)
                for image in taken:
                    Image.fromarray(image.pixels()).save(folder / f"{image.image}.png")
    for words in commands:
        run = [sys.executable, "-c", COMMAND, *words[1:]]
        ended = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
        assert ended.returncode == 0, (words, ended.stderr[-3000:])
    assert set(pq.read_table(tmp_path / "labels.parquet")["fracture"].to_pylist()) >= {"yes", "no"}
    results = json.loads((tmp_path / "out" / "fracture" / "results.json").read_text())
    assert results["label_sources"]["train"]["report"] > 40 and results["label_sources"]["train"]["hand"] == 0
    assert results["label_sources"]["test"]["report"] > 5 and 0 <= results["test"]["balanced_accuracy"] <= 1
