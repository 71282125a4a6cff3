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

# the columns that a folded cohort has beyond those above
FOLDED_COLUMNS: dict[str, dict[str, Any]] = {
    "base_anatomy": {
        "Description": "where the shared sulci come from",
        "Levels": {
            "fsaverage": "each hemisphere of fsaverage5",
            "fsaverage-swapped": "the hemispheres of fsaverage5, mirrored: each shows the other's sulci",
            "fsaverage-left": "the left hemisphere of fsaverage5, mirrored for the right one",
            "fsaverage-right": "the right hemisphere of fsaverage5, mirrored for the left one",
            "mni152": "the CSF of the MNI152 template",
        },
    },
    "strip_error": {
        "Description": "error of brain extraction",
        "Levels": {"none": "no error", "dura": "tissue beyond the brain is kept", "bite": "cortex is cut away"},
    },
    "factor_shared_sulci": {"Description": "knob: how much of the base anatomy's sulci the subject has, 0 to 1"},
    "factor_own_sulci": {"Description": "knob: depth of the subject's own sulci relative to typical ones"},
    "factor_fold_wavelength": {"Description": "knob: wavelength of the subject's own sulci", "Units": "mm"},
    "factor_cortical_thickness": {"Description": "knob: thickness of the cortex relative to a typical one"},
    "factor_horns": {"Description": "knob: log of how much wider the frontal ends of the ventricles are than usual"},
    "factor_ventricle_side": {"Description": "knob: log of how much wider the right ventricle is than usual"},
    "paracingulate_left": {"Description": "1 with a left paracingulate sulcus, 0 without"},
    "paracingulate_right": {"Description": "1 with a right paracingulate sulcus, 0 without"},
    "cavum": {"Description": "1 with a cavum septi pellucidi, 0 without"},
    "cyst": {"Description": "1 with an arachnoid cyst at a temporal pole, 0 without"},
    "cisterna": {"Description": "1 with a mega cisterna magna, 0 without"},
    "sulcal_csf_ml": {"Description": "measured: CSF over 2 mm below the outline of the hemispheres", "Units": "ml"},
    "sulcal_depth_mm": {"Description": "measured: mean depth of that CSF below the outline", "Units": "mm"},
    "own_sulci_ml": {"Description": "measured: CSF that the subject would lack without its own sulci", "Units": "ml"},
    "paracingulate_ml": {
        "Description": "measured: CSF that the subject would lack without its paracingulate sulci",
        "Units": "ml",
    },
    "cavum_ml": {"Description": "measured: CSF of the cavum, no part of ventricle_ml", "Units": "ml"},
    "cyst_ml": {"Description": "measured: CSF that the arachnoid cyst adds", "Units": "ml"},
    "cisterna_ml": {"Description": "measured: CSF that the mega cisterna magna adds", "Units": "ml"},
    "dura_ml": {"Description": "measured: what brain extraction left beyond the brain", "Units": "ml"},
    "bite_ml": {
        "Description": "measured: what brain extraction cut away; all other volumes are those before",
        "Units": "ml",
    },
}

# the columns that a cohort with patients has beyond those above
DISEASE_COLUMNS: dict[str, dict[str, Any]] = {
    "diagnosis": {
        "Description": "whether the brain has the simulated disease; independent of age, sex, site and lesion",
        "Levels": {
            "control": "no disease",
            "patient": "wider ventricles at the back, smaller hippocampi, thinner temporal cortex",
        },
    },
    "severity": {"Description": "knob: severity of the disease, 0.2 to 1, and 0 without it"},
    "disease_csf_ml": {"Description": "measured: CSF that the subject would lack without the disease", "Units": "ml"},
}

# sessions.json: the columns of sub-*_sessions.tsv except the first
SESSION_COLUMNS: dict[str, dict[str, Any]] = {
    "head_nod": {"Description": "rotation of the head since the first session about x (right)", "Units": "degrees"},
    "head_tilt": {"Description": "rotation of the head since the first session about y (front)", "Units": "degrees"},
    "head_turn": {"Description": "rotation of the head since the first session about z (up)", "Units": "degrees"},
    "head_x_mm": {"Description": "shift of the head since the first session to the right", "Units": "mm"},
    "head_y_mm": {"Description": "shift of the head since the first session to the front", "Units": "mm"},
    "head_z_mm": {"Description": "shift of the head since the first session upwards", "Units": "mm"},
    "scan_bias": {"Description": "standard deviation of the log of the scan's bias field, before the site's factor"},
    "scan_noise": {"Description": "standard deviation of the noise relative to white matter, before the site's factor"},
    "scan_gain": {"Description": "intensity of white matter without bias field"},
    "scan_exponent": {"Description": "power of the signal, in which white matter is 1"},
}

# sites.json: the columns of sites.tsv except the first
SITE_COLUMNS: dict[str, dict[str, Any]] = {
    "in_plane_mm": {"Description": "full width at half maximum of the point spread in a slice", "Units": "mm"},
    "slice_mm": {"Description": "full width at half maximum of the point spread across the slices", "Units": "mm"},
    "slice_axis": {
        "Description": "direction across the slices",
        "Levels": {"x": "sagittal slices", "y": "coronal slices", "z": "axial slices"},
    },
    "noise_scale": {"Description": "factor of the noise of each scan"},
    "bias_scale": {"Description": "factor of the log of each scan's own bias field"},
    "site_bias": {"Description": "standard deviation of the log of the bias field that the site's scans share"},
    "exponent": {
        "Description": "c of the response (s (1 + b) / (1 + b s))^c to a signal s, in which white matter is 1"
    },
    "bend": {"Description": "b of that response"},
    "distortion_mm": {
        "Description": "root mean square of the displacement by gradient nonlinearity within 80 mm of the centre",
        "Units": "mm",
    },
}


def participant_columns(
    *, folded: bool, disease: bool, sites: list[str], strong_sites: bool
) -> dict[str, dict[str, Any]]:
    """Return the columns of participants.tsv except the first, in order, with their descriptions.

    Args:
        folded: whether the brains are folded.
        disease: whether there is a group of patients.
        sites: names of the sites.
        strong_sites: whether sites differ by more than the contrast.
    """
    columns = dict(COLUMNS)
    if strong_sites or list(COLUMNS["site"]["Levels"]) != sites:
        shifts = "simulated site; shifts grey/white contrast" + (", and see sites.tsv" if strong_sites else "")
        names = "contrast rises from the first to the last"
        columns["site"] = {"Description": shifts, "Levels": dict.fromkeys(sites, names)}
    return columns | (FOLDED_COLUMNS if folded else {}) | (DISEASE_COLUMNS if disease else {})


_OPENING = """\
Simulated T1-weighted brains with known truth

No person was scanned for these images. They were computed by monai_betavae.data.simulate_cohort, version {version},
"""

_LABEL = """\
{arguments}
and these arguments give the same files again. Label every score obtained on these data "simulated".

"""

_SCAN_AND_FILES = """\
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

SESSIONS_README = """
Each subject was scanned several times: ses-1, ses-2 and so on have the same anatomy. The truth in participants.tsv is
that of the anatomy; sub-*/sub-*_sessions.tsv says how each scan was made (sessions.json describes the columns).
"""

SITES_README = """
The scanners of the sites differ in point spread, noise, bias field, response and gradient nonlinearity: sites.tsv
(sites.json describes the columns). All truth is that of the anatomy before these effects, except for the lesion masks.
A point spread also changes the voxels next to a lesion.
"""

DISEASE_README = """
Some subjects have a disease (column diagnosis) that widens the back of the ventricles, shrinks the hippocampi and thins
the lateral temporal cortex. Their images show it; what would have been scanned without it is known:

derivatives/unaffected/     the same images of the patients without disease and lesion, all else equal
derivatives/disease/        masks of the voxels of which the disease changed at least 5 %, for each image of a patient;
                            severity1_label-disease_probseg.nii.gz is the share changed in a typical head at severity 1
"""

CONTRASTS_README = """
Each scan also has images of other contrasts, T2w or FLAIR, of the same tissues on the same grid. Only the order of the
tissues' intensities is that of real images. The images under derivatives are T1w.
"""

README = (
    _OPENING
    + "from the MNI152 2009a template (see NOTICE), with\n"
    + _LABEL
    + """\
Each subject is the template's tissue maps under a warp, rendered as an image. Six factors are drawn independently:
brain size, ventricle volume, cortical atrophy, grey/white contrast, left-right asymmetry, and a lesion for some.
"""
    + _SCAN_AND_FILES
)

NOTICE = """\
These images are computed from the MNI152 2009a template:

Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
University. Permission to use, copy, modify, and distribute this software and its documentation for any purpose and
without fee is hereby granted, provided that the above copyright notice appear in all copies. The authors and McGill
University make no representations about the suitability of this software for any purpose. It is provided "as is"
without express or implied warranty. The authors are not responsible for any data loss, equipment damage, property
loss, or injury to subjects or patients resulting from the use or misuse of this software package.
"""

FOLDED_README = (
    _OPENING
    + "from the MNI152 2009a template and the surfaces of fsaverage5 (see NOTICE), with\n"
    + _LABEL
    + """\
Each brain is folded on its own: its sulci come in part from one of five base anatomies, with other interruptions,
depths and places in each subject, and in part from a random field. Some have a paracingulate sulcus, a cavum septi
pellucidi, an arachnoid cyst, a mega cisterna magna, or an error of brain extraction. Beside these, six factors are
drawn independently: brain size, ventricle volume, cortical atrophy, grey/white contrast, left-right asymmetry, and a
lesion for some. Subject i of a seed has the same factors, covariates and nuisance as in the cohort of anatomy "warped".
"""
    + _SCAN_AND_FILES
)

FOLDED_NOTICE = """
and from the surfaces of fsaverage5, which nilearn distributes:

fsaverage is part of FreeSurfer, Copyright (C) The General Hospital Corporation (Boston, MA), and is used under the
FreeSurfer Software License Agreement: https://surfer.nmr.mgh.harvard.edu/fswiki/FreeSurferSoftwareLicense
"""
