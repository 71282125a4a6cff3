"""What should be changed in a cohort, on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from monai_betavae.data.checks.findings import duplicate_findings, grid_findings, orientation_findings


def table_of(n=10, **columns):
    """Return a table of good volumes with some columns replaced."""
    usual = {
        "image": [f"{i}.nii.gz" for i in range(n)],
        "problem": "",
        "handedness": "agree",
        "cut_away": 0.0,
        "filled": 0.25,
        "padded": 0.0,
        "background": 0.0,
        "background_level": 0.0,
        "extent": "150x180x140",
        "spacing": "1x1x1",
        "grid_shape": "64x80x64",
        "grid_spacing": "3x3x3",
    }
    return pd.DataFrame({**usual, **columns}, index=range(n))


def first(n, value, usual):
    return [value] * n + [usual] * (10 - n)


def test_a_good_cohort_has_nothing_to_change():
    assert grid_findings(table_of()) == []
    assert orientation_findings(table_of()) == []
    assert duplicate_findings([], ["a"] * 3, ["x"] * 3) == []


def test_one_scan_as_two_subjects_stops_and_one_twice_does_not():
    subjects, images = ["a", "b", "a", "a", "c"], [f"{i}.nii" for i in range(5)]
    stops, warns = duplicate_findings([[0, 1, 2], [3, 4]], subjects, images)
    assert (stops.stops, warns.stops) == (True, False)
    assert stops.rows == (1, 4)
    assert (
        "2 scans are in the cohort as several subjects: 1.nii of b is 0.nii of a, 4.nii of c is 3.nii" in stops.message
    )
    assert warns.rows == (2,)
    assert "--on_bad_volume skip" in stops.option


@pytest.mark.parametrize(
    ("handedness", "stops", "rows", "message"),
    [
        (first(1, "guessed", "agree"), True, (0,), "1 of 10 files don't say their orientation"),
        (first(9, "guessed", "sform"), True, tuple(range(9)), "9 of 10 files don't say their orientation"),
        ("guessed", False, (), "no file says its orientation"),
        (first(2, "mirrored", "agree"), True, (0, 1), "2 files have an sform and a qform that are mirror images"),
        (first(1, "turned", "qform"), False, (), "1 file has an sform and a qform along different axes"),
    ],
)
def test_orientation(handedness, stops, rows, message):
    (finding,) = orientation_findings(table_of(handedness=handedness))
    assert (finding.stops, finding.rows) == (stops, rows)
    assert message in finding.message
    assert finding.message.endswith("0.nii.gz") or len(rows) > 1 or not rows


def test_unusable_volumes_and_formats_without_codes_do_not_count():
    table = table_of(handedness=first(1, "guessed", "agree"), problem=first(1, "is empty", ""))
    assert orientation_findings(table) == []
    assert orientation_findings(table_of(handedness="")) == []
    assert grid_findings(table_of(cut_away=np.nan)) == []


def test_heads_that_the_grid_cuts():
    stops, warns = grid_findings(table_of(cut_away=[0.55, 0.16, 0.019, *[0.0] * 7], extent="150x180x240"))
    assert stops.message == "the grid cuts away over 20% of 1 of 10 heads (necks count): 0.nii.gz 55%"
    assert stops.option == '--center foreground --spatial_shape "[64,80,80]"; or accept it with --max_cut_away 0.55'
    assert (stops.stops, stops.rows, warns.stops, warns.rows) == (True, (0,), False, ())
    assert warns.message == "the grid cuts away over 2% of 1 of 10 heads (necks count): 1.nii.gz 16%"
    # the grid is large enough, but not where the heads are
    (off_centre,) = grid_findings(table_of(cut_away=first(3, 0.3, 0.0)))
    assert off_centre.option == "--center foreground; or accept it with --max_cut_away 0.3"
    # accepted
    assert [each.stops for each in grid_findings(table_of(cut_away=first(1, 0.55, 0.0)), max_cut_away=0.55)] == [False]


def test_a_grid_that_is_nearly_empty():
    crops = {"filled": 0.007, "extent": "36x52x40"}
    (finding,) = grid_findings(table_of(**crops))
    assert finding.stops
    assert "10 of 10 volumes fill less than 2.0% of the grid, the emptiest is 0.nii.gz with 0.70%" in finding.message
    assert finding.option == '--spacing 1 --spatial_shape "[40,56,40]"; or accept it with --min_filled 0.007'
    (accepted,) = grid_findings(table_of(**crops), min_filled=0.007)
    assert not accepted.stops
    assert "fill 0.7% of the grid only" in accepted.message
    (one,) = grid_findings(table_of(filled=first(1, 0.001, 0.25)))
    assert (one.stops, one.rows) == (False, (0,))


def test_edges_and_backgrounds():
    crops = table_of(background=None, padded=np.linspace(0.4, 0.6, 10))
    (edge,) = grid_findings(crops)
    assert "10 of 10 volumes have no background and are padded by 40% to 60% of the grid" in edge.message
    assert "--padding edge" in edge.option
    assert grid_findings(table_of(background=None, padded=0.5)) == [], "padding that is the same in all tells nothing"
    assert grid_findings(table_of(padded=np.linspace(0.4, 0.6, 10))) == [], "a background goes on in the padding"
    (grey,) = grid_findings(table_of(background_level=first(6, 0.4, 0.0)))
    assert "6 of 10 volumes have a background within the range of the head's intensities" in grey.message
    (unlike,) = grid_findings(table_of(background=first(1, None, 0.0)))
    assert "1 of 10 volumes have no constant background, unlike the others: 0.nii.gz" in unlike.message


def test_without_extents_the_check_is_named():
    (finding,) = grid_findings(table_of(cut_away=0.3).drop(columns=["extent", "spacing"]))
    assert "`run check` with these options says which" in finding.option
    (finding,) = grid_findings(table_of(filled=0.001).drop(columns=["extent", "spacing"]))
    assert "`run check` with these options says which" in finding.option
