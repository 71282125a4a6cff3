"""Every version reads what an earlier one wrote: the files in tests/support/released, one folder per version.

They are never written anew. Where a file can't be read any more, it is the reader that has to change.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from released.write import QUIET, bundle_network, estimator_outputs, network_outputs
from torch.utils.data import DataLoader

from monai_betavae import VAE
from monai_betavae.data.transforms.brain import first_release_description
from monai_betavae.workflows import grid_affine, trained_likelihood, trained_network, trained_preprocessing
from monai_betavae.workflows.model_description import read_description
from monai_betavae.workflows.trained_model import network_arguments

# the tests run with the oldest Lightning too, which is older than the one that wrote the checkpoint
pytestmark = pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Lightning:UserWarning")

VERSIONS = sorted(
    path for path in (Path(__file__).parent / "support" / "released").iterdir() if (path / "expected.npz").is_file()
)


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def folder(request):
    return request.param


@pytest.fixture
def expected(folder):
    with np.load(folder / "expected.npz") as arrays:
        return dict(arrays)


def assert_outputs(found, expected, file):
    kept = {name.removeprefix(f"{file} "): value for name, value in expected.items() if name.startswith(file)}
    assert found.keys() == kept.keys()
    for name, value in kept.items():
        # another CPU rounds otherwise
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=f"{file}: {name}")
        # agreeing would say nothing if all volumes gave the same; how sure a code is, is nearly the same for all
        assert name in ("scale", "logvar") or np.abs(value[0] - value[1]).max() > 0.01, name


def test_the_first_release_is_there():
    assert "0.1.0" in [path.name for path in VERSIONS]


def test_the_model_is_a_template_that_the_code_deforms(folder):
    for file, content in (("model.pt", torch.load(folder / "model.pt", weights_only=True)),
                          ("vae.pt", torch.load(folder / "vae.pt", weights_only=True)["state_dict"])):  # fmt: skip
        for name in ("voxels", "components", "displacements"):
            assert content[f"decoder.template.{name}"].count_nonzero() > 10, f"{file}: {name}"


def test_a_saved_estimator_is_read(folder, expected):
    vae = VAE.load(folder / "vae.pt")
    assert vae.fitted
    assert (vae.beta, vae.latent_dim, vae.random_state) == (0.01, 2, 0)
    assert_outputs(estimator_outputs(vae, torch.from_numpy(expected["images"])), expected, "vae.pt")


def test_the_bundles_weights_and_settings_are_read(folder, expected):
    network = bundle_network(folder)
    assert_outputs(network_outputs(network, torch.from_numpy(expected["images"])), expected, "model.pt")
    arguments = network_arguments(read_description(folder))
    assert (arguments["spatial_shape"], arguments["latent_dim"], arguments["channels"]) == ([8, 9, 7], 2, [4, 8])
    assert arguments["warm_start"] == "deformable"
    affine = np.diag([24.0, 24.0, 24.0, 1.0])
    affine[:3, 3] = [-84, -99, -56]
    np.testing.assert_array_equal(grid_affine(folder), affine)
    assert trained_network(folder).state_dict().keys() == network.state_dict().keys()
    assert trained_preprocessing(folder).description == first_release_description((8, 9, 7), 24.0)


def test_the_likelihood_that_the_first_release_did_not_store(capsys):
    (first,) = (path for path in VERSIONS if path.name == "0.1.0")
    assert trained_likelihood(first) == {"distribution": "normal", "beta": 1.0}
    assert "is of release 0.1.0 and doesn't say it; taken as normal with beta 1" in capsys.readouterr().out


def test_a_checkpoint_is_read(folder, expected):
    vae = VAE.load_from_checkpoint(folder / "last.ckpt")
    assert vae.fitted
    assert_outputs(estimator_outputs(vae, torch.from_numpy(expected["images"])), expected, "last.ckpt")


# Lightning 2.6 calls what torch 2.13 deprecates
# Lightning's advice on speed, of no use for three tiny images
# the callbacks of the bundle aren't there; the weights and the optimizer are what is asked for here
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided:UserWarning")
def test_a_run_is_resumed(folder, expected):
    before = VAE.load_from_checkpoint(folder / "last.ckpt")
    vae = VAE.load_from_checkpoint(folder / "last.ckpt", max_epochs=3, **{**QUIET, "lr": 0.0123})
    vae.fit(DataLoader(torch.from_numpy(expected["images"]), batch_size=3), ckpt_path=folder / "last.ckpt")
    assert vae.trainer.current_epoch == 3
    (group,) = vae.trainer.optimizers[0].param_groups
    assert group["lr"] != 0.0123  # the optimizer's state is the file's
    assert not torch.equal(vae.fc_mu.weight, before.fc_mu.weight)
    torch.testing.assert_close(vae.fc_mu.weight, before.fc_mu.weight, rtol=0, atol=0.01)
