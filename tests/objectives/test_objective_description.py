import json

import pytest
import torch
from random_posteriors import random_case

from monai_betavae import BetaVAELoss
from monai_betavae.objectives import (
    OBJECTIVES,
    BetaTCVAELoss,
    DIPVAELoss,
    describe_objective,
    objective_from_description,
)

MADE = [kind() for kind in OBJECTIVES.values()] + [
    BetaVAELoss(0.5, "laplace", schedule={"kind": "cyclical", "length": 3, "unit": "epoch"}),
    BetaTCVAELoss(
        3.0, alpha=2.0, gamma=0.5, estimator="weighted", n_images=20, schedule={"kind": "linear", "length": 100}
    ),
    DIPVAELoss(kind="I"),
]


@pytest.mark.parametrize("loss", MADE, ids=lambda loss: type(loss).__name__)
def test_objectives_survive_json(loss):
    again = objective_from_description(json.loads(json.dumps(describe_objective(loss))))
    assert type(again) is type(loss)
    assert vars(again) == vars(loss)
    assert repr(again) == repr(loss)
    x, p, q, z = random_case(0)
    codes = (z, 40) if loss.takes_codes else ()
    for step in (0, 50):
        for name, value in loss.at(step, step // 10)(x, p, q, *codes).items():
            torch.testing.assert_close(again.at(step, step // 10)(x, p, q, *codes)[name], value)


def test_a_derived_loss_has_no_description():
    class Own(BetaVAELoss):
        pass

    assert describe_objective(Own()) is None
    assert describe_objective(lambda x, p, q: {}) is None


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"name": "elbo", "arguments": {}},
        {"name": ["beta-vae"], "arguments": {}},
        {"name": "capacity", "arguments": {"free_nats": 1.0}},
        {"name": "capacity", "arguments": [1.0]},
        {"name": "capacity", "arguments": {"capacity": -1.0}},
    ],
)
def test_wrong_descriptions_are_refused(description):
    with pytest.raises(ValueError, match=r"objective|arguments|capacity"):
        objective_from_description(description)


def test_a_schedule_multiplies_what_the_objective_says():
    for name, kind in OBJECTIVES.items():
        loss = kind(schedule={"kind": "linear", "length": 10, "start": 0.5})
        now = loss.at(0, 0)
        for weight in loss.scheduled:
            assert getattr(now, weight) == 0.5 * getattr(loss, weight), name
        assert loss.at(10, 0).at(0, 0).beta == loss.beta  # the position is settled once
        assert kind().at(3, 3).schedule is None
