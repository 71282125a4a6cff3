"""The beta-VAE for 3D brain MRI in the MONAI ecosystem.

====================  ==========================================================================================
``VAE``               the estimator: fit, transform, encode, decode, reconstruct, sample, save, load
``BetaVAELoss``       its loss
``build_vae``         estimator with networks made of MONAI's blocks, for any 2D or 3D shape
``build_encoder``     those networks alone
``build_decoder``
``adapters``          MONAI's ``VarAutoEncoder`` as a network of this package
``optimization``      the learning rate's course, factories of optimizers and schedulers
``warm_start``        where training starts: the mean image, PCA, a deformable template
``acceleration``      compile, recompute activations
``bundle_root``       the folder of the MONAI Bundle
``data``              discover, split_subjects, brain_transforms, simulate_cohort
``evaluation``        arrays in, numbers out
``plots``             arrays in, Figure out
``workflows``         what the bundle's configs call
====================  ==========================================================================================
"""

__version__ = "0.1.0"

from . import adapters, data, evaluation
from .bundle import bundle_root
from .estimator import VAE
from .losses import BetaVAELoss
from .models import build_vae
from .networks import build_decoder, build_encoder

__all__ = [
    "VAE",
    "BetaVAELoss",
    "adapters",
    "build_decoder",
    "build_encoder",
    "build_vae",
    "bundle_root",
    "data",
    "evaluation",
]
