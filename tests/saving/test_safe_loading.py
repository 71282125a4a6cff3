"""Model files are read without executing them, and refused by name."""

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from monai_betavae import build_encoder
from monai_betavae.saving.safe_loading import described_networks, load_weights_only, parse_description


def test_weights_only(tmp_path):
    torch.save({"weight": torch.ones(2), "text": "{}"}, tmp_path / "a.pt")
    content = load_weights_only(tmp_path / "a.pt")
    assert content["weight"].tolist() == [1, 1]
    stream = io.BytesIO((tmp_path / "a.pt").read_bytes())
    assert load_weights_only(stream)["text"] == "{}"


def test_an_object_in_the_file_is_refused(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"module\.pt was refused"):
        load_weights_only(tmp_path / "module.pt")


def test_a_truncated_file_is_named(tmp_path):
    torch.save({"weight": torch.ones(1000)}, tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:800])
    with pytest.raises(ValueError, match=r"a\.pt"):
        load_weights_only(tmp_path / "a.pt")


@given(st.none() | st.text() | st.integers() | st.lists(st.integers()))
def test_any_other_text_is_a_value_error(text):
    with pytest.raises(ValueError, match="model.pt".replace(".", r"\.")):
        parse_description(text, "model.pt")


def test_networks_given_or_rebuilt():
    encoder = build_encoder((8, 8), channels=(4, 8))
    mine = nn.Linear(2, 2)
    networks = described_networks({"encoder": encoder.description}, {"encoder": None, "decoder": mine}, "model.pt")
    assert networks["decoder"] is mine
    assert networks["encoder"].out_dim == encoder.out_dim
    with pytest.raises(ValueError, match=r"`decoder` must be passed in: model\.pt"):
        described_networks({}, {"decoder": None}, "model.pt")


def test_weights_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"model\.pt must hold the weights of a model under 'state_dict', got \[1\]"):
        described_networks({}, {"encoder": None}, "model.pt", [1])


def test_a_name_too_long_for_the_file_system_is_no_file():
    with pytest.raises(ValueError, match=r"x+ must be an existing model file"):
        load_weights_only("x" * 5000)
