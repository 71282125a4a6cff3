"""Checks for normalisation layers that can't train on a batch of one image, before training and when they fail.

In training, batch normalisation needs more than one value per channel. It fails for a batch of one image where the
feature map has one value per channel, as at the end of an encoder. The last batch of an epoch often has one image.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader

VALUE, VOXEL = "Expected more than 1 value per channel", "Expected more than 1 spatial element"
"""Beginnings of torch's error messages for batch and for instance normalisation."""

ADVICE = (
    "Give the DataLoader drop_last=True or another batch_size; to the bundle, --train#dataloader#drop_last True or "
    "--batch_size <n>."
)


def check_lone_images(model: nn.Module, loader: Any, n_processes: int, run: Callable[[], Any]) -> None:
    """Refuse a loader with a batch of one image if a batch normalisation layer can't be trained on it.

    Args:
        model: model with the layers.
        loader: loader of the training images; only a torch ``DataLoader`` of known length is checked.
        n_processes: number of processes that share the images.
        run: function that runs the model on one image in eval mode; if it raises, nothing is checked.

    Raises:
        ValueError: naming the batch, the layer and the remedy.

    Example:
        >>> import torch
        >>> layer = nn.BatchNorm1d(3)
        >>> loader = DataLoader(list(range(7)), batch_size=3)
        >>> try:
        ...     check_lone_images(nn.Sequential(layer), loader, 1, lambda: layer.eval()(torch.zeros(1, 3)))
        ... except ValueError as error:
        ...     print(str(error).split(". ")[0])
        training batch 2 is of one image (7 in batches of 3), which the batch normalisation in `0` can't be trained on
    """
    number = lone_batch(loader, n_processes)
    layer = None if number is None else lone_layer(model, run)
    if layer is not None:
        raise ValueError(
            f"training batch {number} is of one image ({len(loader.sampler)} in batches of {loader.batch_size}), which "
            f"the batch normalisation in `{layer}` can't be trained on. {ADVICE}"
        )


def lone_batch(loader: Any, n_processes: int = 1) -> int | None:
    """Return the number of the loader's batch of one image; ``None`` if it has none or it isn't known.

    Example:
        >>> [lone_batch(DataLoader(list(range(n)), batch_size=3)) for n in (6, 7, 1)]
        [None, 2, 0]
    """
    if not isinstance(loader, DataLoader) or type(loader.batch_sampler) is not BatchSampler or loader.drop_last:
        return None
    size = loader.batch_size
    try:
        n_items = math.ceil(len(loader.sampler) / n_processes)  # type: ignore[arg-type]  # one without a length is caught
    except TypeError:
        return None
    return (n_items - 1) // size if size and (n_items - 1) % size == 0 else None


def lone_layer(model: nn.Module, run: Callable[[], Any]) -> str | None:
    """Return the name of a batch normalisation layer in training mode that gets one value per channel.

    Args:
        model: model with the layers.
        run: as in :func:`check_lone_images`.
    """
    normal = nn.modules.batchnorm._BatchNorm
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, normal) and layer.training}
    found: list[str] = []

    def noting(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            values = inputs[0] if inputs else None
            if isinstance(values, Tensor) and values.ndim > 1 and values.numel() == values.shape[1]:
                found.append(name)

        return note

    hooks = [layer.register_forward_pre_hook(noting(name)) for name, layer in layers.items()]
    try:
        # a model that can't run here reports its error in training
        with contextlib.suppress(Exception):
            if layers:
                run()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


@contextlib.contextmanager
def naming_lone_values(where: str) -> Iterator[None]:
    """Replace torch's error about a normalisation layer by one that names the images and the remedy.

    Args:
        where: description of the images, for the message.

    Raises:
        ValueError: in place of torch's error.
    """
    try:
        yield
    except ValueError as error:
        if str(error).startswith(VALUE):
            raise ValueError(
                f"{where} is of one image, which batch normalisation can't be trained on ({error}). {ADVICE}"
            ) from error
        if str(error).startswith(VOXEL):
            raise ValueError(
                f"{where}: instance normalisation can't be trained on maps of one voxel ({error}). Use fewer levels, "
                "or another normalisation there."
            ) from error
        raise
