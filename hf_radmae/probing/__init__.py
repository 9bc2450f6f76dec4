"""Probes on frozen features: what a pre-trained encoder knows, without training it again."""

from hf_radmae.probing.features import Features, collect_features, extract_features
from hf_radmae.probing.heads import (
    AttentiveProbe,
    LinearProbe,
    attentive_probe,
    fold_into_linear,
    linear_probe,
    propagated_probe,
    searched_probe,
)

__all__ = [
    "AttentiveProbe",
    "Features",
    "LinearProbe",
    "attentive_probe",
    "collect_features",
    "extract_features",
    "fold_into_linear",
    "linear_probe",
    "propagated_probe",
    "searched_probe",
]
