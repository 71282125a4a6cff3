"""What a part of an evaluation hands on."""

import json

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monai_betavae.evaluation.intervals import Estimate
from monai_betavae.workflows.model_evaluation.part import Part, as_dict, format_estimate, replace_non_finite
from monai_betavae.workflows.model_evaluation.report import Report


def test_a_part_fills_its_section_in_order():
    part = Part("errors", "Errors")
    part.text("a paragraph")
    part.table(["a"], [[1]])
    part.warn("two")
    part.picture("x.png", Figure(figsize=(1, 1)), "three")
    part.files["errors.csv"] = pd.DataFrame({"a": [1]})
    report = Report("t")
    part.write_to(report)
    page = report.page()
    places = [page.index(text) for text in (">Errors</h2>", "a paragraph", "<table>", "two", "three")]
    assert places == sorted(places)
    assert part.warnings == ["two"]
    assert list(part.pictures) == ["x.png"]


def test_json_has_no_infinity():
    values = {"a": np.float64(np.inf), "b": [np.nan, 1.0], "c": np.array([1, 2]), "d": {"e": (True, None, "x")}}
    text = json.dumps(replace_non_finite(values), allow_nan=False)
    assert json.loads(text) == {"a": None, "b": [None, 1.0], "c": [1, 2], "d": {"e": [True, None, "x"]}}
    assert as_dict(Estimate(1.0, np.nan, 2.0)) == {"value": 1.0, "low": None, "high": 2.0}
    assert format_estimate(Estimate(0.5, 0.4, 0.6)) == "0.500 [0.400, 0.600]"
