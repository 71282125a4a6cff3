import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_betavae.schedules import KINDS, Schedule, as_schedule


def test_values_by_hand():
    linear = Schedule("linear", 10, start=0.2)
    assert [round(linear(step, 99), 12) for step in (0, 5, 10, 11)] == [0.2, 0.6, 1.0, 1.0]
    cosine = Schedule("cosine", 8, "epoch")
    assert [round(cosine(99, epoch), 12) for epoch in (0, 2, 4, 8, 9)] == [
        0.0,
        round((1 - math.sqrt(0.5)) / 2, 12),
        0.5,
        1.0,
        1.0,
    ]
    cyclical = Schedule("cyclical", 10, ramp=0.4, n_cycles=2)
    assert [cyclical(step, 0) for step in (0, 2, 4, 9, 10, 12, 19, 20, 21)] == [0, 0.5, 1, 1, 0, 0.5, 1, 1, 1]
    assert {Schedule("constant", start=0.3)(step, step) for step in range(5)} == {1.0}


@given(
    st.sampled_from(KINDS),
    st.floats(0.1, 1e6),
    st.sampled_from(["step", "epoch"]),
    st.floats(0, 1),
    st.floats(0.01, 1),
    st.integers(1, 20),
    st.integers(0, 10**7),
)
def test_factors_lie_between_start_and_one_and_end_at_one(kind, length, unit, start, ramp, n_cycles, position):
    schedule = Schedule(kind, length, unit, start, ramp, n_cycles)
    assert start - 1e-12 <= schedule(position, position) <= 1 + 1e-12
    end = math.ceil(length) * n_cycles + 1
    assert schedule(end, end) == pytest.approx(1)
    other = {"step": (0, position), "epoch": (position, 0)}[unit]
    assert schedule(*other) == schedule(0, 0)  # the other unit doesn't count
    again = as_schedule(json.loads(json.dumps(schedule.describe())))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert again(position, position) == schedule(position, position)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"kind": "sine"}, "kind"),
        ({"length": 0}, "length"),
        ({"length": -1}, "length"),
        ({"unit": "hour"}, "unit"),
        ({"start": 2}, "start"),
        ({"ramp": 0}, "ramp"),
        ({"n_cycles": 0}, "n_cycles"),
        ({"size": 3}, "schedule"),
    ],
)
def test_wrong_arguments_are_refused(arguments, named):
    with pytest.raises(ValueError, match=f"`{named}`"):
        as_schedule(arguments)


def test_what_is_no_schedule_is_refused():
    assert as_schedule(None) is None
    with pytest.raises(ValueError, match="`schedule` must be None, a Schedule or a mapping"):
        as_schedule("linear")
