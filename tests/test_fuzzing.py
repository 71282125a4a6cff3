"""Ten thousand inputs nobody wrote: a result of its contract or a ``ValueError``, never another exception.

Where there is a promise beyond that (finite losses, files named, parts that share no subject) it is checked too.
"""

import copy
import functools
import inspect
import json
import math
import os
import string
import tempfile
from pathlib import Path

import numpy as np
import pytest
import quiet_trainer
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from torch import nn
from torch.distributions import Bernoulli, Laplace, Normal

from monai_betavae import VAE, BetaVAELoss, build_decoder, build_encoder, build_vae
from monai_betavae.data import brain_transforms, discover, split_subjects
from monai_betavae.losses import LIKELIHOODS
from monai_betavae.networks.builders import build_network
from monai_betavae.saving.descriptions import BUILDERS, rebuild
from monai_betavae.saving.safe_loading import described_networks, load_weights_only, parse_description
from monai_betavae.workflows.model_description import FORMAT, MODEL_FILE, SETTINGS_FILE, read_description
from monai_betavae.workflows.records import PARTS, read_split
from monai_betavae.workflows.trained_model import (
    grid_affine,
    network_arguments,
    of_another_run,
    trained_likelihood,
    trained_network,
    trained_preprocessing,
)

pytestmark = [
    pytest.mark.slow,
    # what the package says of columns that records have already
    pytest.mark.filterwarnings("ignore:.* left out. records have something else by that name:UserWarning"),
]

CASES = []


def cases(number):
    """Run a test on so many inputs, the same ones every time."""
    CASES.append(number)
    return settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


def result_or_refusal(function, *args, **kwargs):
    """Return what a function gives, or ``None`` and the text of its ``ValueError``; nothing else is caught."""
    try:
        return function(*args, **kwargs), ""
    except ValueError as error:
        return None, str(error) or "a ValueError without a word"


# ---- what is drawn ---------------------------------------------------------------------------------------------------

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int16,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
)
MODEST = (0.0, 0.25, 0.5, 1.0)
LARGE = (*MODEST, -1.0, 1e-45, 1e-30, 1000.0, 1e15, -1e15)
HUGE = (*LARGE, 1e16, 1e19, -1e30, 3e38, -3e38, 1e300)
ANY = (*HUGE, math.inf, -math.inf, math.nan)
RANGES = (MODEST, LARGE, HUGE, ANY)


@st.composite
def tensors(draw, shapes, dtypes=DTYPES, ranges=RANGES):
    """Tensors whose values are picked from a few notable ones."""
    shape, dtype = draw(shapes), draw(st.sampled_from(dtypes))
    values = draw(st.lists(st.sampled_from(draw(st.sampled_from(ranges))), min_size=1, max_size=4))
    pool = torch.tensor(values, dtype=torch.float64)
    if not dtype.is_floating_point and not dtype.is_complex:
        pool = pool.nan_to_num(0.0).clamp(0, 200)
    seed = draw(st.integers(0, 2**16))
    picked = torch.randint(len(pool), tuple(shape), generator=torch.Generator().manual_seed(seed))
    tensor = pool[picked].to(torch.float32 if dtype == torch.float8_e4m3fn else dtype).to(dtype)
    return MetaTensor(tensor) if draw(st.integers(0, 11)) == 0 and dtype != torch.float8_e4m3fn else tensor


def mostly(good, bad, share=4):
    """Draw from ``bad`` once in so many times, from ``good`` otherwise."""
    return st.sampled_from([good] * share + [bad]).flatmap(lambda strategy: strategy)


any_shapes = st.lists(st.integers(0, 4), max_size=5)

# numbers that no memory holds, and others beyond 64 bits
huge_integers = st.sampled_from([10**10, 10**12, 2**31, 2**63, 10**30, 10**400, -1, -(10**30)])
json_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | huge_integers
    | st.floats()
    | st.sampled_from([1e308, -1e308, 1e-320, 0.5])
    | st.text(max_size=8)
    | st.sampled_from(["instance", "group", "batch", "relu", "softmax", "conv", "resnet", "linear", "deformable"])
)
json_values = st.recursive(
    json_leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def places(value, path=()):
    """Return the path of every value inside a nested one, as keys and indices."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, entry in entries for p in [(*path, key), *places(entry, (*path, key))]]


@st.composite
def mutated(draw, true_value):
    """True values of JSON of which one to three places are dropped, renamed or replaced."""
    value = copy.deepcopy(true_value)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        found = places(value)
        if not found:
            return draw(json_values)
        *path, last = draw(st.sampled_from(found))
        holder = functools.reduce(lambda inner, key: inner[key], path, value)
        change = draw(st.sampled_from(["drop", "rename", "replace", "number"]))
        if change == "drop":
            del holder[last]
        elif change == "rename" and isinstance(holder, dict):
            holder[draw(st.text(max_size=6) | st.sampled_from(["self", "encoder", "beta", "latent_dim"]))] = holder.pop(
                last
            )
        else:
            holder[last] = draw(huge_integers if change == "number" else json_values)
    return value


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# ---- the loss --------------------------------------------------------------------------------------------------------

image_shapes = mostly(st.sampled_from([(2, 1, 3, 4), (1, 2, 2, 3, 2), (3, 5), (1, 1, 1)]), any_shapes)


def is_real(tensor):
    return not tensor.is_complex()


def is_within(tensor, largest):
    """Whether all values are finite and at most that large; an empty tensor has none that isn't."""
    return bool((tensor.double().abs() <= largest).all())


def double_of(*tensors_of_any_kind):
    return [t.as_subclass(torch.Tensor).double() for t in tensors_of_any_kind]


@st.composite
def loss_inputs(draw):
    """A batch, what a decoder makes of it, a posterior and arguments, mostly of shapes that go together."""
    shape = draw(image_shapes)
    x = draw(tensors(st.just(shape)))
    same = draw(st.integers(0, 9)) > 0
    raw = draw(tensors(st.just(shape) if same else image_shapes))
    kind = draw(st.sampled_from(["tensor", "tensor", "normal", "laplace", "probs", "logits"]))
    if kind != "tensor":
        # what a decoder makes is a number; the other types come as tensors
        raw = raw if raw.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16) else raw.real.float()
    p = {
        "tensor": lambda: raw,
        "normal": lambda: Normal(raw, 1.0, validate_args=False),
        "laplace": lambda: Laplace(raw, 1.0, validate_args=False),
        "probs": lambda: Bernoulli(probs=raw, validate_args=False),
        "logits": lambda: Bernoulli(logits=raw, validate_args=False),
    }[kind]()
    n_rows = shape[0] if shape and draw(st.integers(0, 9)) > 0 else draw(st.integers(0, 3))
    rows = [n_rows, draw(st.integers(1, 3))] if draw(st.integers(0, 9)) > 0 else draw(any_shapes)
    floats = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    loc = draw(tensors(st.just(rows), floats))
    scale = draw(tensors(st.just(rows), floats, [[0.5, 1.0, 2.0], [1e-30, 1.0, 1e15], [1e-45, 1e30, 3e38], list(ANY)]))
    q = Normal(loc, scale, validate_args=False)
    beta = draw(st.sampled_from([0.0, 1e-320, 1e-30, 1.0, 4.0, 1e3, 1e15, 1e30]))
    return x, raw, kind, p, q, beta, draw(st.sampled_from(LIKELIHOODS))


def is_refused(x, raw, kind, q, dist):
    """Whether the documentation says that the loss refuses such a batch on the CPU."""
    if x.ndim == 0 or x.numel() == 0 or x.shape != raw.shape or not (is_real(x) and is_real(raw)):
        return True
    if len(q.batch_shape) != 2 or q.batch_shape[0] != len(x) or q.batch_shape[0] == 0:
        return True
    bernoulli = kind in ("probs", "logits") or (kind == "tensor" and dist == "bernoulli")
    images, probabilities = double_of(x, raw)
    outside = bool(((images < 0) | (images > 1) | images.isnan()).any())
    # NaN isn't outside: it comes of weights, and is told of by what watches the training
    known = not bool(probabilities.isnan().any())
    wrong = kind != "logits" and known and bool(((probabilities < 0) | (probabilities > 1)).any())
    return bernoulli and (outside or wrong)


@cases(2000)
@given(loss_inputs())
def test_losses_are_finite_up_to_1e15_never_nan_beyond_and_never_hide_a_value_that_is_not_finite(inputs):
    x, raw, kind, p, q, beta, dist = inputs
    losses, refusal = result_or_refusal(BetaVAELoss(beta, dist), x, p, q)
    assert bool(refusal) == is_refused(x, raw, kind, q, dist), refusal
    if losses is None:
        return
    for value in losses.values():
        assert type(value) is torch.Tensor
        assert value.shape == ()
        assert value.dtype in (torch.float32, torch.float64)
    rec, kl, loss = (losses[name].item() for name in ("rec_loss", "kl_loss", "loss"))
    images, outputs, loc, scale = double_of(x, raw, q.loc, q.scale)
    finite = [bool(value.isfinite().all()) for value in (images, outputs, loc, scale)]
    positive = bool((scale > 0).all())
    # in the type it is computed in, a value can be infinite that came as a float64
    if all(finite) and positive:
        assert not any(map(math.isnan, (rec, kl, loss)))
        assert rec >= 0
        assert kl >= -1e-6
    if is_within(images, 1e15) and is_within(outputs, 1e15):
        assert math.isfinite(rec)
    if is_within(loc, 1e15) and is_within(scale, 1e15) and bool((scale >= 1e-38).all()):
        assert math.isfinite(kl)
        if math.isfinite(rec) and beta <= 1e3:
            assert math.isfinite(loss)
    assert math.isfinite(rec) <= (finite[0] and finite[1])
    assert math.isfinite(kl) <= (finite[2] and finite[3])


@cases(400)
@given(
    x=tensors(st.just((2, 1, 3)), DTYPES[:8], [MODEST, LARGE]),
    raw=tensors(st.just((2, 1, 3)), (torch.float32, torch.float64), [MODEST, LARGE]),
    scale=st.sampled_from([1e-15, 1.0, 1e15]),
    dist=st.sampled_from(LIKELIHOODS),
    beta=st.sampled_from([0.0, 1.0, 1e3]),
)
def test_gradients_are_finite_where_the_loss_is(x, raw, scale, dist, beta):
    raw = raw.as_subclass(torch.Tensor).requires_grad_()
    loc, scales = torch.full((2, 2), scale).requires_grad_(), torch.full((2, 2), scale).requires_grad_()
    losses, _ = result_or_refusal(BetaVAELoss(beta, dist), x, raw, Normal(loc, scales, validate_args=False))
    if losses is None or not is_within(x, 1e15):  # 1e15 is infinite in float16
        return
    assert math.isfinite(losses["loss"].item())
    losses["loss"].backward()
    for value in (raw, loc, scales):
        assert value.grad is None or bool(value.grad.isfinite().all())


@cases(400)
@given(beta=json_values, dist=json_values | st.sampled_from(LIKELIHOODS))
def test_arguments_of_the_loss_are_taken_or_refused(beta, dist):
    loss, refusal = result_or_refusal(BetaVAELoss, beta, dist)
    assert loss is not None or "`beta`" in refusal or "`default_dist`" in refusal


# ---- the estimator ---------------------------------------------------------------------------------------------------

QUIET = {**quiet_trainer.QUIET, "max_epochs": 1}
SHAPE = (1, 4, 4)
KINDS = ("built", "built bernoulli", "custom", "custom laplace", "custom bernoulli")


def custom_networks():
    decoder = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(1, SHAPE))
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), decoder


def new_vae(kind):
    options = {"random_state": 0, "default_dist": kind.split()[1] if " " in kind else "normal", **QUIET}
    if kind.startswith("built"):
        return build_vae((4, 4), 2, channels=(4,), **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder, decoder = custom_networks()
    if kind == "custom bernoulli":
        decoder.append(nn.Sigmoid())
    return VAE(encoder, decoder, 3, 2, **options)


@functools.cache
def fitted_vae(kind):
    vae = new_vae(kind)
    vae.fitted_ = True
    return vae


good_shapes = st.sampled_from([(1, *SHAPE), (2, *SHAPE), (3, *SHAPE)])
batch_tensors = tensors(mostly(good_shapes, any_shapes), DTYPES[:4] * 4 + DTYPES, [MODEST, MODEST, *RANGES])


@st.composite
def batches(draw):
    """Batches of every form, and what is none."""
    images = draw(batch_tensors)
    form = draw(st.sampled_from(["tensor", "tensor", "tuple", "list", "dict", "nested", "other key", "other"]))
    if form == "other":
        return draw(
            st.sampled_from([None, "image", 3, [], (), {}, ["image"], {"image": None}, np.zeros((1, *SHAPE)), b""])
        )
    other_labels = tensors(any_shapes) | json_values
    labels = draw(mostly(st.just(torch.zeros(len(images) if images.ndim else 0)), other_labels))
    return {
        "tensor": images,
        "tuple": (images, labels),
        "list": [images, labels],
        "dict": {"image": images, "label": labels, "subject": ["sub-1"]},
        "nested": ({"image": (images,)}, labels),
        "other key": {"t1": images},
    }[form]


def all_tensors(result):
    """Return the tensors of what a method of the estimator gives."""
    if isinstance(result, Normal):
        return [result.loc, result.scale]
    return (
        list(result.values()) if isinstance(result, dict) else list(result) if isinstance(result, tuple) else [result]
    )


METHODS = {
    "training_step": lambda vae, batch: vae.training_step(batch, 0),
    "validation_step": lambda vae, batch: vae.validation_step(batch, 0),
    "transform_step": lambda vae, batch: vae.transform_step(batch, 0),
    "encode": lambda vae, batch: vae.encode(batch),
    "reconstruct": lambda vae, batch: vae.reconstruct(batch),
    "transform": lambda vae, batch: vae.transform([batch]),
    "transform of several": lambda vae, batch: vae.transform([torch.zeros(1, *SHAPE), batch, batch]),
}


@cases(1200)
@given(kind=st.sampled_from(KINDS), name=st.sampled_from(sorted(METHODS)), batch=batches())
def test_every_method_gives_finite_numbers_or_refuses_the_batch(kind, name, batch):
    found, _ = result_or_refusal(METHODS[name], fitted_vae(kind), batch)
    if found is not None:
        for tensor in all_tensors(found):
            assert type(tensor) is torch.Tensor
            assert bool(tensor.isfinite().all())


@cases(200)
@given(batch=batches())
def test_good_batches_are_never_refused(batch):
    """Whatever form and type it has: only what isn't finite, is too large, or has another shape is refused."""
    images = batch
    while isinstance(images, list | tuple | dict) and len(images):
        images = images.get("image") if isinstance(images, dict) else images[0]
    found, refusal = result_or_refusal(fitted_vae("built").encode, batch)
    good = isinstance(images, torch.Tensor) and images.shape[1:] == SHAPE and len(images) > 0 and is_real(images)
    assert (found is not None) == (good and is_within(images, 1e15)), refusal


@cases(300)
@given(
    kind=st.sampled_from(KINDS),
    first=batches(),
    second=batches(),
    key=mostly(st.just("label"), st.sampled_from(["image", "age"])),
)
def test_targets_have_a_row_for_each_image_or_are_refused(kind, first, second, key):
    vae = fitted_vae(kind)
    found, _ = result_or_refusal(vae.transform_with_targets, [first, second], target_key=key)
    if found is not None:
        features, targets = found
        assert len(features) == len(targets)
        assert bool(features.isfinite().all())


@cases(400)
@given(
    kind=st.sampled_from(KINDS),
    z=mostly(tensors(mostly(st.sampled_from([(1, 2), (3, 2)]), any_shapes), DTYPES[:8] * 3 + DTYPES), json_values),
)
def test_codes_give_finite_images_or_are_refused(kind, z):
    found, refusal = result_or_refusal(fitted_vae(kind).decode, z)
    good = isinstance(z, torch.Tensor) and z.ndim == 2 and z.shape[1] == 2 and len(z) > 0
    assert (found is not None) == (good and is_real(z) and is_within(z, 1e15)), refusal
    if found is not None:
        assert found.shape == (len(z), *SHAPE)
        assert bool(found.isfinite().all())


@cases(150)
@given(
    kind=st.sampled_from(KINDS),
    training=mostly(st.lists(batches(), min_size=1, max_size=2), st.just([])),
    validation=st.none() | st.lists(batches(), max_size=1),
)
def test_a_fit_of_one_step_leaves_finite_weights_or_refuses_the_batch(kind, training, validation):
    vae = new_vae(kind)
    fitted, _ = result_or_refusal(vae.fit, training, validation)
    assert vae.fitted == (fitted is not None)
    assert all(bool(value.isfinite().all()) for value in vae.state_dict().values())


# ---- arguments -------------------------------------------------------------------------------------------------------

RIGHT_ARGUMENTS = {
    build_encoder: {"spatial_shape": [4, 4], "channels": [4]},
    build_decoder: {"latent_dim": 2, "spatial_shape": [4, 4], "channels": [4]},
    build_network: {"spatial_shape": [4, 4], "latent_dim": 2, "channels": [4]},
    build_vae: {"spatial_shape": [4, 4], "latent_dim": 2, "channels": [4]},
}
PLAUSIBLE = {
    "spatial_shape": [[3, 5], [4, 4, 4], [1, 7], [1, 1]],
    "channels": [[1], [4, 6], [2, 2, 2], [2, 2, 2, 2], [10**10, 2]],
    "architecture": ["conv", "plain", "residual", "resnet", "densenet"],
    "norm": [
        "batch",
        "group",
        "layer",
        "localresponse",
        "syncbatch",
        ["group", {"num_groups": 3}],
        ["batch", {"a": 1}],
    ],
    "act": [
        "elu",
        "glu",
        "softmax",
        "memswish",
        "geglu",
        None,
        ["leakyrelu", {"negative_slope": 0.2}],
        ["relu", {"b": 0}],
    ],
    "kernel_size": [1, 5, 10**6 + 1],
    "n_blocks": [2, 3, 10**9],
    "dropout": [0.5, 1, 1.0],
    "warm_start": ["none", "mean", "linear", "deformable"],
    "output": ["linear", "sigmoid"],
    "default_dist": list(LIKELIHOODS),
}
"""Values that builders take alone and refuse beside some others."""

VAE_ARGUMENTS = [
    name
    for name, parameter in inspect.signature(VAE).parameters.items()
    if name not in ("encoder", "decoder") and parameter.kind is not parameter.VAR_KEYWORD
]


@st.composite
def arguments(draw, names, right):
    """Right arguments of which one to three are replaced by random plain values."""
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    wrong = st.lists(st.integers(0, 9) | huge_integers, max_size=4) | json_values
    plausible = {name: st.sampled_from(PLAUSIBLE.get(name, [0, 1, 2, 3])) for name in chosen}
    return {**right, **{name: draw(mostly(plausible[name], wrong, share=2)) for name in chosen}}


@cases(900)
@given(st.data())
def test_builders_build_or_refuse(data):
    builder = data.draw(st.sampled_from(sorted(RIGHT_ARGUMENTS, key=lambda made: made.__name__)))
    names = set(inspect.signature(builder).parameters) - {"vae_kwargs"}
    if builder is build_vae:
        names |= set(inspect.signature(build_network).parameters) - {"output", "n_voxels"}
        names |= set(VAE_ARGUMENTS) - {"encoder_out_dim"}
    given_arguments = data.draw(arguments(sorted(names), RIGHT_ARGUMENTS[builder]))
    built, refusal = result_or_refusal(builder, **given_arguments)
    assert isinstance(built, nn.Module) or refusal
    if refusal:
        assert any(name in refusal for name in given_arguments), refusal


@cases(300)
@given(
    arguments(
        [*VAE_ARGUMENTS, "max_epochs", "precision", "max_epoch", "callbacks"], {"encoder_out_dim": 3, "latent_dim": 2}
    )
)
def test_the_estimator_is_built_or_refused(given_arguments):
    built, refusal = result_or_refusal(VAE, *custom_networks(), **given_arguments)
    assert isinstance(built, VAE) or any(name in refusal for name in given_arguments), refusal


@cases(50)
@given(encoder=json_values, decoder=json_values)
def test_what_is_no_network_is_refused(encoder, decoder):
    with pytest.raises(ValueError, match=r"`encoder` must be a torch\.nn\.Module"):
        VAE(encoder, decoder, 3, 2)


# ---- descriptions and the files that hold them -----------------------------------------------------------------------


@functools.cache
def saved_model():
    """Return what a saved model's file holds."""
    with tempfile.TemporaryDirectory() as name:
        return load_weights_only(fitted_vae("built").save(Path(name) / "model.pt"))


def true_description():
    return json.loads(saved_model()["description"])


TRUE_NETWORKS = [
    {"builder": name, "arguments": {"spatial_shape": [4, 4], "channels": [4], "n_voxels": 3, **more}}
    for name, more in {
        "build_encoder": {"n_components": 2},
        "build_decoder": {"latent_dim": 2, "warm_start": "deformable"},
        "build_network": {"latent_dim": 2, "norm": ["group", {"num_groups": 2}], "random_state": 0},
    }.items()
]


@cases(500)
@given(mostly(st.sampled_from(TRUE_NETWORKS).flatmap(mutated), json_values))
def test_descriptions_of_networks_are_rebuilt_or_refused_by_name(description):
    assert {entry["builder"] for entry in TRUE_NETWORKS} <= set(BUILDERS)
    built, refusal = result_or_refusal(rebuild, description, "model.pt")
    assert isinstance(built, nn.Module) or refusal.startswith("model.pt")


json_texts = (
    st.text(max_size=40)
    | st.binary(max_size=40)
    | json_values.map(json.dumps)
    | st.sampled_from(["[" * 100_000, "9" * 5000, '"\\ud800"', "\ufeff{}", '{"a": NaN}', "", "null"])
)


@cases(400)
@given(json_texts | json_values | st.deferred(lambda: mutated(true_description()).map(json.dumps)))
def test_descriptions_of_models_are_parsed_or_refused_by_name(text):
    def networks():
        return described_networks(parse_description(text, "model.pt"), {"encoder": None, "decoder": None}, "model.pt")

    found, refusal = result_or_refusal(networks)
    assert found is not None or "model.pt" in refusal


@cases(400)
@given(mostly(st.deferred(lambda: mutated(true_description()).map(json.dumps)), json_texts))
def test_a_file_of_a_mutated_description_is_loaded_or_refused_by_name(folder, text):
    path = folder / "model.pt"
    torch.save({**saved_model(), "description": text}, path)
    vae, refusal = result_or_refusal(VAE.load, path)
    if vae is None:
        assert "model.pt" in refusal
    else:
        assert vae.sample(1).shape[0] == 1
        assert vae.state_dict().keys() == saved_model()["state_dict"].keys()


TRUE_SETTINGS = {
    "format": FORMAT,
    "network": TRUE_NETWORKS[2],
    "preprocessing": brain_transforms((4, 4, 4), 2.0).description,
    "likelihood": {"distribution": "laplace", "beta": 2.0},
    "grid": {"spatial_shape": [4, 4, 4], "spacing": [2.0, 2.0, 2.0], "affine": np.eye(4).tolist()},
    "trained_on": {"volumes": 3, "subjects": 3, "simulated": False, "digest": "0" * 32, "split": "1" * 32},
}
SETTINGS_OF_THE_FIRST_RELEASE = {
    "network": TRUE_NETWORKS[2],
    "preprocessing": {"spatial_shape": [4, 4, 4], "spacing": 2.0},
    "grid_affine": np.eye(4).tolist(),
}
TRUE_SPLIT = {part: [{"image": f"/data/{part}.nii.gz", "subject": part}] for part in PARTS}


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_bytes(content.encode("utf-8", "surrogatepass"))


@cases(800)
@given(mutated(TRUE_SETTINGS).map(json.dumps) | mutated(SETTINGS_OF_THE_FIRST_RELEASE).map(json.dumps) | json_texts)
def test_the_description_of_a_trained_model_is_read_or_refused_by_name(folder, text):
    (folder / MODEL_FILE).unlink(missing_ok=True)  # of the tests above; without weights only the description counts
    write(folder / SETTINGS_FILE, text)
    write(folder / "split.json", json.dumps(TRUE_SPLIT))
    found, refusal = result_or_refusal(read_description, folder)
    for read in (trained_network, trained_preprocessing, trained_likelihood):
        made, refused = result_or_refusal(read, folder)
        assert made is not None or str(folder / SETTINGS_FILE) in refused, refused
    if found is None:
        assert str(folder / SETTINGS_FILE) in refusal
        return
    assert isinstance(network_arguments(found), dict)
    assert grid_affine(folder).shape == (4, 4)
    assert isinstance(of_another_run(folder, folder), bool)


@cases(600)
@given(mutated(TRUE_SPLIT).map(json.dumps) | json_texts)
def test_a_split_is_read_or_refused_by_name(folder, text):
    path = folder / "split.json"
    write(path, text)
    split, refusal = result_or_refusal(read_split, path)
    if split is None:
        assert str(path) in refusal
    else:
        assert list(split) == list(PARTS)
        assert all(isinstance(record["image"], str) for members in split.values() for record in members)


# ---- lists of volumes ------------------------------------------------------------------------------------------------

FILES = ("sub-01_T1w.nii.gz", "sub-02_ses-1_run-1_T1w.nii.gz", "c.nii", "d.mgz")


@pytest.fixture(scope="module")
def cohort(folder):
    made = folder / "cohort"
    made.mkdir()
    for name in FILES:
        (made / name).touch()
    return made


def check_records(found, refusal, source):
    """Records of one form, each of an existing volume and a subject; or a refusal that names what it is of."""
    if found is None:
        assert repr(os.fspath(source))[1:-1] in refusal or Path(source).name in refusal, refusal
        return
    assert found
    for record in found:
        assert list(record) == list(found[0])
        assert os.path.isfile(record["image"])
        assert isinstance(record["subject"], str)
        assert record["subject"]
        assert not any(isinstance(value, float) and math.isnan(value) for value in record.values())


images = st.sampled_from([*FILES, f"./{FILES[0]}", "nowhere.nii.gz", "", ".", "..", "~", "~nobody/a.nii", "a\0b"])
fields = st.sampled_from(["image", "label", "subject", "participant_id", "age", "session", "run", "split", "", "\n"])
entries = st.dictionaries(fields, images | json_values, max_size=4) | images | json_values
datalists = st.dictionaries(
    st.sampled_from(["training", "validation", "test", "train", "val", "numTest", "labels"]),
    st.lists(entries, max_size=4) | json_values,
    max_size=4,
)
TRUE_DATALIST = {
    "name": "a cohort",
    "training": [{"image": FILES[0], "age": 31, "label": "seg.nii.gz"}, {"image": FILES[1], "sex": "F", "site": None}],
    "test": [FILES[2], {"image": FILES[3], "age": 7.5, "subject": 7}],
}


@cases(1000)
@given(
    content=mostly(mutated(TRUE_DATALIST).map(json.dumps), datalists.map(json.dumps) | json_texts, share=2),
    image_column=mostly(st.just("image"), st.sampled_from(["age", "x"])),
)
def test_a_datalist_gives_records_or_is_refused(cohort, content, image_column):
    path = cohort / "dataset.json"
    write(path, content)
    check_records(*result_or_refusal(discover, path, image_column=image_column), path)


cells = st.sampled_from([*FILES, "7", "007", "1e400", "1e3", "-0", "n/a", "NaN", "inf", "x", '"', "٣", "9" * 400])
rows = st.lists(cells | st.text(max_size=6), max_size=4)


@st.composite
def table_texts(draw):
    """Tables, whose rows mostly have the header's length and whose cells needn't be what a table can hold."""
    separator, newline = draw(st.sampled_from([",", "\t", ";"])), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    header = draw(st.lists(fields | st.text(max_size=5), max_size=4))
    lines = [header, *draw(st.lists(st.lists(cells, min_size=len(header), max_size=len(header)) | rows, max_size=4))]
    return newline.join(separator.join(line) for line in lines)


@st.composite
def table_texts_of_the_cohort(draw):
    """Tables of the volumes that there are, with any covariates, of which at most one cell is spoilt."""
    header = ["image", *draw(st.lists(st.sampled_from(["subject", "age", "session", "sex"]), max_size=3, unique=True))]
    lines = [header]
    for image in draw(st.lists(st.sampled_from(FILES), min_size=1, max_size=4, unique=True)):
        lines.append([image, *draw(st.lists(cells, min_size=len(header) - 1, max_size=len(header) - 1))])
    if draw(st.booleans()):
        line = draw(st.sampled_from(lines))
        line[draw(st.integers(0, len(line) - 1))] = draw(st.text(max_size=6))
    return "\n".join(draw(st.sampled_from([",", "\t", ";"])).join(line) for line in lines)


tables = table_texts() | table_texts_of_the_cohort() | st.text(max_size=60) | st.binary(max_size=60)


@cases(1000)
@given(
    content=mostly(table_texts_of_the_cohort(), tables, share=2),
    ending=st.sampled_from([".csv", ".tsv", ".CSV"]),
)
def test_a_table_gives_records_or_is_refused(cohort, content, ending):
    path = cohort / f"table{ending}"
    write(path, content)
    check_records(*result_or_refusal(discover, path), path)


entity = st.sampled_from(
    ["sub-1", "sub-01", "sub-", "sub-ä", "ses-1", "ses-", "anat", "derivatives", "run-2", "T1w", ""]
)
file_names = st.builds(
    lambda parts, ending: "_".join(parts) + ending,
    st.lists(entity | st.text(string.ascii_letters + string.digits + " -._*[]\n\t", max_size=5), max_size=4),
    st.sampled_from([".nii.gz", ".nii", ".json", "", ".NII"]),
)
trees = st.lists(st.tuples(st.lists(entity, max_size=3), file_names), max_size=5)


@cases(300)
@given(
    tree=trees,
    participants=st.none() | table_texts() | tables,
    sessions=st.none() | tables,
    suffix=st.sampled_from(["T1w", "T1w", "", "*", "[", "T1w.nii"]),
)
def test_a_folder_of_bids_like_names_gives_records_or_is_refused(tree, participants, sessions, suffix):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        root.mkdir()
        for parts, file in [(["sub-1", "anat"], "sub-1_T1w.nii.gz"), *tree]:
            place = root.joinpath(*parts)
            if file not in ("", ".", "..") and not any(above.is_file() for above in (place, *place.parents)):
                place.mkdir(parents=True, exist_ok=True)
                if not (place / file).exists():
                    (place / file).touch()
        for path, content in ((root / "participants.tsv", participants), (root / "sub-1/sub-1_sessions.tsv", sessions)):
            if content is not None and not path.exists():
                write(path, content)
        found, refusal = result_or_refusal(discover, root, suffix=suffix)
        check_records(found, refusal, "suffix" if "`suffix`" in refusal else root)


@cases(500)
@given(text=st.text(max_size=12) | st.sampled_from(["[", "*", "?.nii", "**", "x" * 5000, "a\0", "[!]*", "\ud800"]))
def test_any_text_below_a_folder_as_source_gives_records_or_is_refused(cohort, text):
    source = f"{cohort}{os.sep}{text.replace('..', '').replace('/', '')}"
    found, refusal = result_or_refusal(discover, source)
    assert found is not None or "`source`" in refusal


@cases(100)
@given(source=json_values | st.binary(max_size=5), column=json_values)
def test_what_is_no_path_is_refused(cohort, source, column):
    if not isinstance(source, str):
        with pytest.raises(ValueError, match="`source` must be"):
            discover(source)
    names = isinstance(column, list) and column and all(isinstance(name, str) and name for name in column)
    if not isinstance(column, str) and not (names and len(set(column)) == len(column)):
        with pytest.raises(ValueError, match="`image_column` must "):
            discover(cohort, image_column=column)


subjects = st.sampled_from(["a", "b", "c", "d", 1, "1", 2.0, True, ""]) | st.integers(0, 30) | json_values
good_records = st.lists(
    st.fixed_dictionaries({"subject": st.integers(0, 30), "age": json_leaves, "sex": st.sampled_from("FM")}),
    min_size=2,
    max_size=30,
)
other_records = st.lists(
    st.fixed_dictionaries({"subject": subjects}, optional={"age": json_values, "sex": st.sampled_from("FM")})
    | st.dictionaries(st.sampled_from(["subject", "age"]), json_values, max_size=2)
    | json_values,
    max_size=12,
)
records = mostly(good_records, other_records)
good_fractions = st.sampled_from([(0.5, 0.5), (0.7, 0.15, 0.15), [0.1] * 10, {"a": 0.8, "b": 0.2}, (1, 0)])
good_names = st.none() | st.sampled_from(["age", "sex", ["age", "sex"]])


@cases(1000)
@given(
    records=records,
    fractions=mostly(good_fractions, st.lists(st.floats(0, 1), max_size=4) | json_values),
    seed=mostly(st.none() | st.integers(0, 99), json_values),
    stratify=mostly(good_names, json_values),
)
def test_a_split_is_a_partition_by_subject_or_is_refused(records, fractions, seed, stratify):
    parts, refusal = result_or_refusal(split_subjects, records, fractions, seed, stratify)
    if parts is None:
        assert any(f"`{name}" in refusal for name in ("records", "fractions", "seed", "stratify")), refusal
        return
    members = list(parts.values()) if isinstance(parts, dict) else list(parts)
    assert len(members) == len(fractions)
    places_of = {id(record): place for place, record in enumerate(records)}
    found = [[places_of[id(record)] for record in part] for part in members]
    assert sorted(place for part in found for place in part) == list(range(len(records)))
    assert all(part == sorted(part) for part in found)
    of_subject = {}
    for number, part in enumerate(members):
        for record in part:
            assert of_subject.setdefault(str(record["subject"]), number) == number
    shares = list(fractions.values()) if isinstance(fractions, dict) else list(fractions)
    for number, share in enumerate(shares):
        size = sum(part == number for part in of_subject.values())
        assert (size > 0) == (share > 0)


def test_there_are_ten_thousand_cases():
    assert sum(CASES) >= 10_000
