"""What a loader yields, turned into the plain image tensor that everything computes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

MAX_VALUE = 1e15
"""Largest magnitude of an image that a model takes: the squared errors of ten million such voxels add up in float32."""

NAME_KEYS = ("subject", "image_path")
"""Keys of a dictionary batch that say which volumes it holds, for messages."""


COMPUTING_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Floating-point types that images keep; all others become float32."""


def plain_tensor(value: Tensor) -> Tensor:
    """Return ``value`` without its subclass, sharing its memory.

    A ``MetaTensor`` slows every operation down and makes the loss a ``MetaTensor`` too, which Lightning then
    stores in the checkpoint, where ``torch.load(weights_only=True)`` refuses it.
    """
    return value if type(value) is Tensor else value.as_subclass(Tensor)


def image_tensor(batch: Any, image_key: str = "image") -> Tensor:
    """Turn a batch of any kind into a plain floating-point tensor of images.

    Args:
        batch: a tensor; a ``MetaTensor``; a tuple or list whose first item is the images; or a dictionary
            with the images under ``image_key``.
        image_key: key of the images in a dictionary.

    Returns:
        tensor of shape (batch, ...), floating-point, of class ``torch.Tensor``.

    Raises:
        ValueError: if the batch is of another kind, lacks the key, holds no image, or complex numbers.

    Example:
        >>> images = torch.zeros(2, 1, 8, 8, 8)
        >>> image_tensor({"image": images, "subject": ["sub-1", "sub-2"]}) is images
        True
    """
    if isinstance(batch, Tensor):
        images = plain_tensor(batch)
    elif isinstance(batch, Mapping):
        if image_key not in batch:
            raise ValueError(
                f"`image_key` must be a key of the batch, got {image_key!r}; the batch has "
                f"{', '.join(repr(key) for key in batch)}."
            )
        return image_tensor(batch[image_key], image_key)
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes) and len(batch) > 0:
        return image_tensor(batch[0], image_key)
    else:
        raise ValueError(
            "`batch` must be a tensor, a tuple or list with the images first, or a dictionary with the images under "
            f"{image_key!r}, got {type(batch).__name__}."
        )
    if images.ndim < 2 or images.numel() == 0:
        raise ValueError(f"`batch` must hold at least one image, as (batch, ...), got shape {tuple(images.shape)}.")
    if images.is_complex():
        raise ValueError(f"`batch` must hold real numbers, got {images.dtype}; take a magnitude or a part.")
    # a type of 8 bits is floating-point too, but nothing computes in it
    return images if images.dtype in COMPUTING_TYPES else images.float()


def batch_targets(batch: Any, target_key: str = "label", n_images: int | None = None) -> Tensor:
    """Return a batch's targets as a plain CPU tensor: the second item, or what stands under ``target_key``.

    Args:
        batch: a tuple or list ``(images, targets, ...)``, or a dictionary.
        target_key: key of the targets in a dictionary.
        n_images: number of images in the batch, if the targets are to have a row for each.

    Raises:
        ValueError: if the batch has none, they aren't numbers, or they haven't a row for each image.
    """
    if isinstance(batch, Mapping):
        if target_key not in batch:
            raise ValueError(
                f"`target_key` must be a key of the batch, got {target_key!r}; the batch has "
                f"{', '.join(repr(key) for key in batch)}."
            )
        targets = batch[target_key]
    elif isinstance(batch, Sequence) and len(batch) >= 2:
        targets = batch[1]
    else:
        raise ValueError(
            "`transform_with_targets` takes batches (images, targets) or dictionaries, got "
            f"{type(batch).__name__} without targets."
        )
    try:
        rows = plain_tensor(torch.as_tensor(targets)).detach().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"The targets of a batch must be numbers, got {targets!r:.80}.") from error
    if n_images is not None and (rows.ndim == 0 or len(rows) != n_images):
        raise ValueError(
            f"The targets of a batch must have a row for each of its {n_images} images, got shape {tuple(rows.shape)}."
        )
    return rows


def item_names(batch: Any) -> list[str]:
    """Return the names of a dictionary batch's volumes, or an empty list if the batch says none."""
    if isinstance(batch, Mapping):
        for key in NAME_KEYS:
            names = batch.get(key)
            if isinstance(names, Sequence) and not isinstance(names, str):
                return [str(name) for name in names]
    return []


def check_images(
    images: Tensor,
    where: str,
    names: Sequence[str] = (),
    *,
    probabilities: bool = False,
    largest: float = math.inf,
    what: str = "images",
) -> None:
    """Raise ``ValueError`` if an image has a non-finite value, or, for a Bernoulli likelihood, one outside [0, 1].

    Args:
        images: plain tensor of shape (batch, ...).
        where: which batch this is, for the message.
        names: the names of its volumes, if they are known.
        probabilities: whether values must lie in [0, 1].
        largest: largest accepted magnitude.
        what: what they are if not images, for the message.
    """
    # one pass over memory; a NaN anywhere makes both NaN
    low, high = (float(bound) for bound in torch.aminmax(images.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        counts = (~images.detach().flatten(1).isfinite()).sum(1).tolist()
        bad = [index for index, count in enumerate(counts) if count]
        shown = ", ".join(
            f"item {index}" + (f" ({names[index]})" if index < len(names) else "") + f" with {counts[index]}"
            for index in bad[:5]
        )
        raise ValueError(f"The {what} of {where} must be finite, got non-finite values in {shown}.")
    if probabilities and (low < 0 or high > 1):
        raise ValueError(
            f"The {what} of {where} must lie in [0, 1] for `default_dist` 'bernoulli', "
            f"got values from {low:g} to {high:g}."
        )
    if max(-low, high) > largest:
        raise ValueError(
            f"The {what} of {where} must have values of at most {largest:g} in magnitude, got values from {low:g} "
            f"to {high:g}."
        )
