"""The parts of a training run around its steps.

===================  ===========================================================================================
``optimizers``       the default AdamW, or one that the user's factory makes
``learning_rate``    how the learning rate changes, and how its schedule resumes
``callbacks``        the table of losses, the best weights
``latent_activity``  the KL divergence of each latent dimension, epoch by epoch
``progress``         one bar for the whole training, or a line per epoch
``step_seeds``       seeds that follow from the numbers of epoch and step
``checkpoints``      the checkpoint after every epoch, and its position in the training
``divergence``       stop where numbers are not finite, warn where latents collapse or explode
``preemption``       signals that ask a run to end
``loggers``          TensorBoard, MLflow
``device``           the device and the precision that ``fit`` would use
``running_trainer``  what a Lightning Trainer knows and doesn't say
===================  ===========================================================================================
"""

from .callbacks import BestWeights, MetricsTable, WarmupAndDecay
from .checkpoints import LastCheckpoint
from .divergence import StopOnDivergence
from .latent_activity import LatentActivity
from .learning_rate import warmup_and_decay
from .loggers import build_logger
from .progress import TrainingProgress
from .step_seeds import StepSeeds

__all__ = [
    "BestWeights",
    "LastCheckpoint",
    "LatentActivity",
    "MetricsTable",
    "StepSeeds",
    "StopOnDivergence",
    "TrainingProgress",
    "WarmupAndDecay",
    "build_logger",
    "warmup_and_decay",
]
