"""What surrounds the steps of a training run.

================  ==============================================================================================
``optimization``  optimizers, and how the learning rate changes
``callbacks``     the table of losses, the best weights, the seed of each step
``checkpoints``   the checkpoint after every epoch, and its position in the training
``divergence``    stop where numbers are not finite, warn where latents collapse or explode
``preemption``    signals that ask a run to end
``loggers``       TensorBoard, MLflow
================  ==============================================================================================
"""

from .callbacks import BestWeights, MetricsTable, WarmupAndDecay
from .checkpoints import LastCheckpoint
from .divergence import StopOnDivergence
from .loggers import build_logger
from .optimization import warmup_and_decay

__all__ = [
    "BestWeights",
    "LastCheckpoint",
    "MetricsTable",
    "StopOnDivergence",
    "WarmupAndDecay",
    "build_logger",
    "warmup_and_decay",
]
