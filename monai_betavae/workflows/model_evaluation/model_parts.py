"""Parts of an evaluation that look at the model: reconstruction, likelihood, latents, generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...batches.covariates import array_batches
from ...estimator import VAE
from ...evaluation.aggregate_posterior import aggregate_posterior
from ...evaluation.intervals import Estimate, estimate
from ...evaluation.latent_activity import active_units, kl_per_dimension
from ...evaluation.latent_mixture import fit_latent_mixture, prior_codes, sample_codes
from ...evaluation.likelihood import elbo, log_likelihood
from ...evaluation.mmd import mmd_test
from ...evaluation.ms_ssim import ms_ssim_pairs
from ...evaluation.reconstruction import squared_error
from ...networks.latent_model import decode_array, latent_dim_of
from ...plots import (
    channel_rows,
    plot_kl,
    plot_latents,
    plot_reconstructions,
    plot_traversals,
    plot_volumes,
    traversal_gif,
)
from .part import (
    MEAN_NAME,
    PCA_NAME,
    VAE_NAME,
    Part,
    as_dict,
    conditional_text,
    format_estimate,
    replace_non_finite,
)
from .subjects import Subjects, covariates_of, side_by_side, spacing_of

Array = NDArray[Any]

COLUMN_ENDS = {VAE_NAME: "", PCA_NAME: "_pca", MEAN_NAME: "_mean_image"}
"""Ends of the columns that hold each method's scores."""

TRAVERSED, STEPS = 6, (-3.0, -1.5, 0.0, 1.5, 3.0)


def reconstruction_part(
    held_out: Subjects,
    table: Any,
    reconstructions: Array,
    simulated: bool,
    seed: int,
    refined: Array | None = None,
    contrasts: Sequence[str] | None = None,
) -> Part:
    """Score the reconstruction, beside PCA's and the mean training image's.

    Args:
        held_out: the subjects.
        table: a row of scores per volume; columns as in :data:`COLUMN_ENDS`.
        reconstructions: of ``held_out.images``.
        simulated: whether the brains are.
        seed: of the intervals.
        refined: reconstructions from refined codes.
        contrasts: names of the channels of a model of several.
    """
    part = Part("reconstruction", "Reconstruction")
    part.files["reconstruction.csv"] = table
    names = {"sse": "summed squared error", "mse_brain": "MSE in the brain", "mae_brain": "MAE in the brain",
             "psnr_brain": "PSNR in the brain [dB]", "ssim_brain": "SSIM in the brain",
             "psnr": "PSNR, whole [dB]", "ssim": "SSIM, whole"}  # fmt: skip
    methods = [method for method, end in COLUMN_ENDS.items() if f"sse{end}" in table]
    rows: list[list[Any]] = []
    for name, label in names.items():
        row: list[Any] = [label]
        for method in methods:
            column = f"{name}{COLUMN_ENDS[method]}"
            values = table[column].to_numpy(dtype=float) if column in table else np.zeros(0)
            known = np.isfinite(values)
            found = estimate(values[known], subjects=held_out.people[known], seed=seed) if known.any() else None
            row.append(None if found is None else format_estimate(found))
            if found is not None:
                part.scores[column] = as_dict(found)
        rows.append(row)
    for name in ("mse", "mae"):
        part.scores[name] = as_dict(estimate(table[name].to_numpy(dtype=float), subjects=held_out.people, seed=seed))
    part.text(
        "Mean over subjects of each score, with a 95 % bootstrap interval over subjects. Intensities are those of the "
        "preprocessing, [0, 1], which is also the data range of PSNR and SSIM. The brain is what is above 0.02, with "
        "its holes filled. PCA, of the training volumes, has as many components as this model has latent dimensions, "
        "or all that there are."
    )
    part.table(["score", *methods], rows)
    for method, key in ((MEAN_NAME, "sse_ratio"), (PCA_NAME, "sse_ratio_to_pca")):
        if method in methods:
            ratio = estimate(
                table["sse"].to_numpy(dtype=float),
                table[f"sse{COLUMN_ENDS[method]}"].to_numpy(dtype=float),
                statistic=lambda ours, theirs: float(ours.mean() / theirs.mean()),
                subjects=held_out.people,
                seed=seed,
            )
            part.scores[key] = as_dict(ratio)
            part.text(
                f"Summed squared error relative to the {method}'s: {format_estimate(ratio)}.".replace(
                    "the PCA's", "PCA's"
                )
            )
            if method == PCA_NAME and ratio.value >= 1:
                part.warn(
                    f"PCA reconstructs better than this model (ratio {ratio.value:.2f}): train longer, lower beta, or "
                    "use PCA."
                )
    errors = squared_error(held_out.images, reconstructions)
    if refined is not None:
        best = squared_error(held_out.images, refined)
        drawn: dict[str, Any] = {"subjects": held_out.shown_people, "seed": seed}
        gap = estimate(best, errors, statistic=lambda new, old: float(new.mean() / old.mean()), **drawn)
        part.scores.update(sse_refined=as_dict(estimate(best, **drawn)), sse_ratio_refined=as_dict(gap))
        part.text(
            f"From codes refined by Gauss-Newton steps the error is {format_estimate(gap)} of that from the encoder's: "
            "what is missing to 1 is the encoder's share (the amortization gap), the rest is the decoder's."
        )
    shown = np.argsort(errors)[np.linspace(0, len(errors) - 1, min(5, len(errors))).round().astype(int)]
    captions = [f"{held_out.records[held_out.shown[i]].get('subject')}\nSSE {errors[i]:.0f}" for i in shown]
    inputs, labels = channel_rows(held_out.images[shown], captions, contrasts)
    outputs, _ = channel_rows(reconstructions[shown], captions, contrasts)
    figure = plot_reconstructions(inputs, outputs, labels, _label(simulated), spacing_of(held_out.affines[0]))
    part.picture(
        "reconstructions.png", figure, "Subjects from the best to the worst reconstructed; their left is on the left."
    )
    return part


def likelihood_part(estimator: VAE, held_out: Subjects, n_samples: int, seed: int) -> Part:
    """Estimate ELBO and importance-weighted log-likelihood of each subject whose image is kept."""
    part = Part("likelihood", "Likelihood")
    # batches, not a DataLoader: the processes of a group would share that out, and the others aren't here
    batches = array_batches(held_out.images, held_out.shown_covariates, image_key=estimator.image_key)
    image_key = estimator.image_key
    bound = elbo(estimator, batches, n_samples=1, image_key=image_key, seed=seed, progress=False)
    weighted = log_likelihood(estimator, batches, n_samples, image_key=image_key, seed=seed)
    n_voxels = int(np.prod(held_out.images.shape[1:]))
    rows = []
    for name, key, values in (
        ("ELBO (beta 1)", "elbo", bound.elbo),
        ("log p(x|z) under q", "log_density", bound.log_density),
        ("KL divergence", "kl", bound.kl),
        (f"log p(x), importance weighted, {n_samples} draws", "log_likelihood", weighted),
    ):
        found = estimate(values, subjects=held_out.shown_people, seed=seed)
        part.scores[key] = as_dict(found)
        rows.append([name, format_nats(found), found.value / n_voxels])
    part.scores.update(n_samples=n_samples, n_voxels=n_voxels)
    part.text(
        "In nats per subject, under the decoder's exact distribution (its noise, or unit scale without one), all "
        "constants included. Most of it is a constant of every voxel, so compare models of one grid and one kind of "
        "noise only. The importance-weighted value is a lower bound, the tighter the more draws."
    )
    part.table(["", "nats per subject", "per voxel"], rows)
    import pandas as pd

    part.files["likelihood.csv"] = pd.DataFrame(
        {
            "subject": [held_out.records[i].get("subject") for i in held_out.shown],
            "image": [held_out.records[i]["image"] for i in held_out.shown],
            "elbo": bound.elbo,
            "kl": bound.kl,
            "log_likelihood": weighted,
        }
    )
    return part


def latents_part(
    network: Any,
    held_out: Subjects,
    training: Subjects,
    simulated: bool,
    seed: int,
    device: torch.device | str,
    conditional: Sequence[str] = (),
    contrasts: Sequence[str] | None = None,
) -> Part:
    """Describe the latents: active units, KL per dimension, the aggregate posterior, traversals, scatter.

    Args:
        network: module with ``decode``.
        held_out: the evaluated subjects.
        training: the training subjects.
        simulated: whether the brains are.
        seed: of the aggregate posterior's subsample.
        device: where to decode.
        conditional: covariates that the model is conditional on.
        contrasts: names of the channels of a model of several.
    """
    part = Part("latents", "Latents")
    cohort = training if len(training) >= len(held_out) else held_out
    kl, active = kl_per_dimension(cohort.mu, cohort.logvar), active_units(cohort.mu)
    part.scores.update(
        latent_dim=len(kl),
        active_units=int(active.sum()),
        kl_per_dimension=replace_non_finite(kl),
        kl=float(kl.sum()),
        of="training" if cohort is training else "evaluated",
        n_subjects=len(cohort),
    )
    n_active, whose = int(active.sum()), "training" if cohort is training else "evaluated"
    part.text(
        f"Of {len(cohort)} {whose} subjects. A dimension is active if its posterior mean varies over subjects by more "
        f"than 0.01: {n_active} of {len(kl)}. The KL divergence from the prior is {kl.sum():.1f} nats in all."
    )
    if len(set(cohort.people.tolist())) <= len(kl):
        part.text(
            f"So few subjects differ along fewer axes than there are dimensions ({len(kl)}): the number of active ones "
            "says little here."
        )
    if conditional:
        part.text(f"{conditional_text(conditional)}. The traversals are at the average subject of the training.")
    if n_active == 0:
        part.warn("The posterior has collapsed: no latent dimension is active. Lower beta or train longer.")
    elif n_active < len(kl) / 4:
        part.warn(f"Only {n_active} of {len(kl)} latent dimensions are active: the others carry nothing.")
    part.picture("kl_per_dimension.png", plot_kl(kl, active, _label(simulated)), "KL divergence of each dimension.")
    if len(cohort) >= 2:
        found = aggregate_posterior(cohort.mu, cohort.logvar, seed=seed, progress=False)
        part.scores["aggregate_posterior"] = replace_non_finite(
            {
                "mutual_information": found["mutual_information"],
                "total_correlation": found["total_correlation"],
                "dimension_kl": float(np.sum(found["dimension_kl"])),
                "kl": found["kl"],
            }
        )
        part.table(
            ["of the aggregate posterior", "nats"],
            [
                [
                    f"mutual information of image and code (at most log {len(cohort)} = {np.log(len(cohort)):.3g}, if "
                    "codes tell all volumes apart)",
                    found["mutual_information"],
                ],
                ["total correlation between dimensions", found["total_correlation"]],
                ["KL divergence of each dimension from the prior, summed", float(np.sum(found["dimension_kl"]))],
                ["their sum: the mean KL divergence", found["kl"]],
            ],
        )
    covariates = _some(covariates_of(cohort.records))
    if covariates and len(cohort) > 2:
        first, second = (int(each) for each in np.argsort(kl)[::-1][:2]) if len(kl) > 1 else (0, 0)
        figure = plot_latents(cohort.mu, covariates, _label(simulated), dimensions=(first, second))
        part.picture("latents.png", figure, f"Codes of the {whose} subjects, the two dimensions of the largest KL.")
    spacing = spacing_of(held_out.affines[0])
    shown = np.argsort(kl)[::-1][:TRAVERSED]
    labels = [f"z{dimension}\nKL {kl[dimension]:.1f} nats" for dimension in shown]
    rows, names = channel_rows(_traversed(network, shown, STEPS, device), labels, contrasts)
    title = ", ".join([*([_label(simulated)] if simulated else []), f"KL of the {whose} subjects"])
    figure = plot_traversals(rows, STEPS, names, title, spacing)
    part.picture("traversals.png", figure, "What each of the most active dimensions changes when it alone moves.")
    smooth = np.linspace(-3, 3, 13).tolist()
    rows, names = channel_rows(_traversed(network, shown[:3], smooth, device), labels[:3], contrasts)
    animation = traversal_gif(rows, smooth, names, _label(simulated), spacing)
    part.picture("traversals.gif", animation, "The same of the first three, moving, in three planes.")
    return part


def generation_part(
    network: Any,
    held_out: Subjects,
    training: Subjects,
    simulated: bool,
    seed: int,
    device: torch.device | str,
    n_samples: int = 32,
    n_pairs: int = 32,
    conditional: Sequence[str] = (),
    contrasts: Sequence[str] | None = None,
) -> Part:
    """Compare samples, from the prior and from a mixture fitted to the aggregate posterior, with real volumes."""
    part = Part("generation", "Generation")
    if conditional:
        part.text(
            f"All samples are at the average subject of the training. The real volumes differ in "
            f"{', '.join(conditional)}, too, so samples are less diverse than those, and can be told from them by that."
        )
    fitted = training if len(training) >= 10 else held_out
    codes = {"prior": prior_codes(n_samples, held_out.mu.shape[1], seed)}
    if len(fitted) >= 10:
        mixture = fit_latent_mixture(fitted.mu, fitted.logvar, seed=seed, progress=False)
        codes["mixture of the aggregate posterior"] = sample_codes(mixture, n_samples, seed)
    volumes = {"real": held_out.images}
    volumes |= {name: decode_array(network, each, device) for name, each in codes.items()}
    if len(volumes["real"]) < 2:
        part.text("One volume was evaluated: there is no pair of real volumes to compare samples with.")
    else:
        _compare_samples(part, volumes, seed, n_pairs)
    spacing = spacing_of(held_out.affines[0])
    for name, each in volumes.items():
        if name != "real":
            captions = [f"{name.split()[0]} {i}" for i in range(min(8, len(each)))]
            sheet = plot_volumes(*channel_rows(each[:8], captions, contrasts), _label(simulated), spacing)
            part.picture(f"samples_{name.split()[0]}.png", sheet, f"Samples from the {name}{_of(simulated)}.")
    return part


def _compare_samples(part: Part, volumes: Mapping[str, Array], seed: int, n_pairs: int) -> None:
    """Add the scores of samples beside the real volumes."""
    rows = []
    real = _coarse(volumes["real"])
    for name, each in volumes.items():
        similarity = estimate(ms_ssim_pairs(side_by_side(each), n_pairs=n_pairs, seed=seed, progress=False), seed=seed)
        row: list[Any] = [name, len(each), format_estimate(similarity)]
        entry: dict[str, Any] = {"ms_ssim": as_dict(similarity), "n": len(each)}
        if name == "real":
            row += [None, None]
        else:
            test = mmd_test(_coarse(each), real, 500, seed)
            row += [test.mmd, test.p_value]
            entry |= {"mmd": test.mmd, "mmd_p_value": test.p_value}
        rows.append(row)
        part.scores[name.replace(" ", "_")] = replace_non_finite(entry)
    part.text(
        "MS-SSIM between pairs: as diverse as the real volumes if it is as low, one brain for all if it is near 1. "
        "MMD: squared distance of the distributions (Gaussian kernel, median heuristic) of volumes averaged over "
        "blocks of 8 voxels a side; a small p says that samples can be told from real volumes. Samples are means "
        "without noise."
    )
    part.table(["volumes", "n", "MS-SSIM between pairs", "MMD² to real", "p"], rows)


def format_nats(values: Estimate) -> str:
    """Return nats with their interval, to a tenth: the differences that matter are small beside the constant."""
    return (
        f"{values.value:.1f} [{values.low:.1f}, {values.high:.1f}]"
        if np.isfinite(values.low)
        else f"{values.value:.1f}"
    )


def _some(covariates: Mapping[str, Sequence[Any]], at_most: int = 6) -> dict[str, Sequence[Any]]:
    """Return the covariates to draw: the usual ones first, then in the order of the table."""
    usual = [name for name in ("age", "sex", "site", "group", "diagnosis") if name in covariates]
    names = [*usual, *(name for name in covariates if name not in usual and not name.startswith("factor_"))]
    return {name: covariates[name] for name in names[:at_most]}


def _traversed(network: Any, dimensions: Any, steps: Sequence[float], device: torch.device | str) -> Array:
    codes = np.zeros((len(dimensions), len(steps), latent_dim_of(network)), np.float32)
    for row, dimension in enumerate(dimensions):
        codes[row, :, dimension] = steps
    decoded = decode_array(network, codes.reshape(-1, codes.shape[-1]), device)
    return decoded.reshape(len(dimensions), len(steps), *decoded.shape[1:])


def _coarse(volumes: Array, block: int = 8) -> Array:
    """Return the means over blocks of voxels, flattened: what a distance between few volumes can be computed on."""
    n_volumes, volumes = len(volumes), volumes.reshape(-1, *volumes.shape[2:])
    factors = [min(block, side) for side in volumes.shape[1:]]
    cut = volumes[(slice(None), *(slice(side // f * f) for side, f in zip(volumes.shape[1:], factors, strict=True)))]
    shape = [len(volumes)]
    for side, factor in zip(cut.shape[1:], factors, strict=True):
        shape += [side // factor, factor]
    coarse: Array = cut.reshape(shape).mean(axis=tuple(range(2, 2 * len(factors) + 1, 2)))
    return coarse.reshape(n_volumes, -1)


def _label(simulated: bool) -> str:
    return "simulated" if simulated else ""


def _of(simulated: bool) -> str:
    return " of a model of simulated brains" if simulated else ""
