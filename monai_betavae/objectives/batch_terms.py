"""Terms that compare the images of a batch: which losses take those of all processes, and where they act otherwise."""

from __future__ import annotations

import inspect
import warnings
from typing import Any


def takes_gathered(loss: Any) -> bool:
    """Return whether a loss compares the images of a batch and takes ``gathered``, those of all processes.

    A class of the user's that is derived from such an objective may have a ``__call__`` without it.

    Example:
        >>> from monai_betavae.objectives import DIPVAELoss, FreeBitsLoss
        >>> takes_gathered(DIPVAELoss()), takes_gathered(FreeBitsLoss())
        (True, False)
    """
    return bool(getattr(loss, "of_the_batch", False)) and "gathered" in inspect.signature(loss).parameters


def warn_of_batch_terms(loss: Any, decoder: Any, n_processes: int) -> None:
    """Warn of an objective whose terms compare the images of a batch, where they can't act as they should.

    Where a template corrects the encoder's codes, the posterior's mean is the mode that the correction finds: the
    gradient of a term by the mean has nowhere to go, and the term acts through variances alone. On several processes, a
    loss of the user's that doesn't take the images of all compares those of each process.

    Args:
        loss: the loss; one without ``of_the_batch`` has no such terms.
        decoder: the decoder; one without ``corrected_codes`` corrects none.
        n_processes: number of processes that share a batch.

    Example:
        >>> from monai_betavae.objectives import DIPVAELoss
        >>> warn_of_batch_terms(DIPVAELoss(), decoder=None, n_processes=2)
    """
    if not getattr(loss, "of_the_batch", False):
        return
    name = type(loss).__name__
    if n_processes > 1 and not takes_gathered(loss):
        warnings.warn(
            f"{name} compares the images of a batch, and each of the {n_processes} processes compares its own alone, "
            "since its __call__ doesn't take `gathered`, the posteriors and codes of all.",
            stacklevel=3,
        )
    correction = getattr(decoder, "correction", None)
    if correction is not None and getattr(decoder, "n_corrections", 0) > 0 and bool(correction.gain.any()):
        warnings.warn(
            f"{name} acts on the posteriors' means, which the template's correction of codes settles: it changes their "
            "variances alone. Switch the correction off: n_corrections=0, in the bundle --n_corrections 0.",
            stacklevel=3,
        )
