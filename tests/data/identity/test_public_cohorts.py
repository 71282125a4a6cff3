import re

import pytest

from monai_betavae.data.identity.public_cohorts import COHORTS, cohort_subjects


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (
            ["002_S_0413/m06/T1", "002_S_0413/bl/T1", "002_S_0559/sc/T1"],
            [("002_S_0413", "m06"), ("002_S_0413", "bl"), ("002_S_0559", "sc")],
        ),
        (
            ["OAS1_0001_MR1/OAS1_0001_MR1_mpr_n4", "OAS1_0002_MR1/OAS1_0002_MR1_mpr_n4"],
            [("OAS1_0001", "MR1"), ("OAS1_0002", "MR1")],
        ),
        # by words that everybody understands, where the cohort's own are not there
        (
            ["OAS2_0001_baseline", "OAS2_0001_followup", "OAS2_0002_baseline"],
            [("OAS2_0001", "baseline"), ("OAS2_0001", "followup"), ("OAS2_0002", "baseline")],
        ),
        (["1234567_20252_2_0", "1234568_20252_3_0"], [("1234567", "2"), ("1234568", "3")]),
        (["IXI002-Guys-0828-T1", "IXI012-HH-1211-T1"], [("IXI002", ""), ("IXI012", "")]),
        (
            ["NYU/0050952/session_1/T1", "UCLA_1/0051201/session_1/T1"],
            [("0050952", "session_1"), ("0051201", "session_1")],
        ),
    ],
    ids=["ADNI", "OASIS-1", "OASIS-2", "UK Biobank", "IXI", "ABIDE"],
)  # fmt: skip
def test_subjects_and_sessions(paths, expected):
    assert cohort_subjects(paths) == expected


@pytest.mark.parametrize(
    "paths",
    [
        ["OAS2_0001_MR1", "anna"],
        ["OAS2_0001_MR1", "OAS2_0001_MR2"],
        ["OAS2_0001/OAS2_0002", "OAS2_0003/x"],
        ["OAS2_00011", "OAS2_00022"],
        ["1002_S_0413", "1002_S_0559"],
        # accession numbers, of one person
        ["anna_0050123", "anna_0050124"],
        ["IXI002", "IXI012"],
        ["a/b/I1/x", "c/d/I2/x"],
    ],
    ids=["not all", "one subject", "two in a path", "longer", "longer before", "no site", "no hospital", "no date"],
)
def test_what_only_looks_like_one(paths):
    assert cohort_subjects(paths) is None


def test_the_patterns_find_one_text_each():
    for names in COHORTS:
        assert re.compile(names.subject).groups <= 1, names.cohort
        assert names.session is None or re.compile(names.session).groups == 0, names.cohort
