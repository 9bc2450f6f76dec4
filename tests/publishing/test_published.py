"""What was published over real HTTP works for a stranger, and tells nothing of anyone."""

import json
import runpy
import sys
import zlib
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from clients import SCRIPTS, pusher, start
from damaged import encode, radiograph
from PIL import Image
from rows import SIZES, make_rows
from server import TOKEN
from transformers import (
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.cli.results import save_results
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.pretraining.trainer import RadMAETrainer, RadMAETrainingArguments
from hf_radmae.publishing.card import TEMPLATES, write_card
from hf_radmae.publishing.gate import Statement
from hf_radmae.publishing.trainer_push import PushCallback
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions
from hf_radmae.sources.phantom import write_archive

STATEMENT = Statement("cc-by-4.0", "Generated images of nobody, ids hashed all the same.", burned_in_checked=True)


def classifier(folder: Path) -> Path:
    """A bare classifier as an export writes it."""
    torch.manual_seed(0)
    names = {0: "chest", 1: "hand", 2: "skull"}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(**sizes, image_size=32, patch_size=8, id2label=names, label2id={v: k for k, v in names.items()})
    model = ViTForImageClassification(config)
    model.classifier.weight.data.mul_(50)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False).save_pretrained(folder)
    return folder


class Few(torch.utils.data.Dataset):
    """Six labelled images."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict:
        torch.manual_seed(index)
        return {"pixel_values": torch.rand(3, 32, 32), "labels": index % 3}


def test_pushed_by_trainer_and_by_script_a_fresh_process_gives_the_same_scores(hub, tmp_path):
    """Once from a Trainer at each save and at the end, once from the script; then two lines, bare, an empty cache."""
    local = classifier(tmp_path / "start")
    options = {"per_device_train_batch_size": 3, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    args = TrainingArguments(
        output_dir=str(tmp_path / "trained"),
        num_train_epochs=2,
        save_strategy="epoch",
        hub_model_id="trained",
        hub_always_push=True,
        save_total_limit=1,
        **options,
    )
    model = AutoModelForImageClassification.from_pretrained(local)
    processor = ViTImageProcessor.from_pretrained(local)
    push = PushCallback(TEMPLATES["classifier"])
    trainer = Trainer(model, args, train_dataset=Few(), processing_class=processor, callbacks=[push])
    trainer.train()
    during = [files for _, files in hub.repos["models/user/trained"].commits]
    trainer.save_model()
    push.push_output(trainer)
    repo = hub.repos["models/user/trained"]
    assert repo.private
    assert len(during) == 3  # the empty one, and one for each save
    model_files = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", ".gitattributes"}
    assert [set(files) for files in during[1:]] + [set(repo.files)] == [model_files] * 3
    assert during[1]["model.safetensors"] != during[2]["model.safetensors"] == repo.files["model.safetensors"]
    assert "Not for diagnosis" in during[1]["README.md"].decode()

    write_card({"name": "start", "classes": ["chest", "hand", "skull"]}, local, TEMPLATES["classifier"])
    run = start("push.py", str(local), "user/by-script", folder=tmp_path)
    assert run.wait(400) == 0, run.communicate()

    Image.fromarray(radiograph(70, 50)).save(tmp_path / "radiograph.png")
    expected = {
        "user/trained": pipeline("image-classification", model=trainer.model.eval(), image_processor=processor),
        "user/by-script": pipeline("image-classification", model=str(local)),
    }
    code = """if True:
        import json, sys
        from transformers import pipeline
        for name in sys.argv[1:]:
            print(json.dumps(pipeline("image-classification", model=name)("radiograph.png")))
        assert "hf_radmae" not in sys.modules
    """
    fresh = start(code, *expected, folder=tmp_path)
    said, errors = fresh.communicate(timeout=400)
    assert fresh.returncode == 0, errors
    for line, local_pipeline in zip(said.splitlines(), expected.values(), strict=True):
        found = {entry["label"]: entry["score"] for entry in json.loads(line)}
        here = {entry["label"]: entry["score"] for entry in local_pipeline(str(tmp_path / "radiograph.png"))}
        assert set(found) == {"chest", "hand", "skull"}
        assert found == pytest.approx(here, abs=1e-6)
        assert (
            max(found.values()) - min(found.values()) > 0.05
        )  # scores that could not be told apart would prove nothing


def pretraining(folder: Path, **options) -> RadMAETrainer:
    bins = fit_bins(np.array(SIZES), num_bins=3, patch_size=8, max_tokens=36, min_images=1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "decoder_hidden_size": 16}
    sizes |= {"decoder_intermediate_size": 32, "decoder_num_hidden_layers": 1, "image_size": 48, "patch_size": 8}
    args = RadMAETrainingArguments(
        output_dir=str(folder), use_cpu=True, num_train_epochs=1, disable_tqdm=True, figure_images=1,
        dataloader_num_workers=0, push_to_hub=True, hub_model_id="mae", **options,
    )  # fmt: skip
    parts = [RadiographDataset(make_rows(images=8), bins, train=train) for train in (True, False)]
    model = RadMAEForPreTraining(preset_config("tiny", **sizes))
    processor = RadiographImageProcessor(bins=bins.to_dict())
    return RadMAETrainer(
        model,
        args,
        train_dataset=parts[0],
        eval_dataset=parts[1],
        processing_class=processor,
        callbacks=[PushCallback()],
    )


def test_a_checkpoint_to_resume_from_is_not_pushed_and_a_strategy_that_would_is_refused(hub, tmp_path):
    with pytest.raises(ValueError, match="--hub_strategy checkpoint"):
        pretraining(tmp_path / "run", hub_strategy="checkpoint")
    assert not hub.repos


def unpacked(files: dict[str, bytes], folder: Path) -> bytes:
    """All that a repository holds as one text: names, contents, Parquet's columns and PNG's compressed parts."""
    parts = []
    for name, content in files.items():
        parts += [name.encode(), content]
        if name.endswith(".parquet"):
            (folder / "shard.parquet").write_bytes(content)
            table = pq.read_table(folder / "shard.parquet")
            chunks = [chunk for column in table.columns for chunk in column.chunks]
            parts += [buffer.to_pybytes() for chunk in chunks for buffer in chunk.buffers() if buffer is not None]
        if name.endswith(".png"):
            parts.append(zlib.decompressobj().decompress(content[content.index(b"IDAT") + 4 :]))
    return b"\n".join(parts)


def test_nothing_that_names_anyone_is_anywhere_in_what_a_hospital_pushes(hub, tmp_path, monkeypatch):
    """From an archive with reports: the prepared data set by the script, and a model by its Trainer."""
    monkeypatch.setenv("LOGNAME", "drmueller")
    monkeypatch.setattr("socket.gethostname", lambda: "pacs-node-17")
    here = tmp_path / "drmueller" / "pacs-node-17"
    archive = write_archive(here / "archive", 24, seed=8, scale=0.04, dirt=0.1)
    shards = here / "shards"
    source = ["--dataset", "mri", "--data_dir", str(archive.folder), "--builder", "verify=none"]
    monkeypatch.setattr(sys, "argv", ["prepare.py", *source, "--output_dir", str(shards), "--longest_side", "48"])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    runpy.run_path(str(SCRIPTS / "prepare.py"), run_name="__main__")
    push = pusher(hub, "shards", kind="dataset", statement=STATEMENT)
    push.open()
    push.push(shards, "shards")

    trainer = pretraining(here / "run", report_to="tensorboard")
    trainer.train()
    trainer.save_model()
    folder = Path(trainer.args.output_dir)
    results = {"name": "run", "data": {"dataset": "mri", "data_dir": str(archive.folder)}}
    save_results(results, folder)
    write_card(results, folder)
    (folder / "skipped.csv").write_text("\n".join(archive.identifiers))
    (folder / "training_args.bin").write_bytes(str(here).encode())
    trainer.pusher.push_output(trainer)

    secrets = {*archive.identifiers, str(tmp_path), "drmueller", "pacs-node-17", TOKEN}
    assert len(archive.identifiers) > 20
    for repo, needed in (("datasets/user/shards", "manifest.json"), ("models/user/mae", "model.safetensors")):
        for _, files in hub.repos[repo].commits:
            everything = unpacked(files, tmp_path)
            for coding in ("utf-8", "latin-1", "utf-16-le"):
                assert [secret for secret in secrets if secret.encode(coding) in everything] == []
        assert needed in files
        assert not [name for name in files if "events" in name or name.endswith((".bin", ".csv"))]
    assert {path.name for path in folder.rglob("events.out*")}  # there were some
    assert "reconstructions.png" not in hub.repos["models/user/mae"].files  # it shows patients


@pytest.mark.slow
def test_a_fine_tuned_model_is_pushed_with_its_results_and_its_code(hub, tmp_path):
    options = (
        "--num_images 60 --phantom_scale 0.04 --max_tokens 16 --num_train_epochs 1 --num_channels 3 --use_cpu true"
    )
    words = [*options.split(), "--label", "body_region", "--report_to", "none", "--output_dir", str(tmp_path / "ft")]
    words += ["--dataloader_num_workers", "0", "--push_to_hub", "true", "--hub_model_id", "ft", "--hub_strategy", "end"]
    run = start("finetune.py", *words, folder=tmp_path)
    assert run.wait(400) == 0, run.communicate()
    files = hub.repos["models/user/ft"].files
    needed = {"config.json", "model.safetensors", "preprocessor_config.json", "results.json"}
    assert {*needed, "modeling_radiograph_vit.py"} <= set(files)
    assert "| balanced accuracy |" in files["README.md"].decode()


def test_a_pushed_data_set_is_read_by_bare_datasets(hub, tmp_path):
    rows = make_rows([encode(radiograph(40, 30, seed=i), "PNG") for i in range(6)])
    prepare({"train": rows}, tmp_path / "shards", PrepareOptions(images_per_shard=3), key=b"k")
    push = pusher(hub, "shards", kind="dataset", statement=STATEMENT)
    push.open()
    push.push(tmp_path / "shards", "x")
    code = """if True:
        import sys, datasets
        rows = datasets.load_dataset("user/shards", split="train")
        print(len(rows), rows[0]["image"].size, rows.column_names)
    """
    run = start(code, folder=tmp_path)
    said, errors = run.communicate(timeout=400)
    assert run.returncode == 0, errors
    assert said.startswith("6 (30, 40) ['image', 'image_id', 'height'"), said
