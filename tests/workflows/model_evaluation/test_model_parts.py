"""Intervals of a report's parts: by subject where subjects have several scans."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from subjects_of_numbers import subjects

from monai_betavae import build_vae
from monai_betavae.workflows.model_evaluation import model_parts
from monai_betavae.workflows.model_evaluation.model_parts import likelihood_part, reconstruction_part

N = 12


def scores_of(held_out, rows):
    """A part's scores where the volumes of two groups of held-out subjects have the same errors."""
    errors = np.linspace(1, 3, N)[rows]
    names = ("sse", "sse_pca", "mse", "mae", "mse_brain", "mae_brain", "psnr_brain", "ssim_brain", "psnr", "ssim")
    table = pd.DataFrame({name: (number + 1.0) * errors**2 for number, name in enumerate(names)})
    table.loc[rows == 3, "psnr"] = np.inf  # left out, with the subject
    refined = held_out.images * 0.9
    return reconstruction_part(held_out, table, held_out.images * 0.8, False, 0, refined).scores


def taken(held_out, rows):
    """The subjects of some rows, which may be repeated."""
    arrays = {name: getattr(held_out, name)[rows] for name in ("mu", "logvar", "images", "affines")}
    records = [held_out.records[row] for row in rows]
    return dataclasses.replace(held_out, records=records, shown=np.arange(len(rows)), **arrays)


def ends(scores):
    return {name: (each["value"], each["low"], each["high"]) for name, each in scores.items()}


def test_intervals_of_reconstructions_are_those_of_subjects():
    once = subjects(N)
    twice = np.repeat(np.arange(N), 2)
    alone, repeated = scores_of(once, np.arange(N)), scores_of(taken(once, twice), twice)
    assert alone.keys() == repeated.keys() >= {"sse", "mse", "psnr", "sse_ratio_to_pca", "sse_refined"}
    for name, expected in ends(alone).items():
        assert ends(repeated)[name] == pytest.approx(expected, rel=1e-5), name
    # volumes that say no subject are of different ones, and their intervals narrower
    nameless = taken(once, twice)
    nameless.records[:] = [{"image": record["image"]} for record in nameless.records]
    assert len(set(nameless.people.tolist())) == 2 * N
    widths = [each["sse"]["high"] - each["sse"]["low"] for each in (repeated, scores_of(nameless, twice))]
    assert widths[1] < 0.85 * widths[0]


def test_intervals_of_likelihoods_draw_the_subjects_of_the_kept_images(monkeypatch):
    held_out = taken(subjects(N), np.repeat(np.arange(N), 2))
    # images of a part of the volumes are kept
    held_out.shown = np.array([0, 1, 5, 8, 9])
    held_out.images = held_out.images[held_out.shown]
    drawn, real = [], model_parts.estimate

    def seen(*arrays, subjects, seed):
        drawn.append(list(subjects))
        return real(*arrays, subjects=subjects, seed=seed)

    monkeypatch.setattr(model_parts, "estimate", seen)
    vae = build_vae((10, 10, 10), 3, channels=(4, 8), warm_start="mean", random_state=0)
    likelihood_part(vae, held_out, 2, 0)
    assert drawn == [[f"subject sub-{number}" for number in (0, 0, 2, 4, 4)]] * 4
