"""The factors and nuisance parameters that differ between the subjects of a simulated cohort, and how they are drawn.

Factors change the anatomy or the contrast, and a model should recover them; nuisance is added by every scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_STREAMS = ("key", "factors", "nuisance", "deformation", "bias", "noise", "lesion", "split")
# a stream follows from the place of its name, so names that came later come last
_FOLDED_STREAMS = ("folding", "sulci", "structures", "strip", "strip_outline")

# median, spread and limits of the draws; the computation of `age` below turns the draws back into z-scores
_SIZE_SD, _SIZE_SEX_SHIFT, _SIZE_LIMITS = 0.065, 0.045, (0.78, 1.24)
_VENTRICLE_LOG_MEAN, _VENTRICLE_LOG_SD, _VENTRICLE_LIMITS = 0.26, 0.40, (0.6, 3.0)
_ATROPHY_MEAN, _ATROPHY_SD, _ATROPHY_SHAPE = 0.42, 0.22, (1.7, 2.35)
_CONTRAST_MEAN, _CONTRAST_SD, _CONTRAST_LIMITS = 0.27, 0.035, (0.14, 0.42)
_CONTRAST_SITE_SHIFT = {"site-A": -0.03, "site-B": 0.0, "site-C": 0.03}
_ASYMMETRY_SD, _ASYMMETRY_LIMIT = 0.03, 0.075
_LESION_ML = (0.5, 15.0)
_LESION_INTENSITY = (0.1, 1.0)


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
    atrophy: float = _ATROPHY_MEAN
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

    def stream(self, name: str) -> np.random.Generator:
        """Return the subject's random generator for one purpose; every call returns an equal one."""
        return stream(self.seed, self.subject, name)


@dataclass(frozen=True)
class Covariates:
    """The covariates of a subject in the participants table."""

    age: float
    sex: str
    site: str
    control: float


def stream(seed: int, subject: int, name: str) -> np.random.Generator:
    """Return the random generator of one subject for one purpose.

    It depends only on the arguments, not on the number of workers or subjects.
    """
    key = (subject, (*_STREAMS, *_FOLDED_STREAMS).index(name))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def draw_subject(seed: int, subject: int, *, lesion: bool) -> tuple[Factors, Covariates]:
    """Draw the factors of one subject, independently of one another, and the covariates that follow from them.

    Args:
        seed: the cohort's seed.
        subject: index of the subject.
        lesion: whether the subject has a lesion; this changes nothing else.
    """
    rng = stream(seed, subject, "factors")
    sex = "M" if rng.random() < 0.5 else "F"
    site = sorted(_CONTRAST_SITE_SHIFT)[rng.integers(len(_CONTRAST_SITE_SHIFT))]
    size = 1 + _SIZE_SD * rng.standard_normal() + (_SIZE_SEX_SHIFT if sex == "M" else -_SIZE_SEX_SHIFT)
    ventricles = np.exp(_VENTRICLE_LOG_MEAN + _VENTRICLE_LOG_SD * rng.standard_normal())
    atrophy = rng.beta(*_ATROPHY_SHAPE)
    contrast = _CONTRAST_MEAN + _CONTRAST_SD * rng.standard_normal() + _CONTRAST_SITE_SHIFT[site]
    asymmetry = _ASYMMETRY_SD * rng.standard_normal()
    lesion_ml = np.exp(rng.uniform(*np.log(_LESION_ML)))
    lesion_intensity = rng.uniform(*_LESION_INTENSITY)
    factors = Factors(
        brain_size=float(np.clip(size, *_SIZE_LIMITS)),
        ventricles=float(np.clip(ventricles, *_VENTRICLE_LIMITS)),
        atrophy=float(atrophy),
        contrast=float(np.clip(contrast, *_CONTRAST_LIMITS)),
        asymmetry=float(np.clip(asymmetry, -_ASYMMETRY_LIMIT, _ASYMMETRY_LIMIT)),
        lesion=float(lesion_ml) if lesion else 0.0,
        lesion_intensity=float(lesion_intensity) if lesion else 0.0,
    )
    older = (np.log(factors.ventricles) - _VENTRICLE_LOG_MEAN) / _VENTRICLE_LOG_SD
    older += (factors.atrophy - _ATROPHY_MEAN) / _ATROPHY_SD
    age = float(np.clip(55 + 11 * older + 6 * rng.standard_normal(), 18, 95))
    return factors, Covariates(round(age, 1), sex, site, float(rng.standard_normal()))


def draw_nuisance(seed: int, subject: int) -> Nuisance:
    """Draw the nuisance parameters of one subject's scan."""
    rng = stream(seed, subject, "nuisance")

    def three(spread: float) -> tuple[float, float, float]:
        x, y, z = spread * np.clip(rng.standard_normal(3), -2.5, 2.5)
        return float(x), float(y), float(z)

    tilt, shift, stretch = three(2.5), three(1.5), np.exp(three(0.02))
    stretch /= np.prod(stretch) ** (1 / 3)
    return Nuisance(
        seed=seed,
        subject=subject,
        tilt_degrees=tilt,
        shift_mm=shift,
        stretch=(float(stretch[0]), float(stretch[1]), float(stretch[2])),
        deformation_mm=float(rng.uniform(0.7, 1.5)),
        bias=float(rng.uniform(0.02, 0.06)),
        noise=float(rng.uniform(0.01, 0.025)),
        gain=float(900 * np.exp(0.05 * np.clip(rng.standard_normal(), -2.5, 2.5))),
    )
