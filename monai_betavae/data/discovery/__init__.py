"""Find the volumes of a source: a folder, a table, a datalist, a glob, or a public cohort.

==================  ============================================================================================
``sources``         ``discover``: which kind of source it is, one record per volume
``bids``            BIDS folders with their tables
``bids_entities``   the entities that choose among a subject's volumes
``listed_volumes``  volumes that a table or datalist names
``cohort_loaders``  OASIS, IXI, the Medical Segmentation Decathlon
==================  ============================================================================================
"""

from .cohort_loaders import decathlon, ixi, oasis_vbm
from .sources import discover

__all__ = ["decathlon", "discover", "ixi", "oasis_vbm"]
