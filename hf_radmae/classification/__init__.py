"""Supervised training: a ResNet or a ViT from scratch, or fine-tuning from a masked autoencoder.

labels = fit_labels(parts["train"].rows, "body_region")
model = build_classifier("vit", labels, preset="tiny", patch_size=8, image_size=128)
run = train_classifier(model, parts, "body_region", ClassifierTrainingArguments(output_dir="out/vit"))
"""

from hf_radmae.classification.data import CachedRadiographs, LabelledRadiographs
from hf_radmae.classification.labels import Labels, fit_labels
from hf_radmae.classification.networks import build_classifier
from hf_radmae.classification.scores import Predictions, score
from hf_radmae.classification.train import TrainedClassifier, train_classifier
from hf_radmae.classification.trainer import ClassifierTrainer
from hf_radmae.classification.training_args import ClassifierTrainingArguments

__all__ = [
    "CachedRadiographs",
    "ClassifierTrainer",
    "ClassifierTrainingArguments",
    "LabelledRadiographs",
    "Labels",
    "Predictions",
    "TrainedClassifier",
    "build_classifier",
    "fit_labels",
    "score",
    "train_classifier",
]
