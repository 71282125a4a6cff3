"""The evaluation of a trained model: scores, tables and pictures in one report.

========================  ======================================================================================
``run``                   ``ModelEvaluation``: the parts in their order
``subjects``              held-out subjects, and those of the training, as arrays
``part``                  one part of an evaluation: scores, tables, pictures, sentences
``model_parts``           reconstruction, likelihood, latents, generation
``rate_distortion_part``  what the codes' nats buy
``covariate_part``        probes of covariates, disentanglement
``lesion_part``           lesions found by residuals
``norm_part``             deviation from healthy subjects
``reliability_part``      repeated scans of subjects compared
``viewer``                sliders, a pager, a scatter and a filter in the report
``report``                the HTML file
========================  ======================================================================================
"""

from .run import ModelEvaluation, check_evaluation

__all__ = ["ModelEvaluation", "check_evaluation"]
