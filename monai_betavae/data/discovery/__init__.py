"""Find the volumes of a source: a folder, a table, a datalist, a glob, or a public cohort.

=====================  ============================================================================================
``sources``            ``discover``: recognise the kind of source and return one record per volume
``bids``               BIDS folders with their tables
``bids_entities``      entities that select among a subject's volumes
``matched_contrasts``  images of several contrasts that belong together
``listed_volumes``     volumes that a table or datalist lists
``cohort_loaders``     OASIS, IXI, the Medical Segmentation Decathlon
=====================  ============================================================================================
"""

from .cohort_loaders import decathlon, ixi, oasis_vbm
from .sources import discover

__all__ = ["decathlon", "discover", "ixi", "oasis_vbm"]
