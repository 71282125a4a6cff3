"""The beta-VAE for 3D brain MRI in the MONAI ecosystem.

===================  ===========================================================================================
``VAE``              the estimator: fit, transform, encode, decode, reconstruct, sample, save, load
``BetaVAELoss``      its loss
``build_vae``        estimator with networks made of MONAI's blocks, for any 2D or 3D shape
``build_encoder``    those networks alone
``build_decoder``
``bundle_root``      the folder of the MONAI Bundle
``transformer``      the same model for arrays, scikit-learn's pipelines and searches
``networks``         encoders, decoders, the posterior, warm starts, MONAI's ``VarAutoEncoder``
``objectives``       free bits, capacity, beta-TCVAE, DIP-VAE, InfoVAE, sigma-VAE, schedules of beta
``training``         optimizers, the learning rate, callbacks, checkpoints, loggers
``saving``           files that are written completely and read without executing anything
``batches``          batches of a loader as plain tensors, in order
``data``             discover, split_subjects, brain_transforms, simulate_cohort
``evaluation``       scores of arrays
``plots``            figures of arrays
``workflows``        what the bundle's configs call
``command``          ``monai-betavae``: short forms of the bundle's commands
===================  ===========================================================================================
"""

__version__ = "0.1.0"

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import data, evaluation, networks, objectives, training
    from .bundle import bundle_root
    from .estimator import VAE
    from .losses import BetaVAELoss
    from .models import build_vae
    from .networks import build_decoder, build_encoder

__all__ = [
    "VAE",
    "BetaVAELoss",
    "build_decoder",
    "build_encoder",
    "build_vae",
    "bundle_root",
    "data",
    "evaluation",
    "networks",
    "objectives",
    "training",
]

_MODULE_OF = {
    "VAE": "estimator",
    "BetaVAELoss": "losses",
    "build_decoder": "networks",
    "build_encoder": "networks",
    "build_vae": "models",
    "bundle_root": "bundle",
}
_MODULES = {
    "batches", "command", "data", "evaluation", "networks", "objectives", "plots", "saving", "training", "transformer",
    "workflows",
}  # fmt: skip


if not TYPE_CHECKING:  # type checkers then report a name that doesn't exist

    def __getattr__(name):
        # torch, MONAI and Lightning take 10 s to import: they are imported by the first name that needs them, so that
        # `monai-betavae --help` and a mistyped command are answered at once
        if name in _MODULES:
            return importlib.import_module(f".{name}", __name__)
        if name in _MODULE_OF:
            value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_MODULE_OF})
