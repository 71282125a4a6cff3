"""Simulated T1-weighted brains with known ground truth, made from the MNI152 template.

====================  ==========================================================================================
``cohort``            a cohort as a BIDS folder, of warped or of folded brains
``subject``           one subject of the warped cohort as a pure function
``folded_subject``    one subject of the folded cohort as a pure function
``scanning``          from a brain to its scan, with and without lesion and disease, and its measured truth
``subject_factors``   the factors that differ between subjects, and how they are drawn
``ageing``            the age curve, and the same brain at another age
``sessions``          repeated scans of one brain
``disease``           a local change of the anatomy beyond that of age
``anatomy``           the template as tissue maps, and their deformation for a subject
``surfaces``          cortical surfaces of fsaverage5, and the voxels inside them
``cortex``            where the cortex and its shared sulci are in the template
``folding``           the sulci of one subject, and the tissues around them
``interpolation``     several maps at the same positions
``structures``        pockets of CSF that some subjects have
``strip_errors``      errors of brain extraction
``rendering``         from tissue maps to an image: intensities, bias field, noise, lesions
``contrasts``         further contrasts of the same tissues: T2w, FLAIR
``scanners``          what the scanner of a site does to all images
``cohort_tables``     the tables and descriptions in the folder
``cohort_texts``      column descriptions, README and notices
====================  ==========================================================================================
"""

from .ageing import factors_at_age, typical_factors
from .cohort import simulate_cohort
from .subject import SimulatedSubject, load_anatomy, simulate_subject

__all__ = [
    "SimulatedSubject",
    "factors_at_age",
    "load_anatomy",
    "simulate_cohort",
    "simulate_subject",
    "typical_factors",
]
