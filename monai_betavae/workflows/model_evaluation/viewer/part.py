"""The part of an evaluation that a reader can move: what its page holds, within a limit of bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ....evaluation.latent_activity import active_units, kl_per_dimension
from ....evaluation.reconstruction import squared_error
from ....evaluation.residual_deviation import FWHM
from ....plots.slices import PLANES, middle_of
from ..part import Part, conditional_text
from ..subjects import Subjects, spacing_of
from .cohort import Column, choose_shown, columns_of, names_of
from .planes import Range, packed, plane_sizes, planes_through, range_of, symmetric_range
from .sliders import STEPS, Sliders, decode_sliders, error_of_sums
from .template_decoder import template_entry

Array = NDArray[Any]

MAX_BYTES = 12_000_000
"""Bytes of a page's data, at most."""

MAX_SLIDERS = 8
"""Latents with a slider, at most, whose planes are decoded here; a decoder that the page runs may have more."""

MAX_SHOWN = 60
"""Subjects with pictures, at most."""

MAX_POINTS, MAX_DIMENSIONS = 2000, 64
"""Subjects of the scatter, and latents that it can show, at most."""

Z_STORED, Z_SHOWN = Range(-12.0, 12.0), Range(-6.0, 6.0)
"""Range of z in the page, and that of its colours."""

PAGE = Path(__file__).parent / "page"
SCRIPTS = (
    "elements.js",
    "planes.js",
    "decoders.js",
    "sliders.js",
    "filters.js",
    "scatter.js",
    "subjects.js",
    "start.js",
)


class Plan(NamedTuple):
    """What a page holds.

    Attributes:
        factor: side of the blocks of voxels in a plane that are averaged.
        n_shown: number of subjects with pictures.
        n_views: planes of each: 1 for the middle, 2 for those through the largest deviation as well.

    Example:
        >>> Plan(1, 30, 2).n_views
        2
    """

    factor: int
    n_shown: int
    n_views: int


def plan_page(shape: Sequence[int], n_sliders: int, n_subjects: int, n_layers: int, available: int) -> Plan:
    """Return what fits into a page: coarser planes for the sliders' sake, then fewer planes, then fewer subjects.

    Args:
        shape: of the volumes.
        n_sliders: number of latents that move.
        n_subjects: number of subjects with images.
        n_layers: pictures of each subject in each plane: image, reconstruction, residual, deviation.
        available: bytes.

    Raises:
        ValueError: naming ``available`` if nothing fits.

    Example:
        >>> plan_page((64, 80, 64), 8, 30, 4, MAX_BYTES)
        Plan(factor=1, n_shown=30, n_views=2)
        >>> plan_page((192, 224, 192), 8, 200, 4, MAX_BYTES)
        Plan(factor=2, n_shown=55, n_views=1)
    """
    for factor in range(1, min(shape) + 1):
        n_bytes = _base64_length(sum(width * height for width, height in plane_sizes(shape, factor)))
        left = available - n_sliders * len(STEPS) * n_bytes
        if left < available / 2 and left < n_layers * n_bytes * min(n_subjects, MAX_SHOWN):
            continue
        wanted = min(n_subjects, MAX_SHOWN)
        n_views = 2 if wanted * 2 * n_layers * n_bytes <= left else 1
        n_shown = min(wanted, left // (n_views * n_layers * n_bytes))
        if n_shown >= 1:
            return Plan(factor, int(n_shown), n_views)
    raise ValueError(f"`available` must be enough bytes for one subject of shape {tuple(shape)}, got {available}.")


def viewer_part(
    network: Any,
    held_out: Subjects,
    training: Subjects,
    reconstructions: Array,
    scores: Mapping[str, Sequence[float] | Array],
    z: Array | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    conditional: Sequence[str] = (),
) -> Part:
    """Return the viewer: sliders of the most active latents, a pager, a scatter of codes, and a filter.

    Args:
        network: module with ``decode``.
        held_out: the evaluated subjects.
        training: the training subjects, of whom the KL divergence is if they are more.
        reconstructions: of ``held_out.images``.
        scores: of each evaluated volume, by what the page calls them; NaN where unknown.
        z: maps of deviation of ``held_out.images``, shape (k, x, y, z); ``None`` without a norm.
        device: where to decode.
        seed: of the codes at which sums of changes are compared with the decoder.
        conditional: covariates that the model is conditional on.
    """
    part = Part("viewer", "Viewer")
    cohort = training if len(training) >= len(held_out) else held_out
    kl, active = kl_per_dimension(cohort.mu, cohort.logvar), active_units(cohort.mu)
    order = np.argsort(kl)[::-1]
    moved = [int(each) for each in order[:MAX_SLIDERS]]
    shape = held_out.images.shape[2:]
    points = np.arange(len(held_out))
    if len(points) > MAX_POINTS:
        kept = np.linspace(0, len(held_out) - 1, MAX_POINTS).round().astype(int)
        points = np.union1d(kept, held_out.shown[:MAX_SHOWN])
    columns = columns_of(held_out, scores)
    data: dict[str, Any] = {
        "planes": _plane_entries(shape, spacing_of(held_out.affines[0]), 1),
        "subjects": _subject_entries(held_out, points, order[:MAX_DIMENSIONS], columns),
        "columns": [column.entry([column.values[row] for row in points]) for column in columns],
        "dimensions": [
            {"latent": int(each), "kl": float(f"{kl[each]:.4g}"), "active": bool(active[each])}
            for each in order[:MAX_DIMENSIONS]
        ],
    }
    # what is left for pictures, with room for what is said of each of them
    left = MAX_BYTES - len(json.dumps(data)) - 100_000
    errors = squared_error(held_out.images, reconstructions)
    in_page = template_entry(network, order[:MAX_DIMENSIONS].tolist())
    if in_page is not None:
        left -= len(json.dumps(in_page))
    n_framed = 0 if in_page is not None else len(moved)
    plan = plan_page(shape, n_framed, int(np.isin(held_out.shown, points).sum()), 3 + (z is not None), left)
    spacing = spacing_of(held_out.affines[0])
    data["planes"] = _plane_entries(shape, spacing, plan.factor)
    factor = plan.factor if in_page is None else 1
    sliders = decode_sliders(network, moved, device, factor)
    data["sliders"] = {
        "planes": _plane_entries(shape, spacing, factor),
        "centre": list(sliders.centre),
        "affine": np.asarray(held_out.affines[0], float).round(4).tolist(),
        **_windows(sliders),
    }
    errors_of_sums: list[float | None] = []
    if in_page is not None:
        data["sliders"]["template"] = in_page
    else:
        errors_of_sums = [error_of_sums(network, sliders, n, device, seed, factor) for n in (2, len(moved))]
        data["sliders"]["frames"] = _frames(sliders, errors_of_sums)
    held = [each["latent"] for each in (in_page or data["sliders"]["frames"])["latents"]]
    known = np.flatnonzero(np.isin(held_out.shown, points))
    deviations = None if z is None else np.abs(np.asarray(z[known], np.float32)).max(axis=(1, 2, 3))
    shown = known[choose_shown(errors[known], deviations, plan.n_shown)]
    data["layers"] = _add_pictures(data["subjects"], points, held_out, reconstructions, z, shown, plan)
    _say_sliders(part, held, errors_of_sums, conditional)
    _say_limits(part, held_out, plan, len(shown), len(points), z is not None)
    part.widget(
        (PAGE / "viewer.html").read_text(encoding="utf-8"),
        (PAGE / "viewer.css").read_text(encoding="utf-8"),
        "\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS),
        data,
    )
    assert len(json.dumps(data)) <= MAX_BYTES
    part.scores.update(
        sliders=held,
        decoded_in_page=in_page is not None,
        error_of_sums=errors_of_sums,
        subjects_with_pictures=len(shown),
        averaged_voxels=plan.factor,
    )
    return part


def _plane_entries(shape: Sequence[int], spacing: Sequence[float], factor: int) -> list[dict[str, Any]]:
    entries = []
    for plane, (width, height) in enumerate(plane_sizes(shape, factor)):
        across, up = (axis for axis in range(3) if axis != plane)
        entries.append(
            {
                "name": PLANES[plane],
                "width": width,
                "height": height,
                "mm": [width * factor * spacing[across], height * factor * spacing[up]],
            }
        )
    return entries


def _subject_entries(
    held_out: Subjects, points: Array, dimensions: Array, columns: Sequence[Column]
) -> list[dict[str, Any]]:
    names = names_of(held_out)
    return [
        {
            "name": names[row],
            "code": [round(float(value), 3) for value in held_out.mu[row, dimensions]],
            "values": [column.values[row] for column in columns],
        }
        for row in points
    ]


def _windows(sliders: Sliders) -> dict[str, Any]:
    """Return the ranges of the colours of decoded planes and of their changes."""
    start = sliders.planes[0, len(STEPS) // 2]
    # the background, which is most of a plane, is drawn black although decoders leave it slightly off zero
    low, high = (float(value) for value in np.percentile(sliders.planes, (20, 99.8)))
    return {
        "shown": _rounded(Range(low, high if high > low else low + 1)),
        "change": _rounded(symmetric_range(sliders.planes - start, 0.998)),
    }


def _frames(sliders: Sliders, errors: Sequence[float | None]) -> dict[str, Any]:
    stored = range_of(sliders.planes)
    return {
        "steps": list(STEPS),
        "stored": _rounded(stored),
        "latents": [
            {"latent": dimension, "frames": packed(frames, stored)}
            for dimension, frames in zip(sliders.dimensions, sliders.planes, strict=True)
        ],
        "errorOfTwo": errors[0],
        "errorOfAll": errors[1],
    }


def _add_pictures(
    entries: list[dict[str, Any]],
    points: Array,
    held_out: Subjects,
    reconstructions: Array,
    z: Array | None,
    shown: Array,
    plan: Plan,
) -> list[dict[str, Any]]:
    """Add the planes of those who are shown to their entries, and return what the page is told of each layer."""
    middle = middle_of(held_out.images[:, 0].mean(axis=0))
    sigma = FWHM / np.sqrt(8 * np.log(2)) / np.array(spacing_of(held_out.affines[0]))
    drawn: list[tuple[int, tuple[int, ...], list[Array]]] = []
    for row in shown:
        image, restored = held_out.images[row, 0], reconstructions[row, 0]
        layers = [image, restored, image - restored]
        if z is not None:
            layers.append(np.asarray(z[row], np.float32))
        centres = [middle]
        if plan.n_views > 1:
            away = np.abs(layers[3] if z is not None else ndimage.gaussian_filter(layers[2], sigma))
            centres.append(tuple(int(each) for each in np.unravel_index(int(away.argmax()), away.shape)))
        for centre in centres:
            planes = [planes_through(layer[None], centre, plan.factor)[0] for layer in layers]
            drawn.append((int(row), centre, planes))
    grey = np.stack([planes[:2] for _, _, planes in drawn])
    residual = np.stack([planes[2] for _, _, planes in drawn])
    low, high = (float(value) for value in np.percentile(grey, (20, 99.8)))
    seen = Range(low, high if high > low else low + 1)
    told = [
        ("image", "grey", range_of(grey), seen),
        ("reconstruction", "grey", range_of(grey), seen),
        ("residual", "diverging", symmetric_range(residual), symmetric_range(residual, 0.998)),
        ("deviation", "diverging", Z_STORED, Z_SHOWN),
    ][: 3 + (z is not None)]
    place = {int(row): index for index, row in enumerate(points)}
    for row, centre, planes in drawn:
        layers_of_view = [packed(values, each[2]) for values, each in zip(planes, told, strict=True)]
        view = {"at": _position(held_out.affines[row], centre), "layers": layers_of_view}
        entries[place[int(held_out.shown[row])]].setdefault("views", []).append(view)
    return [
        {"name": name, "colours": colours, "stored": _rounded(stored), "shown": _rounded(window)}
        for name, colours, stored, window in told
    ]


def _say_sliders(
    part: Part, held: Sequence[int], errors_of_sums: Sequence[float | None], conditional: Sequence[str]
) -> None:
    """Add what sliders show, and how exact it is."""
    which = f"{len(held)} latents of the largest KL divergence" if len(held) > 1 else "latent"
    if errors_of_sums:
        two, every = errors_of_sums
        of_two = (
            "" if two is None else f"of two differs from the decoded planes by {100 * two:.0f} % of the change, that "
        )
        text = (
            f"Sliders move the {which}, each decoded at {len(STEPS)} values from -3 to 3 with all others at zero; "
            "values between two of them are blended. What one slider shows is decoded. With several moved, the "
            f"differences from the average are added: for codes of the prior, the sum {of_two}of all by "
            f"{100 * (every or 0):.0f} %."
        )
    else:
        text = (
            f"Sliders move the {which}. The decoder itself runs in this page, as it is a template whose intensities "
            "and displacements are linear in the code: what is shown is decoded, but for rounding, in any plane."
        )
    part.text(text + (f" {conditional_text(conditional)}; sliders are at the average subject." if conditional else ""))


def _say_limits(part: Part, held_out: Subjects, plan: Plan, n_shown: int, n_points: int, has_norm: bool) -> None:
    """Add what was left out to keep the page small."""
    if held_out.images.shape[1] > 1:
        part.text("All pictures are of the first channel.")
    limits = []
    if n_shown < len(held_out):
        limits.append(
            f"{n_shown} of {len(held_out)} volumes have pictures, evenly from the best to the worst reconstructed"
            + (", with those that deviate most." if has_norm else ".")
        )
    if n_points < len(held_out):
        limits.append(f"The scatter holds {n_points} of {len(held_out)} volumes, evenly taken.")
    if plan.factor > 1:
        limits.append(f"Pictures are averages over {plan.factor}×{plan.factor} voxels of a plane.")
    if plan.n_views == 1:
        limits.append("Planes go through the middle of the brain only.")
    if limits:
        part.text(f"To keep this page small (at most {MAX_BYTES // 1_000_000} MB of pictures): {' '.join(limits)}")


def _position(affine: Array, centre: Sequence[int]) -> list[float]:
    """Return the place of a voxel in millimetres."""
    return [round(float(each), 1) for each in (np.asarray(affine) @ [*centre, 1.0])[:3]]


def _rounded(values: Range) -> list[float]:
    return [float(f"{each:.9g}") for each in values]


def _base64_length(n_bytes: int) -> int:
    """Return the length of the base64 text, with its quotes and comma."""
    return -(-n_bytes // 3) * 4 + 4
