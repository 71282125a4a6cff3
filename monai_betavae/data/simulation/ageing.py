"""The age curve of the simulated cohort: how factors change with age, and the same brain at another age.

A subject's age is 55 + 11 · (z_v + z_a) + 6 · e with independent z_v (log ventricle volume), z_a (atrophy) and e of
variance 1. Its variance is 2 · 11² + 6² = 278, so a year of age stands for 11 / 278 standard deviations of each factor:
E[z_v | age] = E[z_a | age] = 11 (age - 55) / 278. Ventricles grow by 1.6 % and atrophy by 0.0087 per year.
"""

from __future__ import annotations

import math
from dataclasses import replace

from monai_betavae._checks import check_real
from monai_betavae.data.simulation.subject_factors import (
    AGE_LIMITS,
    AGE_MEAN,
    AGE_PER_Z,
    AGE_SD,
    ATROPHY_SD,
    VENTRICLE_LIMITS,
    VENTRICLE_LOG_MEAN,
    VENTRICLE_LOG_SD,
    Factors,
)

_Z_PER_YEAR = AGE_PER_Z / AGE_SD**2


def typical_factors(age: float) -> Factors:
    """Return the factors of a typical subject of one age: the curve that ventricles and atrophy follow on average.

    The ventricles are exp(0.26 + 0.40 · 11 (age - 55) / 278) times those of the template, the median at this age;
    ``atrophy`` is 0.42 + 0.22 · 11 (age - 55) / 278. All other factors are the mean ones.

    These are knobs. Measured volumes grow a little less, since partial volume at the edge of the ventricles doesn't
    grow with them: by 1.45 % per year at 3 mm and by 1.2 % at 6 mm. Compare volumes from images with
    ``simulate_subject(anatomy, typical_factors(age), spacing=spacing).truth["ventricle_ml"]`` at the same spacing.

    Args:
        age: age in years, from 18 to 95.

    Raises:
        ValueError: if ``age`` is outside the ages of the cohort.

    Example:
        >>> [round(typical_factors(age).ventricles, 2) for age in (30, 55, 80)]
        [0.87, 1.3, 1.93]
    """
    return factors_at_age(Factors(ventricles=math.exp(VENTRICLE_LOG_MEAN)), AGE_MEAN, age)


def factors_at_age(factors: Factors, age: float, new_age: float) -> Factors:
    """Return the factors of the same subject at another age: it keeps its distance to the age curve.

    With d = 11 (new_age - age) / 278, the log of the ventricles' volume moves by 0.40 d and the atrophy by 0.22 d,
    within the limits of the cohort (0.6 to 3 and 0 to 1). The other factors don't change with age.

    Args:
        factors: the subject's factors at ``age``.
        age: age in years, from 18 to 95.
        new_age: age to move to.

    Raises:
        ValueError: if an age is outside the ages of the cohort.

    Example:
        The first subject of a cohort of seed 0 in the year of its scan and twenty years later:

        >>> from monai_betavae.data.simulation import load_anatomy, simulate_subject
        >>> from monai_betavae.data.simulation.subject_factors import draw_nuisance, draw_subject
        >>> factors, covariates = draw_subject(0, 0, lesion=False)
        >>> later = factors_at_age(factors, covariates.age, covariates.age + 20)
        >>> anatomy, nuisance = load_anatomy(8.0), draw_nuisance(0, 0)
        >>> truth = [simulate_subject(anatomy, f, nuisance, spacing=8.0).truth for f in (factors, later)]
        >>> truth[1]["ventricle_ml"] > 1.1 * truth[0]["ventricle_ml"]
        True
    """
    age, new_age = check_real("age", age, *AGE_LIMITS), check_real("new_age", new_age, *AGE_LIMITS)
    moved = _Z_PER_YEAR * (new_age - age)
    least, most = VENTRICLE_LIMITS
    return replace(
        factors,
        ventricles=min(max(factors.ventricles * math.exp(VENTRICLE_LOG_SD * moved), least), most),
        atrophy=min(max(factors.atrophy + ATROPHY_SD * moved, 0.0), 1.0),
    )
