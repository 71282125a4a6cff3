"""Which optimizer a training gets."""

import functools

import pytest
import torch
from estimators import built_vae, images
from torch import optim

from monai_betavae.training.optimizers import make_optimizer


def parameters():
    return [torch.nn.Parameter(torch.ones(3))]


def test_the_default_is_a_fused_adamw():
    made = make_optimizer(None, parameters(), lr=0.5, weight_decay=0.25)
    assert type(made) is optim.AdamW
    assert {name: made.defaults[name] for name in ("lr", "weight_decay", "fused")} == {
        "lr": 0.5,
        "weight_decay": 0.25,
        "fused": True,
    }


def test_it_is_not_fused_where_torch_has_no_fused_one():
    assert not make_optimizer(None, [torch.nn.Parameter(torch.ones(3, device="meta"))]).defaults["fused"]


def test_a_factory_makes_it():
    made = make_optimizer(functools.partial(optim.SGD, lr=0.5), parameters())
    assert type(made) is optim.SGD
    assert made.defaults["lr"] == 0.5


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda parameters: None, "got one that gives a value of type NoneType"),
        (functools.partial(optim.SGD, lr=-1.0), "but stops: Invalid learning rate"),
    ],
)
def test_a_factory_that_makes_none_is_refused(factory, message):
    with pytest.raises(ValueError, match=f"`optimizer` must be a callable .*{message}"):
        make_optimizer(factory, parameters())


@pytest.mark.parametrize(("precision", "clip", "fused"), [("bf16-mixed", 1.0, False), ("32-true", 1.0, True)])
def test_gradients_are_clipped_at_every_precision(precision, clip, fused):
    vae = built_vae(precision=precision, gradient_clip_val=clip).fit(images().split(3))
    assert vae.trainer.optimizers[0].defaults["fused"] is fused
