"""Repeated scans of one brain: what differs between the sessions of a subject."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from monai_betavae.data.simulation.subject_factors import (
    BIAS_LIMITS,
    NOISE_LIMITS,
    Nuisance,
    draw_gain,
    draw_nuisance,
    draw_three,
)

_TURN_DEGREES, _MOVE_MM = 2.5, 1.5
_LOG_EXPONENT_SD = 0.03


def draw_session(seed: int, subject: int, session: int) -> Nuisance:
    """Draw the nuisance of one of a subject's scans: the anatomy is that of its first session.

    The first session is the scan of a cohort without sessions. In each later one the head has turned and moved from
    there by as much as heads differ between subjects; bias field, noise and gain are drawn again, and the signal is
    raised to a power near 1, so that the contrast changes a little.

    Args:
        seed: the cohort's seed.
        subject: index of the subject.
        session: index of the session, from 0.
    """
    first = draw_nuisance(seed, subject)
    if session == 0:
        return first
    rng = replace(first, session=session).stream("session")
    return replace(
        first,
        session=session,
        turn_degrees=draw_three(rng, _TURN_DEGREES),
        move_mm=draw_three(rng, _MOVE_MM),
        bias=float(rng.uniform(*BIAS_LIMITS)),
        noise=float(rng.uniform(*NOISE_LIMITS)),
        gain=draw_gain(rng),
        exponent=float(np.exp(_LOG_EXPONENT_SD * np.clip(rng.standard_normal(), -2.5, 2.5))),
    )


def session_columns(nuisance: Nuisance) -> dict[str, float]:
    """Return the columns of a subject's table of sessions that say how the scan was made."""
    turned = dict(zip(("head_nod", "head_tilt", "head_turn"), nuisance.turn_degrees, strict=True))
    moved = dict(zip(("head_x_mm", "head_y_mm", "head_z_mm"), nuisance.move_mm, strict=True))
    scan = {"scan_bias": nuisance.bias, "scan_noise": nuisance.noise, "scan_gain": nuisance.gain}
    return turned | moved | scan | {"scan_exponent": nuisance.exponent}
