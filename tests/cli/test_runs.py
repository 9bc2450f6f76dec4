"""What the training commands share: a finished run is reported, skipped images are counted alike by all ranks."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from hf_radmae.batching.skipped import TooManySkippedError, skipped_image
from hf_radmae.classification.setup import LabelledDataArguments, TaskArguments
from hf_radmae.classification.training_args import ClassifierTrainingArguments
from hf_radmae.cli.finetune import finetune, scores_text
from hf_radmae.cli.results import save_results
from hf_radmae.cli.runs import opening, options_of, skipped_images


def test_a_finished_classifier_with_a_score_that_is_none_is_reported(tmp_path):
    options = LabelledDataArguments(), TaskArguments()
    args = ClassifierTrainingArguments(output_dir=str(tmp_path), use_cpu=True, dataloader_num_workers=0)
    scores = {"accuracy": 0.5, "auroc": float("nan")}
    path = save_results(opening(args, options_of(args, *options)) | {"test": scores}, tmp_path)
    assert json.loads(path.read_text())["test"]["auroc"] is None
    said: list[str] = []
    finetune(*options, args, said.append)
    assert said == [
        f"{tmp_path} holds this run, finished: test accuracy 0.500. Nothing was changed; --resume none starts anew."
    ]


def test_a_score_that_one_split_lacks_leaves_a_dash():
    """Of a single class there is no AUROC, and of few resamples no end of an interval."""
    both = {"accuracy": -0.25, "accuracy_low": -11.593, "accuracy_high": -0.1}
    lines = scores_text({"validation": both, "test": both | {"auroc": 0.5, "auroc_low": 0.25}}).splitlines()
    found = "-0.250 (-11.593 to -0.100)"
    assert lines[1].split("  ")[-2:] == [found, found]
    assert lines[2].split() == ["auroc", "-", "0.500"]


def test_where_needs_a_value():
    with pytest.raises(ValueError, match="--where sex: expected COLUMN=VALUE"):
        TaskArguments(where="sex")


def test_a_reader_that_goes_away_does_not_end_a_run(tmp_path):
    code = "import sys; from hf_radmae.cli.runs import own_folder\n"
    code += "from hf_radmae.pretraining.training_args import RadMAETrainingArguments\n"
    code += "args = RadMAETrainingArguments(output_dir=sys.argv[1], use_cpu=True, dataloader_num_workers=0)\n"
    code += "with own_folder(args) as say:\n"
    code += "    for _ in range(3): say('x' * 100_000, flush=True)\n"
    code += "    open(f'{sys.argv[1]}/ended', 'w').close()"
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    run.stdout.read(10)
    run.stdout.close()
    assert run.wait(200) == 0
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("started_later", [False, True])
def test_all_ranks_count_the_images_that_a_source_left_out(tmp_path, started_later):
    """A rank may open the list before or after the first one has written it."""
    unreadable = [skipped_image(f"{i}.png", "is empty", "train", i) for i in range(5)]
    ranks = [SimpleNamespace(output_dir=tmp_path, process_index=i, max_skipped_share=0.5) for i in range(2)]
    for rank in ranks if started_later else ranks[::-1]:
        skipped = skipped_images(rank, 5, unreadable)
        assert len(skipped) == 5 and skipped.total == 10
        with pytest.raises(TooManySkippedError, match="6 of 10 images"):
            skipped.add([skipped_image("last.png", "is cut", "train", 9)], write=False)
    assert [row["index"] for row in skipped.rows()] == list(range(5))
