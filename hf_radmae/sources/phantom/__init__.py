"""Generated radiographs: analytic bodies under a simulated X-ray beam, the data set that needs no data."""

from hf_radmae.sources.phantom.anatomy import REGIONS
from hf_radmae.sources.phantom.archive import Archive, ArchiveFile, write_archive
from hf_radmae.sources.phantom.cohort import FREQUENCIES, generate, split_of
from hf_radmae.sources.phantom.irma import irma_code, write_irma
from hf_radmae.sources.phantom.phantom import Phantom, PhantomConfig
from hf_radmae.sources.phantom.radiograph import PhantomImage

__all__ = [
    "FREQUENCIES",
    "REGIONS",
    "Archive",
    "ArchiveFile",
    "Phantom",
    "PhantomConfig",
    "PhantomImage",
    "generate",
    "irma_code",
    "split_of",
    "write_archive",
    "write_irma",
]
