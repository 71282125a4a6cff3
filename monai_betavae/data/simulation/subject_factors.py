"""The factors and nuisance parameters that differ between the subjects of a simulated cohort, and how they are drawn.

Factors change the anatomy or the contrast, and a model should recover them; nuisance is added by every scan.
"""

from __future__ import annotations

import math
import string
from dataclasses import dataclass

import numpy as np
from scipy import special

_STREAMS = ("key", "factors", "nuisance", "deformation", "bias", "noise", "lesion", "split")
# a stream follows from the place of its name, so names that came later come last
_FOLDED_STREAMS = ("folding", "sulci", "structures", "strip", "strip_outline")
_LATER_STREAMS = ("session", "site", "diagnosis", "severity")
_CONTRAST_STREAMS = ("T2w bias", "T2w noise", "FLAIR bias", "FLAIR noise")
# what differs between two scans of one brain
_STREAMS_OF_A_SCAN = ("session", "bias", "noise", *_CONTRAST_STREAMS)

# median, spread and limits of the draws; the computation of `age` below turns the draws back into z-scores
_SIZE_SD, _SIZE_SEX_SHIFT, _SIZE_LIMITS = 0.065, 0.045, (0.78, 1.24)
VENTRICLE_LOG_MEAN, VENTRICLE_LOG_SD, VENTRICLE_LIMITS = 0.26, 0.40, (0.6, 3.0)
ATROPHY_MEAN, ATROPHY_SD, _ATROPHY_SHAPE = 0.42, 0.22, (1.7, 2.35)
_CONTRAST_MEAN, _CONTRAST_SD, _CONTRAST_LIMITS = 0.27, 0.035, (0.14, 0.42)
_CONTRAST_SITE_SHIFT = 0.03
_ASYMMETRY_SD, _ASYMMETRY_LIMIT = 0.03, 0.075
_LESION_ML = (0.5, 15.0)
_LESION_INTENSITY = (0.1, 1.0)
BIAS_LIMITS, NOISE_LIMITS = (0.02, 0.06), (0.01, 0.025)
AGE_MEAN, AGE_PER_Z, AGE_NOISE, AGE_LIMITS = 55.0, 11.0, 6.0, (18.0, 95.0)
AGE_SD = math.sqrt(2 * AGE_PER_Z**2 + AGE_NOISE**2)
N_SITES, MOST_SITES = 3, len(string.ascii_uppercase)


@dataclass(frozen=True)
class Factors:
    """The factors of one subject; the defaults describe a typical subject without a lesion.

    Attributes:
        brain_size: volume relative to a typical brain (about 1.2 l of tissue).
        ventricles: volume of the lateral ventricles relative to the template's, from 0.6 to 3.
        atrophy: share of the cortical rim that has turned into CSF, from 0 to 1.
        contrast: 1 - GM / WM intensity.
        asymmetry: (right - left) / (right + left) of the hemispheres' volumes.
        lesion: requested volume in ml, 0 for none.
        lesion_intensity: intensity of the lesion, from that of the tissue (0) to that of CSF (1).
    """

    brain_size: float = 1.0
    ventricles: float = 1.3
    atrophy: float = ATROPHY_MEAN
    contrast: float = _CONTRAST_MEAN
    asymmetry: float = 0.0
    lesion: float = 0.0
    lesion_intensity: float = 0.0


@dataclass(frozen=True)
class Nuisance:
    """The effects of a scan that are unrelated to the subject; the defaults add none.

    Attributes:
        seed: the cohort's seed; with ``subject`` it fixes every random field.
        subject: index of the subject.
        tilt_degrees: rotation about x (nod), y (tilt) and z (turn).
        shift_mm: translation of the head.
        stretch: scale along each axis, of product 1.
        deformation_mm: standard deviation of the widest random displacement along each axis.
        bias: standard deviation of the log of the bias field.
        noise: standard deviation of the noise in each channel, relative to white matter.
        gain: intensity of white matter, in scanner units.
        session: index of the session; the anatomy of all sessions is that of the first one.
        turn_degrees: rotation of the head since the first session about x, y and z, after ``tilt_degrees``.
        move_mm: translation of the head since the first session.
        exponent: power of the signal, in which white matter is 1; below 1, grey matter and CSF are brighter.
    """

    seed: int = 0
    subject: int = 0
    tilt_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    deformation_mm: float = 0.0
    bias: float = 0.0
    noise: float = 0.0
    gain: float = 900.0
    session: int = 0
    turn_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    move_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    exponent: float = 1.0

    def stream(self, name: str) -> np.random.Generator:
        """Return the subject's random generator for one purpose; every call returns an equal one."""
        return stream(self.seed, self.subject, name, self.session if name in _STREAMS_OF_A_SCAN else 0)


@dataclass(frozen=True)
class Covariates:
    """The covariates of a subject in the participants table."""

    age: float
    sex: str
    site: str
    control: float


def stream(seed: int, subject: int, name: str, session: int = 0) -> np.random.Generator:
    """Return the random generator of one subject for one purpose, in one session.

    It depends only on the arguments, not on the number of workers, subjects or sessions.
    """
    key = (subject, (*_STREAMS, *_FOLDED_STREAMS, *_LATER_STREAMS, *_CONTRAST_STREAMS).index(name))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*key, session) if session else key))


def site_names(n_sites: int) -> list[str]:
    """Return the names of the sites, from "site-A" on."""
    return [f"site-{letter}" for letter in string.ascii_uppercase[:n_sites]]


def draw_subject(
    seed: int, subject: int, *, lesion: bool, n_sites: int = N_SITES, site_age_correlation: float = 0.0
) -> tuple[Factors, Covariates]:
    """Draw the factors of one subject, independently of one another, and the covariates that follow from them.

    Args:
        seed: the cohort's seed.
        subject: index of the subject.
        lesion: whether the subject has a lesion; this changes nothing else.
        n_sites: number of sites.
        site_age_correlation: correlation r of age with a normal score that decides on the site: with z the age in
            standard deviations, u a normal number and Phi the normal distribution function, it is number
            floor(n_sites · Phi(r z + sqrt(1 - r²) u)), so that all sites have about equally many subjects.
    """
    rng = stream(seed, subject, "factors")
    sex = "M" if rng.random() < 0.5 else "F"
    place = int(rng.integers(N_SITES))
    size = 1 + _SIZE_SD * rng.standard_normal() + (_SIZE_SEX_SHIFT if sex == "M" else -_SIZE_SEX_SHIFT)
    ventricles = np.exp(VENTRICLE_LOG_MEAN + VENTRICLE_LOG_SD * rng.standard_normal())
    atrophy = rng.beta(*_ATROPHY_SHAPE)
    contrast = _CONTRAST_MEAN + _CONTRAST_SD * rng.standard_normal()
    asymmetry = _ASYMMETRY_SD * rng.standard_normal()
    lesion_ml = np.exp(rng.uniform(*np.log(_LESION_ML)))
    lesion_intensity = rng.uniform(*_LESION_INTENSITY)
    size, ventricles = np.clip(size, *_SIZE_LIMITS), np.clip(ventricles, *VENTRICLE_LIMITS)
    older = (np.log(ventricles) - VENTRICLE_LOG_MEAN) / VENTRICLE_LOG_SD
    older += (atrophy - ATROPHY_MEAN) / ATROPHY_SD
    age = float(np.clip(AGE_MEAN + AGE_PER_Z * older + AGE_NOISE * rng.standard_normal(), *AGE_LIMITS))
    control = float(rng.standard_normal())
    if (n_sites, site_age_correlation) != (N_SITES, 0.0):
        # an own stream, so that all other draws are those of the usual sites
        own = stream(seed, subject, "site").standard_normal()
        score = site_age_correlation * (age - AGE_MEAN) / AGE_SD + math.sqrt(1 - site_age_correlation**2) * own
        place = min(int(n_sites * special.ndtr(score)), n_sites - 1)
    contrast += _contrast_shift(place, n_sites)
    factors = Factors(
        brain_size=float(size),
        ventricles=float(ventricles),
        atrophy=float(atrophy),
        contrast=float(np.clip(contrast, *_CONTRAST_LIMITS)),
        asymmetry=float(np.clip(asymmetry, -_ASYMMETRY_LIMIT, _ASYMMETRY_LIMIT)),
        lesion=float(lesion_ml) if lesion else 0.0,
        lesion_intensity=float(lesion_intensity) if lesion else 0.0,
    )
    return factors, Covariates(round(age, 1), sex, site_names(n_sites)[place], control)


def _contrast_shift(place: int, n_sites: int) -> float:
    """Return what a site adds to the contrast: the same step from each site to the next, 0 on average."""
    return _CONTRAST_SITE_SHIFT * (2 * place / (n_sites - 1) - 1) if n_sites > 1 else 0.0


def draw_nuisance(seed: int, subject: int) -> Nuisance:
    """Draw the nuisance parameters of one subject's scan."""
    rng = stream(seed, subject, "nuisance")
    tilt, shift, stretch = draw_three(rng, 2.5), draw_three(rng, 1.5), np.exp(draw_three(rng, 0.02))
    stretch /= np.prod(stretch) ** (1 / 3)
    return Nuisance(
        seed=seed,
        subject=subject,
        tilt_degrees=tilt,
        shift_mm=shift,
        stretch=(float(stretch[0]), float(stretch[1]), float(stretch[2])),
        deformation_mm=float(rng.uniform(0.7, 1.5)),
        bias=float(rng.uniform(*BIAS_LIMITS)),
        noise=float(rng.uniform(*NOISE_LIMITS)),
        gain=draw_gain(rng),
    )


def draw_three(rng: np.random.Generator, spread: float) -> tuple[float, float, float]:
    """Draw three normal numbers of standard deviation ``spread``, clipped at 2.5 of them."""
    x, y, z = spread * np.clip(rng.standard_normal(3), -2.5, 2.5)
    return float(x), float(y), float(z)


def draw_gain(rng: np.random.Generator) -> float:
    """Draw the intensity of white matter in one scan."""
    return float(900 * np.exp(0.05 * np.clip(rng.standard_normal(), -2.5, 2.5)))
