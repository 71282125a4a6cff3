import lightning.pytorch as pl
import pytest
import torch
from estimators import QUIET, built_vae, custom_vae, images
from torch.utils.data import DataLoader


@pytest.mark.parametrize(
    "precision", ["bf16-true", "16-true", "transformer-engine", "transformer-engine-float16", "half"]
)
def test_true_half_precisions_are_refused(precision):
    with pytest.raises(ValueError, match=rf"`precision` must be one of '32-true', .*'16-mixed', got '{precision}'"):
        custom_vae(precision=precision)


def test_true_half_precision_of_a_trainer_of_ones_own_is_refused():
    vae = custom_vae()
    with pytest.raises(ValueError, match=r"`precision` must be one of .*, got 'bf16-true'"):
        pl.Trainer(**QUIET, precision="bf16-true").fit(vae, DataLoader(images(), batch_size=3))
    vae.trainer_params["precision"] = "bf16-true"
    with pytest.raises(ValueError, match=r"`precision` must be one of .*, got 'bf16-true'"):
        vae.fit(DataLoader(images() * torch.nan, batch_size=3))  # before an image is read


@pytest.mark.parametrize("precision", ["32-true", 32, "64-true", "bf16-mixed", None])
def test_precisions_that_are_accepted_train(precision):
    vae = built_vae(precision=precision).fit(DataLoader(images(), batch_size=3))
    assert vae.transform(DataLoader(images(), batch_size=3)).isfinite().all()


@pytest.mark.parametrize(("name", "alias"), [("bf16-mixed", "bf16"), ("16-mixed", 16)])
def test_lightnings_other_names_of_precisions_embed_alike(name, alias):
    def codes(precision):
        vae = custom_vae(precision=precision, stochastic_transform=False)
        vae.fitted_ = True
        return vae.transform(DataLoader(images(), batch_size=3))

    assert torch.equal(codes(name), codes(alias))
    assert not torch.equal(codes(name), codes("32-true"))
