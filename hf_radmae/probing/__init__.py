"""Probes on frozen features: what a pre-trained encoder knows, without training it again."""

from hf_radmae.probing.attentive import predict_by_attention
from hf_radmae.probing.features import Features, extract_features
from hf_radmae.probing.heads import LinearProbe, fold_into_linear
from hf_radmae.probing.linear import linear_probe
from hf_radmae.probing.multilabel import multilabel_probe
from hf_radmae.probing.neighbours import predict_by_neighbours
from hf_radmae.probing.table import probe_table, score_rows
from hf_radmae.probing.trained import train_linear_probes

__all__ = [
    "Features",
    "LinearProbe",
    "extract_features",
    "fold_into_linear",
    "linear_probe",
    "multilabel_probe",
    "predict_by_attention",
    "predict_by_neighbours",
    "probe_table",
    "score_rows",
    "train_linear_probes",
]
