"""What a pre-trained network has to beat, one file and one function each: features of every image, for the same heads.

A rival's features are split -> pooling -> float32 (images, width), NaN for an image that cannot be read.
"""

from hf_radmae.study.rivals.hub import hub_features
from hf_radmae.study.rivals.majority import majority_features
from hf_radmae.study.rivals.metadata import metadata_features
from hf_radmae.study.rivals.network import network_features
from hf_radmae.study.rivals.thumbnail import thumbnail_features

__all__ = ["hub_features", "majority_features", "metadata_features", "network_features", "thumbnail_features"]
