"""A second reader is a real model of transformers, here a tiny one that the test makes."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)

from hf_radmae import label_reports
from hf_radmae.reports.second_reader import ModelReader

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "fracture",
    "present",
    "absent",
    "uncertain",
    "is",
    "Keine",
    "Fraktur",
    ".",
    "yes",
]


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "eos_token": "[SEP]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **names)


@pytest.fixture(params=["zero-shot", "instruct"])
def checkpoint(request, tmp_path):
    torch.manual_seed(0)
    size = {"vocab_size": len(WORDS)}
    if request.param == "zero-shot":
        options = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        names = {0: "contradiction", 1: "neutral", 2: "entailment"}
        config = BertConfig(**size, **options, id2label=names, label2id={name: i for i, name in names.items()})
        model = BertForSequenceClassification(config)
    else:
        model = GPT2LMHeadModel(GPT2Config(**size, n_embd=16, n_layer=1, n_head=2, n_positions=128))
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_checkpoint_answers_with_the_words_of_labels(checkpoint):
    reader = ModelReader(str(checkpoint))
    found = reader("Keine Fraktur.", ["fracture", "foreign_material"])
    assert found.keys() == {"fracture", "foreign_material"} and {*found.values()} <= {"yes", "no", "unsure", None}
    row = label_reports(["Keine Fraktur."], ["fracture"], second_reader=reader)[0]
    assert row["fracture"] == ("no" if found["fracture"] in ("no", None) else "unsure")


def test_another_kind_of_checkpoint_is_refused(tmp_path):
    ViTForImageClassification(
        ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is ViTForImageClassification: a second reader is a sequence classifier"):
        ModelReader(str(tmp_path))
