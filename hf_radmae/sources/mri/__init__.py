"""MRI, the radiograph archive of the hospital Klinikum rechts der Isar: index, cleaning, body parts."""

from hf_radmae.sources.mri.builder import MRI

__all__ = ["MRI"]
