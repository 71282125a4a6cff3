"""Reports with a viewer of a few balls, whose decoder is linear, and the JSON that a page holds."""

import dataclasses
import json
import re

import numpy as np
import torch
from subjects_of_numbers import subjects
from torch.utils.data import DataLoader

from monai_betavae.networks.builders import build_network
from monai_betavae.networks.latent_model import reconstruct_array
from monai_betavae.networks.warm_start import warm_start
from monai_betavae.workflows.model_evaluation.report import Report
from monai_betavae.workflows.model_evaluation.viewer import viewer_part

HOSTILE = "</script><img src=x onerror=alert(1)>"
N, LATENTS, SIDE = 24, 3, 12


def linear_model(held_out, latent_dim=LATENTS):
    """A network whose decoder is a linear model of the images."""
    shape = held_out.images.shape[2:]
    network = build_network(
        shape, latent_dim, channels=(4, 8), warm_start="linear", architecture="plain", random_state=0
    )
    warm_start(network, DataLoader(torch.from_numpy(held_out.images), batch_size=4))
    return network


def deforming_model(held_out):
    """A network whose decoder is a template with large displacements."""
    shape = held_out.images.shape[2:]
    network = build_network(shape, LATENTS, warm_start="deformable", random_state=0)
    generator = torch.Generator().manual_seed(4)
    template = network.decoder.template
    inside = torch.zeros(shape, dtype=torch.bool)
    inside[1:-2, 2:-1, 1:-1] = True
    inside[3, 4, 5] = False
    voxels = inside.flatten().nonzero()[:, 0]
    network.decoder.set_output_mean(torch.from_numpy(held_out.images.mean(axis=0)))
    template.set_components(
        0.05 * torch.randn(LATENTS, 1, len(voxels), generator=generator),
        1.5 * torch.randn(template.displacements.shape, generator=generator),
        voxels,
    )
    return network


def balls(n=N):
    """Subjects with an age, a sex that is missing once, and one name that is hostile."""
    held_out = subjects(n, latent_dim=LATENTS, side=SIDE)
    for row, record in enumerate(held_out.records):
        record.update(age=20.5 + row, sex=None if row == 5 else "FM"[row % 2])
    held_out.records[1]["subject"] = HOSTILE
    return held_out


def nobody(held_out):
    """No subject of a training."""
    empty = {name: getattr(held_out, name)[:0] for name in ("mu", "logvar", "images", "shown", "affines")}
    return dataclasses.replace(held_out, records=[], **empty)


def made(held_out, with_norm=True, network=None):
    """A viewer's part, and what it was made of."""
    network = linear_model(held_out) if network is None else network
    restored = reconstruct_array(network, held_out.images)
    z = np.random.default_rng(3).standard_normal(held_out.images[:, 0].shape) * 3 if with_norm else None
    scores = {"summed squared error": ((held_out.images - restored) ** 2).sum(axis=(1, 2, 3, 4))}
    return viewer_part(network, held_out, nobody(held_out), restored, scores, z), network, restored, z


def page_of(part):
    """The page of a report that holds a part."""
    report = Report("Viewer", "of balls")
    part.write_to(report)
    return report.page()


def data_of(page):
    """What a page's scripts read."""
    (text,) = re.findall(r'<script type="application/json" id="viewer-data">(.*?)</script>', page)
    return json.loads(text)
