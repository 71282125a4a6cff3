"""The scanner of a site: what it does to every image, beyond the shift of contrast that each site has.

A scan is made in this order: the scanner's gradients distort the head, the signal passes a response curve, the point
spread blurs it, a bias field and a gain multiply it, and noise is added.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import fft

from monai_betavae.data.simulation.anatomy import FIELD_CENTRE_MM, Floats, Warp, smooth_noise

_AXES = ("x", "y", "z")
_IN_PLANE_MM, _SLICE_MM = (0.5, 2.5), (2.0, 6.0)
_NOISE_SCALE, _BIAS_SCALE = (0.6, 2.5), (0.5, 2.0)
_SITE_BIAS, _SITE_BIAS_WIDTH_MM, _SITE_BIAS_LATTICE_MM = (0.03, 0.12), 60.0, 15.0
_EXPONENT, _BEND = (0.8, 1.25), (-0.25, 0.35)
_DISTORTION_MM = (0.3, 1.2)
# the distortion is as large as asked within this distance of the centre; about that of the cortex
_DISTORTION_RADIUS_MM = 80.0
_CUBIC = [powers for powers in itertools.product(range(4), repeat=3) if sum(powers) == 3]
_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
_LEAST_COVERAGE = 1e-3


@dataclass(frozen=True)
class Scanner:
    """The effects of one site's scanner; the defaults have none.

    Attributes:
        seed: the cohort's seed; with ``site`` it fixes the fields of the scanner.
        site: name of the site.
        in_plane_mm: full width at half maximum of the Gaussian point spread within a slice.
        slice_mm: the same across the slices.
        slice_axis: "x" (sagittal slices), "y" (coronal) or "z" (axial).
        noise_scale: factor of the noise of each scan.
        bias_scale: factor of the bias field of each scan.
        site_bias: standard deviation of the log of the bias field that all scans of the site have in common.
        exponent: exponent c of the response curve, see `response`.
        bend: bend b of the response curve.
        distortion_mm: root mean square of the displacement by gradient nonlinearity within 80 mm of the centre.
    """

    seed: int = 0
    site: str = ""
    in_plane_mm: float = 0.0
    slice_mm: float = 0.0
    slice_axis: str = "z"
    noise_scale: float = 1.0
    bias_scale: float = 1.0
    site_bias: float = 0.0
    exponent: float = 1.0
    bend: float = 0.0
    distortion_mm: float = 0.0

    def stream(self, name: str) -> np.random.Generator:
        """Return the site's random generator for one purpose; every call returns an equal one."""
        # more than three numbers, so that no subject has the same stream: those have two, and a session at most
        key = (0, 0, 0, *f"{self.site} {name}".encode())
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def draw_scanner(seed: int, site: str) -> Scanner:
    """Draw the scanner of one site from the cohort's seed and the site's name.

    Args:
        seed: the cohort's seed.
        site: name of the site.
    """
    rng = Scanner(seed, site).stream("scanner")
    in_plane = rng.uniform(*_IN_PLANE_MM)
    return Scanner(
        seed=seed,
        site=site,
        in_plane_mm=float(in_plane),
        # slices are never thinner than the pixels in them
        slice_mm=float(max(in_plane, rng.uniform(*_SLICE_MM))),
        slice_axis=_AXES[rng.integers(3)],
        noise_scale=float(np.exp(rng.uniform(*np.log(_NOISE_SCALE)))),
        bias_scale=float(np.exp(rng.uniform(*np.log(_BIAS_SCALE)))),
        site_bias=float(rng.uniform(*_SITE_BIAS)),
        exponent=float(np.exp(rng.uniform(*np.log(_EXPONENT)))),
        bend=float(rng.uniform(*_BEND)),
        distortion_mm=float(rng.uniform(*_DISTORTION_MM)),
    )


def response(signal: Floats, scanner: Scanner) -> Floats:
    """Return the signal s after the scanner's response (s (1 + b) / (1 + b s))^c; it keeps 0 and 1, and rises between.

    White matter, whose signal is 1, stays. With b > 0 or c < 1, grey matter and CSF come nearer to it.

    Args:
        signal: signal of each voxel, at least 0.
        scanner: source of the exponent c and the bend b > -1.
    """
    if scanner.bend:
        signal = signal * np.float32(1 + scanner.bend) / (1 + np.float32(scanner.bend) * signal)
    return signal if scanner.exponent == 1 else signal ** np.float32(scanner.exponent)


def blurred(
    signal: Floats, coverage: Floats, warp: Warp, shape: tuple[int, int, int], spacing: float, scanner: Scanner
) -> Floats:
    """Return the signal after the point spread h, at the same voxels: coverage · (h * signal) / (h * coverage).

    The division keeps the edge of the brain where it is, since brain extraction comes after the scan.

    Args:
        signal: signal of each voxel of ``warp``.
        coverage: brain fraction of each voxel.
        warp: the subject's voxels.
        shape: shape of the subject's grid.
        spacing: voxel size in mm.
        scanner: widths and direction of the point spread.
    """
    if not scanner.in_plane_mm and not scanner.slice_mm:
        return signal
    widths = [scanner.slice_mm if axis == scanner.slice_axis else scanner.in_plane_mm for axis in _AXES]
    # in Fourier space, since a sampled Gaussian of less than a voxel would be narrower than asked; the brain is far
    # enough from the border that nothing comes back in on the other side
    transfer = np.ones(1, np.float32)
    for axis, width in enumerate(widths):
        frequency = fft.fftfreq(shape[axis]) if axis < 2 else fft.rfftfreq(shape[axis])
        along = np.exp(-2 * (np.pi * frequency * width / _FWHM_PER_SIGMA / spacing) ** 2).astype(np.float32)
        transfer = transfer * along.reshape([-1 if axis == other else 1 for other in range(3)])

    def spread(values: Floats) -> Floats:
        grid = np.zeros(math.prod(shape), np.float32)
        grid[warp.voxels] = values
        wide = fft.irfftn(fft.rfftn(grid.reshape(shape)) * transfer, shape)
        at: Floats = np.asarray(wide, dtype=np.float32).ravel()[warp.voxels]
        return at

    mean = spread(signal) / np.maximum(spread(coverage), np.float32(_LEAST_COVERAGE))
    return np.asarray(coverage * np.maximum(mean, 0), dtype=np.float32)


def site_bias_field(position: Floats, scanner: Scanner) -> Floats:
    """Return the log of the bias field that all scans of the site have in common.

    Args:
        position: positions in the scanner in mm, ``(3, n)``.
        scanner: source of the field.
    """
    rng = scanner.stream("bias")
    return np.float32(scanner.site_bias) * smooth_noise(rng, position, _SITE_BIAS_WIDTH_MM, _SITE_BIAS_LATTICE_MM)


def distortion(position: npt.NDArray[np.float32], scanner: Scanner) -> Floats:
    """Return the displacement in mm from where a voxel seems to be to where it is: a cubic polynomial of the position.

    The field of a gradient coil departs from a linear one by odd powers of the distance from the centre, first the
    third.

    Args:
        position: positions in the scanner in mm, ``(3, n)``.
        scanner: size of the displacement, and source of the coefficients.

    Source:
        Jovicich et al. 2006, NeuroImage 30, 436-443 (gradient nonlinearity and its effect between sites).
    """
    coefficients = scanner.stream("distortion").standard_normal((3, len(_CUBIC)))
    step = np.linspace(-1, 1, 9)
    ball = np.stack([axis.ravel() for axis in np.meshgrid(step, step, step, indexing="ij")])
    ball = ball[:, (ball**2).sum(axis=0) <= 1]
    # sums rather than matrix products, since the order in which BLAS adds may depend on the number of threads
    typical = np.sqrt((_polynomials(ball, coefficients) ** 2).sum(axis=0).mean())
    away = (position - np.array(FIELD_CENTRE_MM, np.float32)[:, None]) / np.float32(_DISTORTION_RADIUS_MM)
    scaled = (coefficients * (scanner.distortion_mm / typical)).astype(np.float32)
    return _polynomials(away, scaled).astype(np.float32)


def distortion_of(scanner: Scanner | None) -> Callable[[Floats], Floats] | None:
    """Return the scanner's `distortion` as a function of positions, ``None`` if it has none."""
    if scanner is None or not scanner.distortion_mm:
        return None
    return partial(distortion, scanner=scanner)


def _polynomials(
    position: npt.NDArray[np.floating], coefficients: npt.NDArray[np.floating]
) -> npt.NDArray[np.floating]:
    """Return the cubic polynomials of three coordinates with coefficients ``(3, 10)``."""
    total = np.zeros_like(position)
    for powers, column in zip(_CUBIC, coefficients.T, strict=True):
        product = np.ones_like(position[0])
        for coordinate, power in zip(position, powers, strict=True):
            for _ in range(power):
                product = product * coordinate
        total += column[:, None] * product
    return total
