"""Scores and pictures of held-out subjects at the end of a training run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batches.covariates import array_batches
from ..batches.images import image_tensor
from ..bundle import bundle_root, config_file, run_root, running_bundle_root
from ..estimator import VAE
from ..evaluation.intervals import Estimate, estimate
from ..evaluation.latent_activity import kl_per_dimension
from ..evaluation.likelihood import elbo
from ..evaluation.reconstruction import fit_pca, mean_image_reconstruction, reconstruct_by_pca, squared_error
from ..networks.noise import noise_of
from ..networks.warm_start import MEAN_IMAGE_VOLUMES
from ..plots import channel_rows, plot_reconstructions, plot_traversals, save_figure
from .model_description import MODEL_FILE
from .provenance import RUN_FILE
from .records import SPLIT_FILE
from .run_checks import METRICS_FILE, RESUME_FILE

SCORES_FILE = "scores.json"

CALIBRATED = (0.8, 1.25)
"""Mean squared standardised residuals that say nothing against the noise."""

PCA_BYTES = 4 * 2**30
"""The PCA baseline is left out where the training volumes take more memory than this."""


def stack_images(dataset: Sequence[Any], at_most: int | None = None) -> np.ndarray[Any, Any]:
    """Return a dataset's images as one array of shape (n, channel, ...)."""
    count = len(dataset) if at_most is None else min(at_most, len(dataset))
    first = image_tensor(as_batch(dataset[0]))
    images = np.empty((count, *first.shape[1:]), dtype=np.float32)
    for index in range(count):
        images[index] = image_tensor(as_batch(dataset[index]))[0].numpy()
    return images


def as_batch(sample: Any) -> Tensor:
    """Return the image of a sample as a batch of one."""
    image: Tensor = sample["image"] if isinstance(sample, Mapping) else sample
    return image[None]


def held_out_scores(
    train_dataloader: Iterable[Any],
    images: np.ndarray[Any, Any],
    reconstructions: np.ndarray[Any, Any],
    latent_dim: int,
    seed: int,
    subjects: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the held-out summed squared error beside that of the mean training image and of PCA.

    Args:
        train_dataloader: loader of the training volumes.
        images: held-out images, shape (n, channel, ...).
        reconstructions: of the same shape.
        latent_dim: number of principal components.
        seed: of PCA's randomised solver, for more than 2048 training volumes, and of the intervals.
        subjects: subject of each held-out image; ``None`` for images of different subjects.

    Returns:
        "sse" (mean over subjects), "sse_mean_image", "sse_pca", and "sse_ratio" and "sse_ratio_pca", which are relative
        to the mean image's; "pca_components", which are fewer than asked for where there are no more. PCA's are
        ``None`` where the training volumes don't fit in memory. "intervals" has the ends of the 95 % bootstrap
        intervals over subjects of "sse_ratio", "sse_ratio_pca" and "sse_ratio_to_pca" (this model's error relative to
        PCA's); it is empty for a single subject.
    """
    dataset: Any = train_dataloader.dataset  # type: ignore[attr-defined]  # any DataLoader has one
    n_bytes = 4 * len(dataset) * int(np.prod(images.shape[1:]))
    training = stack_images(dataset, None if n_bytes <= PCA_BYTES else MEAN_IMAGE_VOLUMES)
    errors = squared_error(images, reconstructions)
    errors_mean = squared_error(images, mean_image_reconstruction(training, images))
    sse, sse_mean = float(errors.mean()), float(errors_mean.mean())
    sse_pca = n_components = None
    compared = {"sse_ratio": (errors, errors_mean)}
    if n_bytes <= PCA_BYTES and len(training) > 1:
        pca = fit_pca(training, latent_dim, seed)
        errors_pca = squared_error(images, reconstruct_by_pca(pca, images))
        sse_pca, n_components = float(errors_pca.mean()), pca.n_components_
        compared |= {"sse_ratio_pca": (errors_pca, errors_mean), "sse_ratio_to_pca": (errors, errors_pca)}
    return {
        "sse": sse,
        "sse_mean_image": sse_mean,
        "sse_pca": sse_pca,
        "sse_ratio": sse / sse_mean,
        "sse_ratio_pca": None if sse_pca is None else sse_pca / sse_mean,
        "pca_components": n_components,
        "intervals": {
            name: [found.low, found.high]
            for name, (ours, theirs) in compared.items()
            if theirs.any() and math.isfinite((found := _ratio(ours, theirs, subjects, seed)).low)
        },
    }


def _ratio(ours: Any, theirs: Any, subjects: Sequence[str] | None, seed: int) -> Estimate:
    """Return the ratio of two mean errors of the same images, with its interval."""
    return estimate(
        ours,
        theirs,
        statistic=lambda own, other: float(own.mean() / other.mean()),
        subjects=None if subjects is None else np.asarray(subjects),
        seed=seed,
    )


def exact_bound(
    estimator: VAE,
    images: np.ndarray[Any, Any],
    reconstructions: np.ndarray[Any, Any],
    seed: int,
    covariates: np.ndarray[Any, Any] | None = None,
) -> dict[str, Any]:
    """Return the exact ELBO of held-out images, and how well the noise is calibrated.

    Args:
        estimator: the trained model.
        images: held-out images, shape (n, channel, ...).
        reconstructions: of the same shape.
        seed: of the codes.
        covariates: coded covariates of a conditional model, shape (n, n_covariates).

    Returns:
        "elbo_nats", the mean over images with all constants and KL divergence unweighted; "noise", the standard
        deviation s that calibration found, and "squared_standardised_residual", the mean over held-out voxels, which is
        1 for a calibrated noise. The last two are ``None`` for a likelihood of unit scale.
    """
    batches = array_batches(images, covariates, image_key=estimator.image_key)
    bound = elbo(estimator, batches, image_key=estimator.image_key, seed=seed, progress=False)
    found = {"elbo_nats": float(bound.elbo.mean()), "noise": None, "squared_standardised_residual": None}
    noise = noise_of(estimator)
    if noise is not None:
        rest = torch.from_numpy(images - reconstructions)
        standardised = rest / noise.deviation().cpu()
        found.update(noise=float(noise.scale), squared_standardised_residual=float(standardised.square().mean()))
    return found


def spacing_of_sample(sample: Any) -> Sequence[float]:
    """Return the voxel sizes of a sample's image, in millimetres; 1 where they are unknown."""
    if isinstance(sample, Mapping) and "image_affine" in sample:
        affine = sample["image_affine"].numpy()
        return [float(side) for side in np.linalg.norm(affine[:3, :3], axis=0)]
    return (1.0, 1.0, 1.0)


def draw_reconstructions(
    images: np.ndarray[Any, Any],
    reconstructions: np.ndarray[Any, Any],
    records: Sequence[Mapping[str, Any]],
    label: str,
    spacing: Sequence[float],
    path: Path,
    n_subjects: int = 5,
    contrasts: Sequence[str] | None = None,
) -> None:
    """Draw held-out subjects from the best reconstruction to the worst."""
    errors = squared_error(images, reconstructions)
    # from the best to the worst, evenly: a picture of the first few would flatter or slander by chance
    shown = np.argsort(errors)[np.linspace(0, len(errors) - 1, min(n_subjects, len(errors))).round().astype(int)]
    names = [f"{records[index]['subject']}\nSSE {errors[index]:.0f}" for index in shown]
    title = "Held-out subjects, best to worst reconstructed" if len(shown) > 1 else "The held-out subject"
    title += f" ({label})" if label else ""
    inputs, labels = channel_rows(images[shown], names, contrasts)
    outputs, _ = channel_rows(reconstructions[shown], names, contrasts)
    figure = plot_reconstructions(inputs, outputs, labels, title, spacing)
    save_figure(figure, path)


def draw_traversals(
    estimator: VAE,
    mu: np.ndarray[Any, Any],
    logvar: np.ndarray[Any, Any],
    label: str,
    spacing: Sequence[float],
    path: Path,
    n_dimensions: int = 6,
    contrasts: Sequence[str] | None = None,
) -> None:
    """Draw what the most active latent dimensions change."""
    kl = kl_per_dimension(mu, logvar)
    shown = np.argsort(kl)[::-1][:n_dimensions]
    steps = [-3.0, -1.5, 0.0, 1.5, 3.0]
    volumes = []
    with torch.inference_mode():
        for dimension in shown:
            z = torch.zeros(len(steps), estimator.latent_dim)
            z[:, int(dimension)] = torch.tensor(steps)
            volumes.append(estimator.decode(z).float().cpu().numpy())
    labels = [f"z{dimension}\nKL {kl[dimension]:.1f} nats" for dimension in shown]
    title = "Latent traversals of the most active dimensions; KL of the held-out subjects"
    title += f" ({label})" if label else ""
    rows, labels = channel_rows(np.stack(volumes), labels, contrasts)
    save_figure(plot_traversals(rows, steps, labels, title, spacing), path)


def residual_text(squared: float) -> str:
    """Return what the mean squared residual, in units of the noise's variance, says of the noise.

    Example:
        >>> print(residual_text(0.59))
        mean squared standardised residual 0.59, ideally 1 (less: the noise is overestimated for these subjects)
    """
    text = f"mean squared standardised residual {squared:.2f}, ideally 1"
    if CALIBRATED[0] <= squared <= CALIBRATED[1]:
        return text
    which = "less: the noise is overestimated" if squared < 1 else "more: the noise is underestimated"
    return f"{text} ({which} for these subjects)"


def print_scores(scores: Mapping[str, Any]) -> None:
    """Print the held-out error with those of the mean image and PCA."""
    label = ", simulated" if scores["simulated"] else ""
    pca, n_components = scores["sse_ratio_pca"], scores["pca_components"] or scores["latent_dim"]
    fewer = f" (there are no {scores['latent_dim']})" if n_components < scores["latent_dim"] else ""
    lines = [
        f"Held-out subjects ({scores['n_held_out']}{label}): summed squared error {scores['sse']:.0f}, "
        f"{scores['sse_ratio']:.2f} of the mean training image's",
        f"  PCA with {n_components} components{fewer}: "
        + (
            "left out, the training volumes exceed memory" if pca is None else f"{pca:.2f} of the mean training image's"
        ),
    ]
    # a dimension is active if its mean varies from subject to subject
    several = scores["n_held_out"] > 1
    active = f"Active latent dimensions: {scores['active_units']} of {scores['latent_dim']}; " if several else ""
    lines.append(f"  {active}KL {scores['kl_nats']:.1f} nats")
    scale = "unit scale" if scores["noise"] is None else f"noise {scores['noise']:.3g}"
    lines.append(f"  Exact ELBO {scores['elbo_nats']:.0f} nats ({scale})")
    if scores["squared_standardised_residual"] is not None:
        lines[-1] += f"; {residual_text(scores['squared_standardised_residual'])}"
    if several and scores["active_units"] == 0:
        lines.append("  No latent dimension is active: the posterior has collapsed. Lower beta or train longer.")
    print("\n".join(lines))


def print_files(
    output_dir: Path, ckpt_dir: Path, validated: bool, scored: bool, epochs: bool = True, longer: bool = True
) -> None:
    """Print where the results are, and the commands that use them.

    Args:
        output_dir: folder of tables and pictures.
        ckpt_dir: folder of weights.
        validated: whether there were validation volumes.
        scored: whether anything was scored.
        epochs: whether there were epochs, and so a table of them and a checkpoint.
        longer: whether more epochs may be of use.
    """
    report, latents = _later_commands(output_dir, ckpt_dir, "<folder, table or file>", optional=scored)
    tables = [*([METRICS_FILE] if epochs else []), *([SCORES_FILE] if scored else [])] or [SPLIT_FILE]
    which = f" ({'best' if validated else 'last'} epoch), {ckpt_dir / RESUME_FILE} (to resume)" if epochs else ""
    print(
        f"Weights:   {ckpt_dir / MODEL_FILE}{which}\n"
        f"Pictures:  {output_dir}/*.png\n"
        f"Tables:    {', '.join(str(output_dir / name) for name in tables)}\n"
        f"Again:     python -m monai.bundle run training --config_file {output_dir / RUN_FILE} --output_dir <new> "
        "--ckpt_dir <new>\n"
        + f"Report:    {report}\n" * scored
        + f"Latents:   {latents}"
        + "\nLonger:    the same training command with --resume True --max_epochs <more>" * (epochs and longer)
    )


def _later_commands(output_dir: Path, ckpt_dir: Path, data: str, optional: bool) -> tuple[str, str]:
    """Return the commands that evaluate a trained model and that embed volumes.

    A copy of the bundle is run by its own configs; the package's own has short forms.
    """
    bundle = running_bundle_root()
    root = run_root(bundle)
    is_default = ckpt_dir.resolve() == root / "models" and output_dir.resolve() == root / "output"
    given = [shlex.quote(str(folder)) for folder in (ckpt_dir, output_dir)]
    if bundle.resolve() == bundle_root().resolve():
        folders = "" if is_default else f" --model {given[0]}" + f" --out {given[1]}" * (given[0] != given[1])
        return f"monai-betavae evaluate{folders}", f"monai-betavae embed {_bracketed(data, optional)}{folders}"
    folders = "" if is_default else f" --ckpt_dir {given[0]} --output_dir {given[1]}"
    evaluate, embed = (
        f"python -m monai.bundle run {run_id} --config_file {config_file(bundle, name)}{folders}"
        for run_id, name in (("evaluation", "evaluate.json"), ("inference", "inference.json"))
    )
    return evaluate, f"{embed} {_bracketed(f'--dataset_dir {data}', optional)}"


def _bracketed(word: str, optional: bool) -> str:
    return f"[{word}]" if optional else word
