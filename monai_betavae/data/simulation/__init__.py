"""Simulated T1-weighted brains with known ground truth, made from the MNI152 template.

====================  ==========================================================================================
``cohort``            one subject as a pure function, a cohort as a BIDS folder
``subject_factors``   the factors that differ between subjects, and how they are drawn
``anatomy``           the template as tissue maps, and their deformation for a subject
``rendering``         from tissue maps to an image: intensities, bias field, noise, lesions
``cohort_texts``      column descriptions, README and the template's notice
====================  ==========================================================================================
"""

from .cohort import SimulatedSubject, simulate_cohort, simulate_subject

__all__ = ["SimulatedSubject", "simulate_cohort", "simulate_subject"]
