"""The texts in the folder of a simulated cohort: column descriptions, README and the template's notice."""

from __future__ import annotations

from typing import Any

# participants.json: all columns of participants.tsv except the first, in order
COLUMNS: dict[str, dict[str, Any]] = {
    "group": {
        "Description": "whether the image holds a simulated lesion",
        "Levels": {"control": "no lesion", "lesion": "a white-matter lesion"},
    },
    "split": {
        "Description": "section of dataset.json",
        "Levels": {"training": "70 %", "validation": "15 %", "test": "15 %"},
    },
    "age": {
        "Description": "simulated age: 55 + 11 * (z of log ventricle volume + z of atrophy) + noise, clipped to 18-95",
        "Units": "years",
    },
    "sex": {"Description": "simulated sex; shifts brain size", "Levels": {"F": "female", "M": "male"}},
    "site": {
        "Description": "simulated site; shifts grey/white contrast",
        "Levels": {"site-A": "lower contrast", "site-B": "middle", "site-C": "higher contrast"},
    },
    "control": {"Description": "negative control: standard normal, changes nothing in the image"},
    "factor_brain_size": {"Description": "knob: volume of the head relative to a typical one"},
    "factor_ventricles": {"Description": "knob: volume of the lateral ventricles relative to the template's"},
    "factor_atrophy": {"Description": "knob: share of the cortical rim that has turned into CSF, 0 to 1"},
    "factor_contrast": {"Description": "knob: 1 - GM intensity / WM intensity"},
    "factor_asymmetry": {"Description": "knob: (right - left) / (right + left) of the hemispheres' volumes"},
    "factor_lesion": {"Description": "knob: lesion volume asked for, 0 without lesion", "Units": "ml"},
    "factor_lesion_intensity": {
        "Description": "knob: how far the lesion goes from the tissue's intensity (0) to that of CSF (1)"
    },
    "intracranial_ml": {
        "Description": "measured: grey matter, white matter and CSF inside the brain mask",
        "Units": "ml",
    },
    "brain_ml": {"Description": "measured: grey and white matter", "Units": "ml"},
    "gm_ml": {"Description": "measured: grey matter", "Units": "ml"},
    "wm_ml": {"Description": "measured: white matter, what the lesion covers included", "Units": "ml"},
    "csf_ml": {"Description": "measured: CSF inside the brain mask, ventricles included", "Units": "ml"},
    "ventricle_ml": {"Description": "measured: lateral ventricles", "Units": "ml"},
    "cortical_csf_fraction": {"Description": "measured: (csf_ml - ventricle_ml) / intracranial_ml"},
    "contrast": {"Description": "measured: 1 - GM / WM, fitted to the image before bias field, gain, noise and lesion"},
    "asymmetry_index": {"Description": "measured: (right - left) / (right + left) of grey and white matter"},
    "lesion_ml": {"Description": "measured: volume of the lesion mask", "Units": "ml"},
}

README = """\
Simulated T1-weighted brains with known truth

No person was scanned for these images. They were computed by monai_betavae.data.simulate_cohort, version {version},
from the MNI152 2009a template (see NOTICE), with
{arguments}
and these arguments give the same files again. Label every score obtained on these data "simulated".

Each subject is the template's tissue maps under a warp, rendered as an image. Six factors are drawn independently:
brain size, ventricle volume, cortical atrophy, grey/white contrast, left-right asymmetry, and a lesion for some.
Head tilt and shift, a small random deformation, a bias field, a gain and Rician noise are added. Volumes are
brain-extracted: 0 outside the brain. Coordinates are RAS in mm from the anterior commissure; brains have their own
size and are not scaled to the template.

participants.tsv            covariates, the factors as asked for (factor_*), and the truth as measured;
                            participants.json describes each column
sub-*/anat/*_T1w.nii.gz     the images; those of group "lesion" hold a lesion
derivatives/healthy/        the same images of that group without the lesion, all else equal to the last bit of noise
derivatives/lesions/        the masks of the lesions; outside of them the two images are identical
dataset.json                MONAI datalist with sections training, validation and test; paths from this folder
"""

NOTICE = """\
These images are computed from the MNI152 2009a template:

Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
University. Permission to use, copy, modify, and distribute this software and its documentation for any purpose and
without fee is hereby granted, provided that the above copyright notice appear in all copies. The authors and McGill
University make no representations about the suitability of this software for any purpose. It is provided "as is"
without express or implied warranty. The authors are not responsible for any data loss, equipment damage, property
loss, or injury to subjects or patients resulting from the use or misuse of this software package.
"""
