"""Export of a trained network as a ``torch.export`` program or an ONNX model, which run without this package."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..networks.conditional_mean import n_covariates_of
from ..saving.atomic_files import atomic_path
from .model_description import MODEL_FILE, SETTINGS_FILE, read_description
from .trained_model import load_weights, trained_network

SUFFIXES = (".pt2", ".onnx")
"""Of a ``torch.export`` program and of an ONNX model."""

INPUTS, OUTPUTS = ("image", "covariates"), ("pred", "mu", "logvar")
"""Names of an ONNX model's inputs and outputs, as many as it has."""

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Run = Callable[..., Any]


def export_program(
    filepath: str | os.PathLike[str], ckpt_dir: str | os.PathLike[str], codes: bool = False
) -> tuple[Path, float]:
    """Write the trained network as a program for any batch size, and test it.

    ``torch.export.load(filepath).module()``, or the ONNX model, maps images of shape (batch, channel, *spatial_shape)
    to reconstructions. Of a conditional model it takes the coded covariates of each image as its second input, shape
    (batch, n_covariates): :meth:`~monai_betavae.data.CovariateCoding.rows` of the coding in ``model.json``.

    Args:
        filepath: new file with the suffix ``.pt2`` (``torch.export``) or ``.onnx`` (ONNX, inputs "image" and
            "covariates", outputs "pred", "mu" and "logvar").
        ckpt_dir: folder of the trained model.
        codes: whether the program also gives mean and log-variance of the posterior, each of shape (batch,
            latent_dim), after the reconstruction.

    Returns:
        the file, and the largest difference between its outputs and the network's on random images.

    Raises:
        ValueError: if ``filepath`` has another suffix or exists, if there is no trained model, or if a package that
            ONNX needs is missing.

    Source:
        https://docs.pytorch.org/docs/stable/export.html, https://onnx.ai

    Example:
        >>> export_program("model.ts", "nowhere")
        Traceback (most recent call last):
        ValueError: `filepath` must be a new file with the suffix .pt2 or .onnx, got model.ts.
    """
    path = Path(filepath)
    if path.suffix not in SUFFIXES or path.exists():
        raise ValueError(
            f"`filepath` must be a new file with the suffix {' or '.join(SUFFIXES)}, got {os.fspath(filepath)}."
        )
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise ValueError(
            f"`filepath` {os.fspath(filepath)} needs {', '.join(missing)}: pip install 'monai-betavae[export]'."
        )
    models = Path(ckpt_dir)
    stored = read_description(models)
    if stored is None:
        raise ValueError(
            f"`ckpt_dir` must hold the {SETTINGS_FILE} of a training run, got {models}: run training first."
        )
    network = load_weights(trained_network(models), models / MODEL_FILE)
    exported = (_WithCodes(network) if codes else network).eval()
    inputs = _random_inputs(stored, n_covariates_of(network))
    onnx = path.suffix == ".onnx"
    with torch.no_grad():
        with atomic_path(path) as temporary:
            (_write_onnx if onnx else _write_program)(exported, inputs, temporary)
        run = (_onnx_run if onnx else _program_run)(path)
        three = [torch.cat([each, each[:1]]) for each in inputs]  # another size of batch than the exported one
        pairs = zip(_tuple(run(*three)), _tuple(exported(*three)), strict=True)
        difference = max(float((found - expected).abs().max()) for found, expected in pairs)
    return path, difference


class _WithCodes(nn.Module):
    """A network whose ``forward`` also gives the posterior's mean and log-variance."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, covariates: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        given = () if covariates is None else (covariates,)
        mu, logvar = self.network.posterior_parameters(image, *given)
        return self.network.decode(mu, *given), mu, logvar


def _random_inputs(stored: Mapping[str, Any], n_covariates: int) -> tuple[Tensor, ...]:
    """Return two images, and their covariates if the model takes any: a batch of one would count as constant."""
    shape = (stored["network"]["arguments"].get("in_channels", 1), *stored["grid"]["spatial_shape"])
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    if not n_covariates:
        return (images,)
    return images, torch.randn(2, n_covariates, generator=torch.Generator().manual_seed(1))


def _shapes(inputs: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    """Return which axes of the inputs may have any size: the first of each, the same for all."""
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in inputs)


def _write_program(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    torch.export.save(torch.export.export(network, inputs, dynamic_shapes=_shapes(inputs)), path)


def _write_onnx(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    with warnings.catch_warnings():
        # torch's exporter names both first axes "batch", and says so
        warnings.filterwarnings("ignore", message=".*The axis name: batch will not be used.*")
        program = torch.onnx.export(
            network,
            inputs,
            dynamo=True,
            verbose=False,
            dynamic_shapes=_shapes(inputs),
            input_names=INPUTS[: len(inputs)],
            output_names=OUTPUTS if isinstance(network, _WithCodes) else OUTPUTS[:1],
        )
    assert program is not None
    program.save(path)


def _program_run(path: Path) -> Run:
    return torch.export.load(path).module()


def _onnx_run(path: Path) -> Run:
    """Return ONNX Runtime's function of a model, from tensors to tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        names = [each.name for each in session.get_inputs()]
        found = session.run(None, dict(zip(names, (each.numpy() for each in inputs), strict=True)))
        return tuple(map(torch.from_numpy, found))

    return run


def _tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
