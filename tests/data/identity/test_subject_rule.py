import random

import pytest

from monai_betavae.data.identity.path_fields import UnknownIdentityError
from monai_betavae.data.identity.subject_rule import identities, normal_id, refuse_kinds, refuse_twins


def refused(paths):
    with pytest.raises(UnknownIdentityError) as caught:
        identities(paths.split())
    return caught.value.reason, caught.value.readings


# Layouts that labs have, with whose each file is; "+" stands between the subject and its session
ACCEPTED = {
    "a flat folder": ("anna ben clara", "anna ben clara"),
    "a folder for each person": ("anna/T1 ben/T1", "anna ben"),
    "numbers": ("001 002 010", "001 002 010"),
    "a prefix and numbers": ("hippocampus_001 hippocampus_003", "hippocampus_001 hippocampus_003"),
    "the person's name twice": ("anna/anna_T1 ben/ben_T1", "anna ben"),
    "groups that are called so": ("AD/p1/T1 AD/p2/T1 CN/p3/T1 MCI/p4/T1", "p1 p2 p3 p4"),
    "Parkinson's disease is a group, too": ("PD/p1/T1 PD/p2/T1 HC/p3/T1", "p1 p2 p3"),
    "flat groups": ("AD/p1 AD/p2 CN/p3", "p1 p2 p3"),
    "groups in the names": ("AD01 AD02 CN03", "AD01 AD02 CN03"),
    "numbered sites": ("site1/p1/T1 site1/p2/T1 site2/p3/T1", "p1 p2 p3"),
    "named sites": ("site_oslo/p1/T1 site_oslo/p2/T1 site_bergen/p3/T1", "p1 p2 p3"),
    "visits": ("anna/anna_visit1 anna/anna_visit2 ben/ben_visit1", "anna+visit1 anna+visit2 ben+visit1"),
    "visits with zeros": ("P01/visit_01 P01/visit_02 P02/visit_01", "P01+visit_01 P01+visit_02 P02+visit_01"),
    "some people lack a visit": ("anna_visit1 ben_visit1 clara_visit2", "anna+visit1 ben+visit1 clara+visit2"),
    "before and after": ("anna_pre anna_post ben_pre ben_post", "anna+pre anna+post ben+pre ben+post"),
    "before and after, glued": ("pre01 post01 pre02 post02", "01+pre 01+post 02+pre 02+post"),
    "months": ("anna/bl/T1 anna/m06/T1 ben/bl/T1", "anna+bl anna+m06 ben+bl"),
    "days": ("anna/20190131 anna/20200131 ben/20190211", "anna+20190131 anna+20200131 ben+20190211"),
    "days with dashes": (
        "anna/2019-01-31/T1 anna/2020-01-31/T1 ben/2019-02-11/T1",
        "anna+2019-01-31 anna+2020-01-31 ben+2019-02-11",
    ),
    "the day first": ("20190131_anna 20190211_ben 20200131_anna", "anna+20190131 ben+20190211 anna+20200131"),
    "sessions first": (
        "baseline/anna baseline/ben followup/anna followup/ben",
        "anna+baseline ben+baseline anna+followup ben+followup",
    ),
    "waves": ("wave1/anna wave1/ben wave2/anna", "anna+wave1 ben+wave1 anna+wave2"),
    "training and test": ("train/anna train/ben val/clara test/dora", "anna ben clara dora"),
    "the Decathlon": ("imagesTr/hip_001 imagesTr/hip_003 imagesTs/hip_002", "hip_001 hip_003 hip_002"),
    "nnU-Net": ("imagesTr/case_001_0000 imagesTr/case_002_0000", "case_001_0000 case_002_0000"),
    "BraTS, one kind": (
        "BraTS20_Training_001/BraTS20_Training_001_t1 BraTS20_Training_002/BraTS20_Training_002_t1",
        "BraTS20_Training_001 BraTS20_Training_002",
    ),
    "BraTS, time points": (
        "BraTS-GLI-00000-000/t1n BraTS-GLI-00000-001/t1n BraTS-GLI-00003-000/t1n",
        "BraTS-GLI-00000+000 BraTS-GLI-00000+001 BraTS-GLI-00003+000",
    ),
    "CAT12": ("mri/mwp1anna mri/mwp1ben", "mwp1anna mwp1ben"),
    "CAT12, a folder for each": ("anna/mri/mwp1T1 ben/mri/mwp1T1", "anna ben"),
    "SPM": ("smwc1anna smwc1ben", "smwc1anna smwc1ben"),
    "FreeSurfer": ("anna/mri/brain ben/mri/brain", "anna ben"),
    "HCP": ("100206/T1w/T1w_acpc_dc_restore 100307/T1w/T1w_acpc_dc_restore", "100206 100307"),
    "HCP Aging": (
        "HCA6002236_V1_MR/T1w HCA6002236_V2_MR/T1w HCD0001305_V1_MR/T1w",
        "HCA6002236+V1 HCA6002236+V2 HCD0001305+V1",
    ),
    "UK Biobank": (
        "1234567_20252_2_0/T1/T1_brain 1234567_20252_3_0/T1/T1_brain 2345678_20252_2_0/T1/T1_brain",
        "1234567+2 1234567+3 2345678+2",
    ),
    "IXI": ("IXI002-Guys-0828-T1 IXI012-HH-1211-T1", "IXI002 IXI012"),
    "OASIS-2": ("OAS2_0001_MR1/mpr OAS2_0001_MR2/mpr OAS2_0002_MR1/mpr", "OAS2_0001+MR1 OAS2_0001+MR2 OAS2_0002+MR1"),
    "OASIS-3": (
        "OAS30001_MR_d0129/anat2/T1w OAS30001_MR_d0757/anat2/T1w OAS30002_MR_d0653/anat2/T1w",
        "OAS30001+d0129 OAS30001+d0757 OAS30002+d0653",
    ),
    "ADNI": (
        "ADNI/002_S_0413/MPRAGE/2006-05-19_16_17_47.0/I13720/a ADNI/002_S_0413/MP-RAGE/2007-05-19_16_17_47.0/I2/b "
        "ADNI/002_S_0559/MPR-R__GradWarp/2006-06-27_18_28_33.0/I13819/c",
        "002_S_0413+2006-05-19_16_17_47.0 002_S_0413+2007-05-19_16_17_47.0 002_S_0559+2006-06-27_18_28_33.0",
    ),
    "PPMI": (
        "PPMI/3102/MPRAGE/2011-01-20_11_11_11.0/I1/a PPMI/3102/MPRAGE/2012-01-20_11_11_11.0/I2/b "
        "PPMI/3104/MPRAGE/2011-02-20_11_11_11.0/I3/c",
        "3102+2011-01-20_11_11_11.0 3102+2012-01-20_11_11_11.0 3104+2011-02-20_11_11_11.0",
    ),
    "ABIDE": ("Caltech_0051456/anat NYU_0050952/anat UM_1_0050272/anat", "0051456 0050952 0050272"),
    "LPBA40": ("S01/S01.native.brain.bfc S02/S02.native.brain.bfc", "S01 S02"),
    "dcm2niix": ("anna/anna_T1_MPRAGE_20190131101112_2 ben/ben_T1_MPRAGE_20190211121314_3", "anna ben"),
    "record and image numbers that go together": ("12345/998877/T1 12346/998878/T1", "12345 12346"),
    "random identifiers": ("a8f3e10c b7d2c4e9 00112233", "a8f3e10c b7d2c4e9 00112233"),
    "UUIDs": (
        "0c7f4a52-7a0f-4f0e-9a3f-2f2b7a1f0a11/T1 9b1d2c3e-1a2b-4c3d-8e4f-5a6b7c8d9e0f/T1",
        "0c7f4a52-7a0f-4f0e-9a3f-2f2b7a1f0a11 9b1d2c3e-1a2b-4c3d-8e4f-5a6b7c8d9e0f",
    ),
    "DICOM's identifiers": ("1.2.840.113619.2.1 1.2.840.113619.2.2", "1.2.840.113619.2.1 1.2.840.113619.2.2"),
    "site and number, not mistaken for one another": ("1-23 12-3 7-7", "1-23 12-3 7-7"),
    "a kind in upper and lower case": ("anna_T1w ben_T1W", "anna_T1w ben_T1W"),
    "a visit for each": ("anna_visit1 ben_visit2", "anna+visit1 ben+visit2"),
    "several depths, nothing shared": ("x/y/anna ben z/clara", "x ben z"),
}  # fmt: skip


@pytest.mark.parametrize(("paths", "expected"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_layouts_that_say_whose_the_files_are(paths, expected):
    files = paths.split()
    found = identities(files)
    whose = [each.split("+") for each in expected.split()]
    assert [each.subject for each in found] == [subject for subject, *_ in whose]
    assert [each.entries.get("session") for each in found if "+" in expected] == [s for _, *rest in whose for s in rest]
    shuffled = list(zip(files, found, strict=True))
    random.Random(0).shuffle(shuffled)
    assert identities([file for file, _ in shuffled]) == [identity for _, identity in shuffled]


def test_what_else_the_paths_say():
    files = ["train/AD/p1/T1", "train/CN/p2/T1", "val/AD/p3/T1", "test/CN/p4/T1"]
    assert [each.entries for each in identities(files)] == [
        {"group": "AD", "split": "training"},
        {"group": "CN", "split": "training"},
        {"group": "AD", "split": "validation"},
        {"group": "CN", "split": "test"},
    ]
    assert [each.entries for each in identities(["anna/run-1", "anna/run-2", "ben/run-1"])] == [
        {"run": "run1"},
        {"run": "run2"},
        {"run": "run1"},
    ]
    two = identities(["anna/visit1/2019-01-31", "anna/visit2/2020-01-31", "ben/visit1/2019-02-01"])
    assert [each.entries["session"] for each in two] == ["visit1_2019-01-31", "visit2_2020-01-31", "visit1_2019-02-01"]


# Layouts that leave it open, with the reason and an option that settles it
REFUSED = {
    "groups of other names": (
        "oslo/p1/T1 oslo/p2/T1 bergen/p3/T1",
        "differ in 2 parts of their paths",
        '--subject_from "*/{subject}/T1"  3 subjects: p1, p2, p3',
    ),
    "numbers that begin anew in each group": (
        "AD/01 AD/02 CN/01 CN/02",
        "have '01' with AD, CN: one subject, or several",
        '--subject_from "{subject1}/{subject2}"  4 subjects: AD_01, AD_02, CN_01 and 1 more',
    ),
    "the same, flat": (
        "AD01 AD02 CN01 CN02",
        "have '01' with AD, CN: one subject, or several",
        '--subject_from "{subject}"  4 subjects: AD01, AD02, CN01 and 1 more',
    ),
    "sessions without a word": (
        "anna_1 anna_2 ben_1 ben_2",
        "differ in 2 parts of their paths",
        '--subject_from "{subject}_*"  2 subjects: anna, ben',
    ),
    "a second session only where there is one": (
        "P01 P01_2 P02",
        "have names that could be one subject's or two subjects': 'P01' and 'P01_2'",
        '--subject_from "{subject}"  3 subjects: P01, P01_2, P02',
    ),
    "kinds of image": (
        "A/A_t1 A/A_t2 A/A_flair A/A_seg B/B_t1 B/B_t2 B/B_flair B/B_seg",
        "are of several kinds, of which one must be chosen: flair (2), seg (2), t1 (2), t2 (2)",
        '--subject_from "{subject}/*_t1"  2 subjects: A, B',
    ),
    "kinds of image in folders": (
        "T1/anna T1/ben FLAIR/anna FLAIR/ben",
        "several kinds, of which one must be chosen: flair (2), t1 (2)",
        '--subject_from "T1/{subject}"  2 subjects: anna, ben',
    ),
    "kinds before the name": (
        "t1_anna t1_ben t2_anna t2_ben",
        "several kinds, of which one must be chosen: t1 (2), t2 (2)",
        '--subject_from "t1_{subject}"  2 subjects: anna, ben',
    ),
    "T1 and T2 may be time points": (
        "T1/anna T1/ben T2/anna",
        "several kinds",
        '--subject_from "{session}/{subject}"  2 subjects: anna, ben',
    ),
    "what brain extraction leaves": (
        "anna anna_brain anna_brain_mask ben ben_brain ben_brain_mask",
        "several kinds, of which one must be chosen: anna (1), ben (1), brain (2), brain_mask (2)",
        '--subject_from "{subject}_brain"  2 subjects: anna, ben',
    ),
    "an average among people": ("anna ben mean", "chosen: anna (1), ben (1), mean (1)", ""),
    "one map among people": ("anna ben_seg clara", "chosen: anna (1), clara (1), seg (1)", ""),
    "halves": ("anna_L anna_R ben_L ben_R", "several kinds", '--subject_from "{subject}_L"  2 subjects: anna, ben'),
    "CAT12's maps": (
        "mri/mwp1anna mri/mwp2anna mri/wmanna mri/mwp1ben mri/mwp2ben mri/wmben",
        "several kinds, of which one must be chosen: mwp1 (2), mwp2 (2), wm (2)",
        '--subject_from "*/mwp1{subject}"  2 subjects: anna, ben',
    ),
    "SPM's maps beside the images": (
        "anna c1anna manna ben c1ben mben",
        "several kinds, of which one must be chosen: c1 (2), m (2), no prefix (2)",
        '--subject_from "c1{subject}"  2 subjects: anna, ben',
    ),
    "nnU-Net's channels": (
        "imagesTr/case_1_0000 imagesTr/case_1_0001 imagesTr/case_2_0000 imagesTr/case_2_0001",
        "several kinds, of which one must be chosen: 0000 (2), 0001 (2)",
        '--subject_from "**/{subject}_0000"  2 subjects: case_1, case_2',
    ),
    "label maps of the Decathlon": (
        "imagesTr/hip_1 imagesTr/hip_2 labelsTr/hip_1 labelsTr/hip_2",
        "several kinds, of which one must be chosen: imagestr (2), labelstr (2)",
        '--subject_from "imagesTr/{subject}"  2 subjects: hip_1, hip_2',
    ),
    "kinds in a public cohort": (
        "IXI002-Guys-0828-T1 IXI002-Guys-0828-T2 IXI012-HH-1211-T1 IXI012-HH-1211-T2",
        "several kinds, of which one must be chosen: t1 (2), t2 (2)",
        '--subject_from "{subject}-T1"  2 subjects: IXI002-Guys-0828, IXI012-HH-1211',
    ),
    "series of some examinations": (
        "1.2.840.113619.12.7492.1 1.2.840.113619.12.7492.2 1.2.840.113619.68.6389.1",
        "could be one subject's or two subjects': '1.2.840.113619.12.7492.1' and '1.2.840.113619.12.7492.2'",
        '--subject_from "{subject}"  3 subjects: 1.2.840.113619.12.7492.1, 1.2.840.113619.12.7492.2, '
        "1.2.840.113619.68.6389.1",
    ),
    "one person": ("anna/visit1 anna/visit2", "differ in session only", ""),
    "names in upper and lower case": ("anna/x1 Anna/x2 ben/x3", "differ in 2 parts", ""),
    "leading zeros": ("P1 P01 P2", "could be one subject's or two subjects': 'P1' and 'P01'", ""),
    "words that are made of two": (
        "annaearly annalate benearly benlate claralate",
        "could be one subject's or two subjects'",
        '--subject_from "{subject}"  5 subjects: annaearly, annalate, benearly and 2 more',
    ),
    "the day's first and second examination": (
        "20190131/01 20190131/02 20190201/01",
        "have the same numbers on several days",
        '--subject_from "{subject1}/{subject2}"  3 subjects: 20190131_01, 20190131_02, 20190201_01',
    ),
    "persons of several examinations": (
        "12345/998877/T1 12345/998878/T1 12346/998879/T1",
        "differ in 2 parts of their paths",
        '--subject_from "{subject}/*/T1"  2 subjects: 12345, 12346',
    ),
    "random identifiers with more glued to them": (
        "7fabbf222d1dd0000 7fabbf222d1dd0129 452954d685aad0000 452954d685aad0129",
        "could be one subject's or two subjects'",
        "",
    ),
    "several depths": (
        "anna/T1 ben/visit1/T1 ben/visit2/T1",
        "lie at different depths",
        '--subject_from "{subject}/**"  2 subjects: anna, ben',
    ),
    "parts among others": (
        "miriad_188_AD_M_01_MR_1 miriad_188_AD_M_02_MR_1 miriad_189_AD_F_01_MR_1 miriad_200_HC_M_01_MR_1",
        "differ in 3 parts of their paths",
        '--subject_from "miriad_{subject}_*_*_*_MR_1"  3 subjects: 188, 189, 200',
    ),
    "FreeSurfer's longitudinal stream": (
        "anna_v1.long.anna/mri/brain anna_v2.long.anna/mri/brain ben_v1.long.ben/mri/brain",
        "differ in 2 parts of their paths",
        '--subject_from "{subject}_*.long.*/mri/brain"  2 subjects: anna, ben',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("paths", "reason", "reading"), REFUSED.values(), ids=REFUSED.keys())
def test_layouts_that_leave_it_open(paths, reason, reading):
    why, readings = refused(paths)
    assert reason in why
    assert reading in ["", *readings]
    assert len(readings) <= 6


def test_every_reading_does_what_it_says():
    from monai_betavae.data.identity.subject_patterns import SubjectPattern

    for paths, _, _ in REFUSED.values():
        for line in refused(paths)[1]:
            pattern = SubjectPattern(line.split('"')[1])
            found = [pattern.match(path) for path in paths.split()]
            subjects = {each["subject"] for each in found if each}
            assert f"  {len(subjects)} subjects: " in line, line
            assert len(subjects) > 1


def test_words_that_are_part_of_all_names_are_no_sessions_and_no_groups():
    found = identities(["visit_anna", "visit_ben"]) + identities(["study_anna_x", "study_ben_x"])
    assert [each.subject for each in found] == ["visit_anna", "visit_ben", "study_anna_x", "study_ben_x"]
    assert not any(each.entries for each in found)
    assert [each.subject for each in identities(["rep_127/127", "rep_128/128"])] == ["127", "128"]
    assert "differ in 2 parts" in refused("trial_anna_0001 trial_anna_0002 trial_ben_0003")[0]
    siblings = "visit_Anna-Jones_bl visit_Anna-Jones_m06 visit_Ida-Jones_bl visit_Ben-Kim_bl"
    assert "differ in 2 parts" in refused(siblings)[0]


def test_a_word_that_says_subject_is_believed_unless_another_part_divides_it():
    paths = "oslo/subject_1/T1 oslo/subject_2/T1 bergen/subject_3/T1"
    assert [each.subject for each in identities(paths.split())] == ["subject_1", "subject_2", "subject_3"]
    assert "have '1' with bergen, oslo" in refused("oslo/subject_1/T1 oslo/subject_2/T1 bergen/subject_1/T1")[0]
    assert "have '1' with a, b" in refused("subject_1/a subject_1/b subject_2/c")[0]
    # a scan's number, or a group and a counter, beside a person's name
    for paths in ("case_1_anna case_2_anna case_3_ben", "patient.0034.p01 patient.0035.p02 patient.0036.p02"):
        assert "each could be the subject" in refused(paths)[0]
    assert "could be one" in refused("patient_01 patient_01T1 patient_02 patient_02T1")[0]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sub-001", "1", True),
        ("sub-a1", "sub-A1", True),
        ("A_01", "a1", True),
        ("P-0012-x", "p12x", True),
        ("subject_7", "7", True),
        ("subway", "way", False),
        ("1-23", "12-3", False),
        ("1.2.84", "1.28.4", False),
        ("P10", "P1", False),
        ("100", "1", False),
        ("Ärzte", "ärzte", True),
        ("0", "000", True),
        ("_", "", True),
    ],
)
def test_identifiers_that_people_write_differently(one, other, same):
    assert (normal_id(one) == normal_id(other)) is same


def test_twins_are_refused_with_both_names():
    refuse_twins(["P1", "P2", "P1"])
    with pytest.raises(UnknownIdentityError, match="'sub-a1' and 'sub-A1', 'x' and 'X'"):
        refuse_twins(["sub-a1", "sub-A1", "x", "b", "X"])


def test_kinds_by_any_word_of_a_path():
    refuse_kinds(["anna/T1", "ben/mprage", "clara/x"])
    refuse_kinds(["anna/MPR-R", "ben/MPR"])
    with pytest.raises(UnknownIdentityError, match=r"chosen: no such word \(1\), seg \(1\)"):
        refuse_kinds(["anna/x", "anna/x_seg"])


def test_one_file_is_called_by_its_name():
    assert identities(["anna/visit1/T1"]) == [("T1", {})]


@pytest.mark.parametrize("n", [3000])
def test_many_files_take_seconds(n):
    # once for each file, all parts were compared: minutes
    found = identities([f"{'AD' if i % 2 else 'CN'}/P{i // 2:05d}{i % 2}/visit{i % 3}" for i in range(n)])
    assert len({each.subject for each in found}) == n
    assert "could be one" in refused(" ".join(f"P{i:05d}{'_b' * (i % 7 == 0)}" for i in range(n)))[0]
