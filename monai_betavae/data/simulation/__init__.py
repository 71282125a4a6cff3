"""Simulated T1-weighted brains with known ground truth, made from the MNI152 template.

====================  ==========================================================================================
``cohort``            a cohort as a BIDS folder, of warped or of folded brains
``subject``           one subject of the warped cohort as a pure function, and its measured truth
``folded_subject``    one subject of the folded cohort as a pure function
``subject_factors``   the factors that differ between subjects, and how they are drawn
``anatomy``           the template as tissue maps, and their deformation for a subject
``surfaces``          cortical surfaces of fsaverage5, and the voxels inside them
``cortex``            where the cortex and its shared sulci are in the template
``folding``           the sulci of one subject, and the tissues around them
``interpolation``     several maps at the same positions
``structures``        pockets of CSF that some subjects have
``strip_errors``      errors of brain extraction
``rendering``         from tissue maps to an image: intensities, bias field, noise, lesions
``cohort_texts``      column descriptions, README and notices
====================  ==========================================================================================
"""

from .cohort import simulate_cohort
from .subject import SimulatedSubject, simulate_subject

__all__ = ["SimulatedSubject", "simulate_cohort", "simulate_subject"]
