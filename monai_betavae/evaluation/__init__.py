"""Evaluation measures: functions that take arrays and return scores, with intervals and simpler baselines.

=========================  ==========================================================================================
``intervals``              bootstrap intervals over subjects
``reconstruction``         errors, PSNR and SSIM, in the brain and overall; PCA and mean-image baselines
``likelihood``             ELBO, importance-weighted log-likelihood, closed form of probabilistic PCA
``rate_distortion``        nats of codes against error: models, their codes cut short, PCA in closed form
``refinement``             codes refined from the encoder's: what amortised inference costs
``latent_activity``        KL divergence per dimension, active units
``aggregate_posterior``    mutual information, total correlation, dimension-wise KL of a cohort
``disentanglement``        MIG, SAP, DCI, FactorVAE score
``stability``              UDR and canonical correlations of codes across seeds
``reliability``            agreement of repeated scans: intraclass correlation, identification of subjects
``known_factors``          known factors, discrete or continuous; their bins and folds
``importance``             importance of each code for each factor
``targets``                validated codes and targets for probes
``probes``                 prediction of covariates from codes, cross-validated by subject, compared with PCA
``residuals``              residual maps, thresholds from healthy subjects
``anomaly``                lesion detection: AUPRC, Dice, pseudo-healthy pairs
``normative``              deviation of latents and voxels from a healthy reference, multiple-comparison correction
``residual_deviation``     deviation of a subject by its most unusual voxels
``adjusted_scores``        scores of deviation adjusted for what covariates do to healthy subjects' scores
``calibration``            whether p-values of healthy subjects are uniform, by covariate
``ms_ssim``                diversity of volumes
``mmd``                    distance between two sets of samples, and its test
``latent_mixture``         codes from the prior, or from a mixture fitted to codes
``volume_batches``         validated batches of volumes and masks
=========================  ==========================================================================================
"""

from .adjusted_scores import AdjustedScores, adjust_scores
from .aggregate_posterior import aggregate_posterior
from .anomaly import dice, healthy_pair_error, voxel_auprc
from .calibration import GroupCalibration, binomial_interval, calibration_by_group, expected_share
from .disentanglement import dci, factor_vae_score, mig, sap
from .intervals import Estimate, estimate
from .latent_activity import active_units, kl_per_dimension
from .latent_mixture import fit_latent_mixture, prior_codes, sample_codes
from .likelihood import elbo, log_likelihood, probabilistic_pca_log_density
from .mmd import mmd, mmd_test
from .ms_ssim import ms_ssim_pairs
from .normative import correct_p_values, latent_deviation, voxel_deviation
from .probes import compare_probes, pca_codes, probe, probe_held_out
from .rate_distortion import RateDistortion, distortion_at, linear_rate_distortion, truncated_rate_distortion
from .reconstruction import brain_mask, pca_reconstruction, reconstruction_scores, squared_error
from .refinement import refined_codes
from .reliability import (
    Identification,
    estimate_intraclass_correlation,
    identification_rate,
    intraclass_correlation,
    within_subject_deviation,
)
from .residual_deviation import ResidualDeviation, residual_deviation
from .residuals import healthy_threshold, residual_map
from .stability import canonical_correlations, udr

__all__ = [
    "AdjustedScores",
    "Estimate",
    "GroupCalibration",
    "Identification",
    "RateDistortion",
    "ResidualDeviation",
    "active_units",
    "adjust_scores",
    "aggregate_posterior",
    "binomial_interval",
    "brain_mask",
    "calibration_by_group",
    "canonical_correlations",
    "compare_probes",
    "correct_p_values",
    "dci",
    "dice",
    "distortion_at",
    "elbo",
    "estimate",
    "estimate_intraclass_correlation",
    "expected_share",
    "factor_vae_score",
    "fit_latent_mixture",
    "healthy_pair_error",
    "healthy_threshold",
    "identification_rate",
    "intraclass_correlation",
    "kl_per_dimension",
    "latent_deviation",
    "linear_rate_distortion",
    "log_likelihood",
    "mig",
    "mmd",
    "mmd_test",
    "ms_ssim_pairs",
    "pca_codes",
    "pca_reconstruction",
    "prior_codes",
    "probabilistic_pca_log_density",
    "probe",
    "probe_held_out",
    "reconstruction_scores",
    "refined_codes",
    "residual_deviation",
    "residual_map",
    "sample_codes",
    "sap",
    "squared_error",
    "truncated_rate_distortion",
    "udr",
    "voxel_auprc",
    "voxel_deviation",
    "within_subject_deviation",
]
