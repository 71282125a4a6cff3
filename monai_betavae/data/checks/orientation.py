"""The source of a volume's orientation, and whether the two transforms of its header agree on left and right."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np

AGREE, TURNED, MIRRORED, GUESSED, OF_FORMAT = "agree", "turned", "mirrored", "guessed", ""
"""What :func:`orientation_source` returns besides "sform" and "qform"."""


def orientation_source(image: Any) -> str:
    """Return the source of a volume's orientation.

    A NIfTI header has two transforms, each with a code that is 0 if the transform is unset. nibabel uses the sform if
    its code isn't 0, otherwise the qform. Without either, it assumes that x runs to the left, as ANALYZE did: a file
    that lost its codes may appear mirrored.

    Args:
        image: a nibabel image.

    Returns:
        "agree" (both transforms are set, along the same axes), "sform" or "qform" (only this one is set), "turned"
        (their axes differ, but not in handedness), "mirrored" (one is the mirror image of the other), "guessed"
        (neither is set), or "" for formats with one transform.

    Example:
        >>> image = nib.Nifti1Image(np.zeros((2, 2, 2)), np.diag([-2.0, 2.0, 2.0, 1.0]))
        >>> image.set_qform(np.diag([2.0, 2.0, 2.0, 1.0]), code=1)
        >>> orientation_source(image)
        'mirrored'
        >>> image.header["sform_code"] = image.header["qform_code"] = 0
        >>> orientation_source(image)
        'guessed'
    """
    header = getattr(image, "header", None)
    if not isinstance(header, nib.Nifti1Header):
        return OF_FORMAT
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not (has_sform and has_qform):
        return "sform" if has_sform else "qform" if has_qform else GUESSED
    try:
        sform, qform = header.get_sform(), header.get_qform()
    except Exception:  # nibabel raises several errors for an invalid quaternion; the sform counts anyway
        return "sform"
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        return MIRRORED
    return AGREE if nib.aff2axcodes(sform) == nib.aff2axcodes(qform) else TURNED
