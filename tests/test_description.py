"""Descriptions name registered builders and nothing else."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from monai_betavae import build_encoder
from monai_betavae.description import description_of, is_plain, rebuild


def test_description_is_json_with_defaults_filled_in():
    encoder = build_encoder((8, 8), channels=(4, 8))
    description = json.loads(json.dumps(description_of(encoder)))
    assert description["builder"] == "build_encoder"
    assert description["arguments"]["spatial_shape"] == [8, 8]
    assert description["arguments"]["n_blocks"] == 1


def test_a_network_of_ones_own_has_none():
    assert description_of(nn.Linear(1, 1)) is None


@pytest.mark.parametrize(
    "description",
    [
        None,
        "build_encoder",
        {"builder": "os.system", "arguments": {}},
        {"builder": "build_encoder"},
        {"builder": "build_encoder", "arguments": []},
        {"builder": ["build_encoder"], "arguments": {}},
        {"builder": "build_encoder", "arguments": {"command": "rm"}},
    ],
)
def test_other_descriptions_are_refused(description):
    with pytest.raises(ValueError, match=r"model\.pt: "):
        rebuild(description, "model.pt")


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_what_json_can_hold_is_plain(value):
    assert is_plain(value)
    json.dumps(value)


def test_objects_are_not_plain():
    assert not is_plain(nn.Linear(1, 1))
    assert not is_plain([torch.zeros(1)])
    assert not is_plain({1: 2})
