import shutil

import pytest
import torch

from monai_betavae import VAE
from monai_betavae.networks.acceleration import accelerate
from monai_betavae.networks.builders import build_network
from monai_betavae.networks.warm_start import warm_start

SHAPE = (16, 20, 16)


def images(n_images=6):
    return torch.rand(n_images, 1, *SHAPE, generator=torch.Generator().manual_seed(0))


def network(**arguments):
    made = build_network(SHAPE, 3, channels=(4, 8, 8), random_state=0, **arguments)
    warm_start(made, torch.utils.data.DataLoader(images(), batch_size=3))
    with torch.no_grad():  # an output layer that starts at zero would hide the levels before it
        if made.decoder.levels is not None:
            made.decoder.levels.output.conv_block.conv.weight.normal_(generator=torch.Generator().manual_seed(1))
    return made


def step(made):
    vae = VAE.from_network(made).train()
    torch.manual_seed(0)
    loss = vae.training_step(images(), 0)["loss"]
    loss.backward()
    return loss.detach(), {name: weights.grad for name, weights in made.named_parameters() if weights.requires_grad}


@pytest.mark.parametrize("architecture", ["conv", "plain", "residual"])
@pytest.mark.parametrize("start", ["mean", "deformable"])
def test_recomputed_activations_give_the_same_gradients(architecture, start):
    plain, recomputing = (network(architecture=architecture, warm_start=start, dropout=0.3) for _ in range(2))
    names = list(recomputing.state_dict())
    calls = []
    first = recomputing.encoder.body[0][0] if architecture != "residual" else recomputing.encoder.body[0].conv
    first.register_forward_pre_hook(lambda *_: calls.append(1))
    accelerate(recomputing, recompute_activations=True)

    (loss, gradients), (other_loss, other_gradients) = step(plain), step(recomputing)

    torch.testing.assert_close(other_loss, loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient)
    assert len(calls) == 2  # forward, and again for the backward pass
    assert list(recomputing.state_dict()) == names


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
# torch.compile itself looks at gradients that aren't kept, imports what torch deprecates, and, on Python 3.12, forks
# compilers beside torch's threads
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("start", ["mean", "deformable"])
def test_compiled_networks_give_the_same(start):
    plain, compiled = network(warm_start=start), network(warm_start=start)
    names = list(compiled.state_dict())
    accelerate(compiled, compile=True)
    loss, gradients = step(plain)
    other_loss, other_gradients = step(compiled)
    torch.testing.assert_close(other_loss, loss, rtol=1e-4, atol=1e-4)
    # a bias in front of a normalisation has no gradient but rounding: so the tolerance is the network's, not its own
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, rtol=1e-3, atol=1e-5 * largest)
    assert list(compiled.state_dict()) == names


@pytest.mark.parametrize("start", ["mean", "deformable"])
def test_bf16_trains_to_about_the_same(start):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        vae = VAE.from_network(
            network(warm_start=start),
            lr=1e-3,
            random_state=0,
            precision=precision,
            max_epochs=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        vae.fit(torch.utils.data.DataLoader(images(), batch_size=3))
        assert all(weights.dtype == torch.float32 for weights in vae.parameters())
        losses[precision] = float((vae.reconstruct(images()) - images()).square().sum().detach())
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.02)
    assert losses["bf16-mixed"] != losses["32-true"]
