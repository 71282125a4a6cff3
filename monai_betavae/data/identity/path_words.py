"""Words in file and folder names that denote sessions, repeats, groups, kinds of images, and parts of a cohort."""

from __future__ import annotations

import itertools
import re
from datetime import date


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SUBJECT_WORDS = _words("sub subj subject participant patient pat person volunteer proband case animal donor twin child")
"""Words before the number of a subject: ``patient_012``."""

DECISIVE_WORDS = _words("sub subj subject participant")
"""Subject words that settle the subject, whatever else the path contains."""

SESSION_WORDS = _words(
    "ses sess session visit timepoint tp time month months week weeks wk year years yr day wave followup fu date"
)
"""Words before the number of a session: ``visit2``."""

SESSIONS = _words("baseline bl base followup fu pre post screening initial first second third retest")
"""Names of sessions."""

RUN_WORDS = _words("run rep repeat repetition")
"""Words before the number of a repeat within a session."""

GROUP_WORDS = _words("site center centre scanner group grp arm hospital")
"""Words before the number or name of a group: ``site3``, ``site_oslo``."""

COUNTED_GROUP_WORDS = _words("cohort batch fold dataset study")
"""Words before the number or letter of a group; before a name they denote the study: ``study_anna``."""

GROUPS = _words(
    "ad mci emci lmci smci pmci cn nc nl hc ctl ctrl control controls patient patients healthy normal disease diseased "
    "td asd adhd scz sz bd mdd als ftd dlb pd ms hgg lgg case cases young old male female men women"
)
"""Names of groups of subjects."""

SPLITS = {
    "train": "training",
    "training": "training",
    "imagestr": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
    "imagests": "test",
}
"""Names of the parts of a cohort, with this package's names for them."""

KINDS = _words(
    "t1 t1w t1c t1ce t1gd t1n t1post t2 t2w t2f t2star flair pd pdw dwi dti adc fa md swi bold rest asl mra ct pet fdg "
    "mprage mp2rage inv1 inv2 uni unit1 tof fieldmap magnitude phase"
)
"""Kinds of images."""

MAPS = _words(
    "seg segmentation mask masks label labels labelstr labelsts lesion lesions roi gt truth groundtruth annotation "
    "brain brainmask bias biasfield gm wm csf gray grey white aseg aparc orig nu norm wmh left right lh rh l r "
    "mag part warp xfm residual dseg probseg template atlas mean average mni152"
)
"""Label maps, tissue maps, intermediate results and halves: files that accompany an image of the same subject."""

SEGMENTATIONS = _words("seg segmentation mask masks label labels labelstr labelsts roi gt dseg brainmask aseg aparc")
"""Maps that an image model is never trained on."""

TEMPLATE_SUBJECT = re.compile(r"fsaverage(?:\d|_sym)?|[lr]h\.EC_average|cvs_avg35(?:_inMNI152)?")
"""Names of FreeSurfer folders that hold templates rather than subjects."""

SPM_PREFIX = re.compile(r"(?:s\d{0,2})?(?:r?m?wc[1-6]|r?c[1-6]|m?wp[0-6]|m0?wp[1-6]|r?p[0-6]|wm|iy_|y_|[mwr])")
"""Prefixes of the images that SPM and CAT12 make."""

_HOUR, _SIXTY = r"(?:[01]\d|2[0-3])", r"[0-5]\d"
_TIME = f"(?:{'|'.join(_HOUR + sign + _SIXTY + sign + _SIXTY for sign in ('', '-', '_', ':', '[.]'))})(?:\\.\\d+)?"
_DATE = re.compile(r"((?:19|20)\d\d)[-_.]?(\d\d)[-_.]?(\d\d)(?:[-_T ]?" + _TIME + ")?")
_CHUNK = re.compile(
    r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"  # a UUID
    r"|\d+(?:\.\d+){4,}"  # a DICOM UID
    r"|(?<!\d)(?:19|20)\d\d-\d\d-\d\d(?:[-_T ]" + _TIME + r")?(?!\d)"  # a date, perhaps with a time
    r"|[^\W_]+"
)
_ATOM = re.compile(r"\d+|[^\W\d_]+")


def chunks_of(name: str) -> list[str]:
    """Split a name at its separators; UUIDs, DICOM UIDs, and dates with their times stay whole.

    Example:
        >>> chunks_of("P01_visit-2 (T1w)"), chunks_of("anna_2019-01-31")
        (['P01', 'visit', '2', 'T1w'], ['anna', '2019-01-31'])
    """
    return _CHUNK.findall(name)


def atoms_of(chunk: str) -> list[str]:
    """Split a chunk into runs of letters and of digits, and split words before inner capitals.

    Example:
        >>> atoms_of("P01visit2"), atoms_of("annaLate"), atoms_of("2019-01-31")
        (['P', '01', 'visit', '2'], ['anna', 'Late'], ['2019-01-31'])
    """
    if is_date(chunk) or re.search(r"[^\w]", chunk):
        return [chunk]
    return [atom for run in _ATOM.findall(chunk) for piece in _without_date(run) for atom in _at_capitals(piece)]


def _at_capitals(run: str) -> list[str]:
    """Split a run before each capital that follows another letter: ``annaLate``, ``李雷A``."""
    cuts = [i for i in range(1, len(run)) if run[i].isupper() and run[i - 1].isalpha() and not run[i - 1].isupper()]
    return [run[start:end] for start, end in itertools.pairwise([0, *cuts, len(run)])]


def _without_date(run: str) -> list[str]:
    """Split a number from a date that is attached to it: ``0120190131``."""
    if run.isdigit() and len(run) > 8:
        if is_date(run[-8:]):
            return [run[:-8], run[-8:]]
        if is_date(run[:8]):
            return [run[:8], run[8:]]
    return [run]


def is_date(text: str) -> bool:
    """Return whether a text is a date from 1900 to 2099, written as year, month, day, with or without a time.

    Example:
        >>> is_date("20190131"), is_date("2019-01-31_16_17_47.0"), is_date("20191331")
        (True, True, False)
    """
    found = _DATE.fullmatch(text)
    if found is None:
        return False
    try:
        date(*map(int, found.groups()))
    except ValueError:
        return False
    return True
