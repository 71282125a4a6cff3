"""What a covariate is by its name, and the order in which covariates are looked at."""

import math

import numpy as np
import pandas as pd
import pytest

from monai_betavae.data.tables.covariates import (
    MAX_CATEGORIES,
    head_of,
    is_genotype,
    kind_of_covariate,
    ordered_covariates,
)
from monai_betavae.data.tables.covariates import is_identifier as names_subjects
from monai_betavae.evaluation.targets import MAX_CLASSES, kind_of

MANY = list(range(1, 31))  # thirty whole numbers: ages, or sites


CATEGORIES = """
    site site_id Site SITEID siteid SiteID site2 scanner_number acq_site Scanner.Type center centre GROUP group_1 grp
    age_group diagnosis dx DX_bl dx_code sex SEX_ID gender Sex_at_birth race ethnicity handedness hand batch cohort
    study_id protocol Manufacturer ManufacturersModelName class
"""
QUANTITIES = """
    age AGE_IN_YEARS n_sites n_site number_of_sites num_scanners group_age age_at_diagnosis years_since_diagnosis
    batch_size study_years handedness_score hand_strength scanner_field_strength center_x website parasite
    diagnosis_date brain_age_gap weight
"""


@pytest.mark.parametrize("name", CATEGORIES.split())
def test_names_of_categories(name):
    assert kind_of_covariate(name, MANY) == "category"
    assert kind_of_covariate(name, [float(number) for number in MANY]) == "category"
    # 1.5 and 3 tesla of a "scanner": no number of anything
    assert kind_of_covariate(name, [*MANY, 1.5]) == "quantity"


@pytest.mark.parametrize("name", QUANTITIES.split())
def test_names_of_quantities(name):
    assert kind_of_covariate(name, MANY) == "quantity"


def test_the_bracket_of_a_name_explains_it():
    assert head_of("SEX (1=m, 2=f)") == "sex"
    assert head_of("Age [years]") == "age"
    assert head_of("(%)") == ""
    assert kind_of_covariate("", MANY) == "quantity"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b"], "category"),
        ([True, False, None], "category"),
        ([0, 1, 1, 2, math.nan, None, pd.NA], "category"),
        ([1.0, 2.0, 10.0], "category"),
        ([0.5, 1], "quantity"),
        (range(MAX_CATEGORIES), "category"),
        (range(MAX_CATEGORIES + 1), "quantity"),
        ([1, "x"], "category"),
        ([0.5, math.inf], "quantity"),
    ],
)
def test_kinds_by_the_values(values, kind):
    assert kind_of_covariate("score", values) == kind


def test_few_ages_are_still_a_quantity():
    assert kind_of_covariate("age", [20, 21, 20, 22]) == "quantity"
    assert kind_of_covariate("Age_at_scan", [20, 21, 20, 22]) == "quantity"
    assert kind_of_covariate("age", ["20-29", "30-39"]) == "category"


@pytest.mark.parametrize("n", range(2, 16))
def test_where_names_say_nothing_probes_and_tables_agree(n):
    for values in (np.arange(40) % n, (np.arange(40) % n).astype(float), np.arange(40) % n + 0.5):
        kinds = {"quantity": "regression", "category": "classification"}
        assert kinds[kind_of_covariate("x", values.tolist())] == kind_of(values)
    assert MAX_CATEGORIES == MAX_CLASSES


def test_order_of_interest():
    names = ["site", "age_at_onset", "Gender", "control", "AGE", "sex", "iq"]
    assert ordered_covariates(names) == ["AGE", "age_at_onset", "Gender", "sex", "site", "control", "iq"]
    assert ordered_covariates(names, ["iq", "height", "sex", "iq"])[:3] == ["iq", "sex", "AGE"]
    assert ordered_covariates(["b", "a", "b"]) == ["b", "a"]


def test_identifiers_and_genotypes_by_name():
    assert [name for name in ("RID", "id", "participant_id", "site_id", "idle", "iq") if names_subjects(name)] == [
        "RID",
        "id",
        "participant_id",
    ]
    assert [name for name in ("APOE", "snp_rs7412", "genes", "site") if is_genotype(name)] == ["APOE", "snp_rs7412"]
