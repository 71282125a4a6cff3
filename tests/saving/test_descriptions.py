"""Descriptions name registered builders and nothing else."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from monai_betavae import build_encoder
from monai_betavae.saving.descriptions import description_of, dry_run, is_plain, rebuild


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


@pytest.mark.parametrize(
    "arguments",
    [
        {"spatial_shape": [8, 8], "channels": [10**10]},
        {"spatial_shape": [8, 8], "channels": [10**30]},
        {"spatial_shape": [8, 8], "kernel_size": 10**6 + 1, "architecture": "plain"},
        {"spatial_shape": [8, 8], "n_blocks": 10**9},
        {"spatial_shape": [10**6, 10**6]},
    ],
    ids=str,
)
def test_a_network_that_no_memory_holds_is_refused_before_it_takes_any(arguments):
    with pytest.raises(ValueError, match=r"model\.pt: build_encoder refuses its description: "):
        rebuild({"builder": "build_encoder", "arguments": arguments}, "model.pt")


def test_a_network_of_more_weights_than_are_stored_is_refused():
    encoder = build_encoder((8, 8), channels=(4, 8))
    weights = encoder.state_dict()
    assert rebuild(encoder.description, "model.pt", weights).out_dim == encoder.out_dim
    larger = {**encoder.description, "arguments": {**encoder.description["arguments"], "channels": [4, 9]}}
    # one convolution, and a scale and a shift for each of its channels
    n_stored, n_needed = sum(map(torch.numel, weights.values())), 9 * 16 + 9 + 2 * 9
    assert n_stored == 8 * 16 + 8 + 2 * 8
    with pytest.raises(ValueError, match=f"model.pt: .* makes a network of {n_needed}, and {n_stored} are stored"):
        rebuild(larger, "model.pt", weights)
    # a tensor can claim a shape of which it stores one number
    claimed = {"weight": torch.zeros(1).expand(10**12)}
    with pytest.raises(ValueError, match="and 1 are stored"):
        rebuild(encoder.description, "model.pt", claimed)


def test_what_a_layer_refuses_names_the_builder_and_its_arguments():
    with pytest.raises(ValueError, match=r"build_encoder must be given arguments that make a network, got .*no_such"):
        build_encoder((8, 8), channels=(4, 8), norm=("group", {"no_such": 1}))


def test_a_dry_run_draws_no_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    dry_run(build_encoder, (8, 8), channels=(4, 8), norm="group")
    assert torch.equal(torch.get_rng_state(), before)
