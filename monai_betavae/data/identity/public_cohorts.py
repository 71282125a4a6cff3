"""File names of public cohorts that don't follow BIDS: the parts that identify the subject and the session."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .path_sessions import sessions_of

_DOWNLOAD_DATE = r"\d{4}-\d\d-\d\d_\d\d_\d\d_\d\d(?:\.\d+)?"

_ABIDE_SITES = (
    "Caltech|CMU|CMU_[ab]|KKI|Leuven|Leuven_[12]|MaxMun|MaxMun_[a-d]|NYU|OHSU|Olin|Pitt|SBL|SDSU|Stanford|Trinity|"
    "UCLA|UCLA_[12]|UM|UM_[12]|USM|Yale"
)


class CohortNames(NamedTuple):
    """A cohort's naming scheme: regular expressions of the subject's identifier and, if there is one, the session's."""

    cohort: str
    subject: str
    session: str | None = None


COHORTS = (
    CohortNames(
        "ADNI", r"(?<!\d)\d{3}_S_\d{4,5}(?!\d)", rf"(?<!\d){_DOWNLOAD_DATE}|(?<=[_/])(?:bl|sc|m\d\d)(?=[_/]|$)"
    ),
    # series of the Image and Data Archive, which distributes PPMI and AIBL: subject/series/date/image
    CohortNames("LONI IDA", rf"(?:^|(?<=/))[^/]+(?=/[^/]+/{_DOWNLOAD_DATE}/[IS]\d+/)", rf"(?<=/){_DOWNLOAD_DATE}(?=/)"),
    CohortNames("OASIS-1, OASIS-2", r"OAS[12]_\d{4}(?!\d)", r"(?<=_)MR\d+"),
    CohortNames("OASIS-3, OASIS-4", r"OAS[34]\d{4}(?!\d)", r"(?:(?<=_MR_)|(?<=_ses-)|(?<=_sess-))d\d{4}"),
    CohortNames("IXI", r"IXI\d{3}(?=-(?:Guys|HH|IOP)-)"),
    # participant_field_instance_array
    CohortNames("UK Biobank", r"(?<!\d)\d{7}(?=_2\d{4}_\d_\d(?!\d))", r"(?<=_2\d{4}_)\d(?=_\d(?!\d))"),
    CohortNames("HCP Lifespan", r"HC[AD]\d{7}(?!\d)", r"(?<=_)V\d(?!\d)"),
    CohortNames("ABIDE", rf"(?:{_ABIDE_SITES})[_/](005[01]\d{{3}})(?!\d)", r"session_\d"),
    CohortNames("BraTS", r"BraTS-[A-Za-z]+-\d{5}(?=-\d{3})", r"(?<=-\d{5}-)\d{3}(?!\d)"),
)
"""Cohorts that are recognised by the form of their file names."""


def cohort_subjects(paths: Sequence[str]) -> list[tuple[str, str]] | None:
    """Return the subject and session (or "") of each file if all names follow one public cohort, otherwise ``None``.

    Example:
        >>> cohort_subjects(["OAS2_0001_MR1/mpr-1", "OAS2_0001_MR2/mpr-1", "OAS2_0002_MR1/mpr-1"])
        [('OAS2_0001', 'MR1'), ('OAS2_0001', 'MR2'), ('OAS2_0002', 'MR1')]
        >>> cohort_subjects(["anna", "ben"]) is None
        True
    """
    for names in COHORTS:
        if not _only(names.subject, paths[0]):
            continue
        subjects = [_only(names.subject, path) for path in paths]
        if all(subjects) and len(set(subjects)) > 1:
            sessions = [_only(names.session, path) if names.session else "" for path in paths]
            # the cohort's own session names, or else common ones
            return list(zip(subjects, sessions if all(sessions) else sessions_of(paths, subjects), strict=True))
    return None


def _only(pattern: str, path: str) -> str:
    """Return the only text in a path that matches, even if it occurs several times, otherwise ""."""
    found = set(re.findall(pattern, path))
    return found.pop() if len(found) == 1 else ""
