import warnings
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Normal

from monai_betavae import BetaVAELoss
from monai_betavae.objectives import OBJECTIVES, BetaTCVAELoss, DIPVAELoss, FreeBitsLoss, InfoVAELoss
from monai_betavae.objectives.batch_terms import takes_gathered, warn_of_batch_terms


class OfOwnImages(DIPVAELoss):
    """A class of the user's, with the arguments that objectives had before they took ``gathered``."""

    def __call__(self, x, p, q):
        return super().__call__(x, p, q)


def decoder(n_corrections, gain):
    return SimpleNamespace(n_corrections=n_corrections, correction=SimpleNamespace(gain=torch.full((2, 2), gain)))


@pytest.mark.parametrize("loss", [BetaTCVAELoss(), DIPVAELoss(), InfoVAELoss()])
def test_terms_that_a_correction_settles_are_warned_of(loss):
    with pytest.warns(UserWarning, match="--n_corrections 0") as caught:
        warn_of_batch_terms(loss, decoder(1, 0.5), 2)
    assert len(caught) == 1  # that there are two processes is no reason


def test_nothing_is_said_where_they_act():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loss in (BetaVAELoss(), FreeBitsLoss(), lambda x, p, q: {}):
            warn_of_batch_terms(loss, decoder(1, 0.5), 4)
        for made in (None, decoder(0, 0.5), decoder(2, 0.0)):
            warn_of_batch_terms(DIPVAELoss(), made, 4)
        warn_of_batch_terms(OfOwnImages(), None, 1)


def test_a_loss_of_the_users_that_compares_the_images_of_one_process_is_warned_of():
    with pytest.warns(UserWarning, match="OfOwnImages .* each of the 2 processes compares its own alone"):
        warn_of_batch_terms(OfOwnImages(), None, 2)


def test_losses_that_compare_images_take_those_of_all_processes():
    for objective in OBJECTIVES.values():
        assert takes_gathered(objective()) is objective.of_the_batch
    assert not takes_gathered(OfOwnImages())
    assert not takes_gathered(lambda x, p, q, gathered=None: {})


@pytest.mark.parametrize("loss", [BetaTCVAELoss(n_images=7), DIPVAELoss(), InfoVAELoss()])
def test_of_a_share_terms_of_the_batch_are_the_whole_ones_and_the_others_its_own(loss):
    torch.manual_seed(0)
    x, p, z = torch.zeros(4, 1, 2, 2, 2), torch.rand(4, 1, 2, 2, 2), torch.randn(4, 2)
    q = Normal(torch.randn(4, 2), torch.rand(4, 2) + 0.1)
    share = Normal(q.loc[::2], q.scale[::2])
    codes, own_codes = ((z,), (z[::2],)) if loss.takes_codes else ((), ())
    whole = loss(x, p, q, *codes)
    alone = loss(x[::2], p[::2], share, *own_codes)
    shared = loss(x[::2], p[::2], share, *own_codes, gathered=(q, z))
    own = {"rec_loss", "kl_loss"}
    for name in shared.keys() - {"loss"}:
        assert torch.equal(shared[name], (alone if name in own else whole)[name])
        assert not torch.isclose(alone[name], whole[name], rtol=1e-2)
