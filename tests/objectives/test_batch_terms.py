import warnings
from types import SimpleNamespace

import pytest
import torch

from monai_betavae import BetaVAELoss
from monai_betavae.objectives import BetaTCVAELoss, DIPVAELoss, FreeBitsLoss, InfoVAELoss
from monai_betavae.objectives.batch_terms import warn_of_batch_terms


def decoder(n_corrections, gain):
    return SimpleNamespace(n_corrections=n_corrections, correction=SimpleNamespace(gain=torch.full((2, 2), gain)))


@pytest.mark.parametrize("loss", [BetaTCVAELoss(), DIPVAELoss(), InfoVAELoss()])
def test_terms_of_the_batch_are_warned_of(loss):
    with pytest.warns(UserWarning, match="each of the 2 processes compares its own"):
        warn_of_batch_terms(loss, None, 2)
    with pytest.warns(UserWarning, match="--n_corrections 0"):
        warn_of_batch_terms(loss, decoder(1, 0.5), 1)


def test_nothing_is_said_where_they_act():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loss in (BetaVAELoss(), FreeBitsLoss(), lambda x, p, q: {}):
            warn_of_batch_terms(loss, decoder(1, 0.5), 4)
        for made in (None, decoder(0, 0.5), decoder(2, 0.0)):
            warn_of_batch_terms(DIPVAELoss(), made, 1)
