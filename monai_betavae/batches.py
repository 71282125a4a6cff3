"""What a loader yields, turned into the plain image tensor that everything computes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

NAME_KEYS = ("subject", "image_path")
"""Keys of a dictionary batch that say which volumes it holds, for messages."""


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
        ValueError: if the batch is of another kind, lacks the key, or holds no image.

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
    if images.ndim < 2 or len(images) == 0:
        raise ValueError(f"`batch` must hold at least one image, as (batch, ...), got shape {tuple(images.shape)}.")
    return images if images.is_floating_point() else images.float()


def batch_targets(batch: Any, target_key: str = "label") -> Tensor:
    """Return a batch's targets as a plain CPU tensor: the second item, or what stands under ``target_key``.

    Raises:
        ValueError: if the batch has none, or they aren't numbers.
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
        return plain_tensor(torch.as_tensor(targets)).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"The targets of a batch must be numbers, got {targets!r:.80}.") from error


def item_names(batch: Any) -> list[str]:
    """Return the names of a dictionary batch's volumes, or an empty list if the batch says none."""
    if isinstance(batch, Mapping):
        for key in NAME_KEYS:
            names = batch.get(key)
            if isinstance(names, Sequence) and not isinstance(names, str):
                return [str(name) for name in names]
    return []


def check_images(images: Tensor, where: str, names: Sequence[str] = (), *, probabilities: bool = False) -> None:
    """Raise ``ValueError`` if an image has a non-finite value, or, for a Bernoulli likelihood, one outside [0, 1].

    Args:
        images: plain tensor of shape (batch, ...).
        where: which batch this is, for the message.
        names: the names of its volumes, if they are known.
        probabilities: whether values must lie in [0, 1].
    """
    flat = images.detach().flatten(1)
    # the sum of finite values can overflow to infinity, but no sum that has a NaN or an infinity in it is finite:
    # one pass over memory in the usual case, the exact look only when something seems wrong
    if not bool(flat.sum().isfinite()):
        counts = (~flat.isfinite()).sum(1).tolist()
        bad = [index for index, count in enumerate(counts) if count]
        if bad:
            shown = ", ".join(
                f"item {index}" + (f" ({names[index]})" if index < len(names) else "") + f" with {counts[index]}"
                for index in bad[:5]
            )
            raise ValueError(f"The images of {where} must be finite, got non-finite values in {shown}.")
    if probabilities:
        low, high = float(flat.min()), float(flat.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"The images of {where} must lie in [0, 1] for `default_dist` 'bernoulli', "
                f"got values from {low:g} to {high:g}."
            )
