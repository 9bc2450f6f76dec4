"""IRMA, the 12,677 radiographs of RWTH Aachen, and its codes."""

from hf_radmae.sources.irma.builder import IRMA

__all__ = ["IRMA"]
