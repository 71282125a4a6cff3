"""Random changes of training volumes, made with MONAI's transforms, that keep the anatomy plausible."""

from __future__ import annotations

import math
from typing import Any

from monai.data import Dataset
from monai.transforms import (
    Compose,
    EnsureTyped,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    ScaleIntensityRanged,
)

from ..._checks import check_real, check_seed
from ..._randomness import derived_seed


def augmentation(
    *,
    probability: float = 0.5,
    rotation: float = 3.0,
    translation: float = 1.0,
    scaling: float = 0.03,
    contrast: float = 0.1,
    intensity: float = 0.05,
    noise: float = 0.02,
    flip: bool = False,
    image_key: str = "image",
    seed: int | None = 0,
) -> Compose:
    """Make random changes for samples of :func:`~monai_betavae.data.brain_transforms`, whose images are in [0, 1].

    Each kind of change is drawn independently, with the same probability; a strength of 0 leaves it out. Flips are off
    by default, since flipping changes the anatomy wherever left and right differ.

    Args:
        probability: probability of each change, in [0, 1].
        rotation: largest rotation around each axis, degrees.
        translation: largest shift along each axis, voxels.
        scaling: largest relative change of size along each axis.
        contrast: the image is raised to a power of 1 - contrast to 1 + contrast.
        intensity: largest relative change of all intensities.
        noise: largest standard deviation of added Gaussian noise.
        flip: whether to exchange left and right (the first axis).
        image_key: key of the image.
        seed: seed of the draws; ``None`` for different draws every time.

    Returns:
        a MONAI ``Compose`` that maps a sample to a sample with a plain float32 image in [0, 1].

    Raises:
        ValueError: if an argument is invalid; the message names it.

    Example:
        >>> import torch
        >>> sample = {"image": torch.rand(1, 8, 8, 8)}
        >>> one, other = (augmentation(seed=1)(sample)["image"] for _ in range(2))
        >>> torch.equal(one, other), torch.equal(one, sample["image"])
        (True, False)
    """
    check_real("probability", probability, 0, 1)
    strengths = {
        "rotation": check_real("rotation", rotation, 0, 180),
        "translation": check_real("translation", translation, 0),
        "scaling": check_real("scaling", scaling, 0, 0.9),
        "contrast": check_real("contrast", contrast, 0, 0.9),
        "intensity": check_real("intensity", intensity, 0, 0.9),
        "noise": check_real("noise", noise, 0),
    }
    steps: list[Any] = []
    if flip:
        steps.append(RandFlipd(image_key, prob=probability, spatial_axis=0))
    if strengths["rotation"] or strengths["translation"] or strengths["scaling"]:
        steps.append(
            RandAffined(
                image_key,
                prob=probability,
                rotate_range=[math.radians(rotation)] * 3,
                translate_range=[translation] * 3,
                scale_range=[scaling] * 3,
                mode="bilinear",
                padding_mode="zeros",
            )
        )
    if contrast:
        steps.append(RandAdjustContrastd(image_key, prob=probability, gamma=(1 - contrast, 1 + contrast)))
    if intensity:
        steps.append(RandScaleIntensityd(image_key, factors=intensity, prob=probability))
    if noise:
        steps.append(RandGaussianNoised(image_key, prob=probability, std=noise))
    steps += [
        ScaleIntensityRanged(image_key, 0.0, 1.0, 0.0, 1.0, clip=True),
        EnsureTyped(image_key, track_meta=False),
    ]
    composed = Compose(steps)
    if seed is not None:
        # numpy seeds have 32 bits
        composed.set_random_state(seed=derived_seed(seed, "augmentation") % 2**32)
    return composed


class AugmentedDataset(Dataset):
    """A dataset whose samples are changed randomly at every access.

    With a seed, the change of an item depends only on the seed, the epoch and the item, not on the order of reading,
    the process or the point at which a run resumes. :class:`~monai_betavae.data.GlobalOrder` sets the epoch.
    (MONAI's ``DataLoader``, when it is made, seeds the transforms of its dataset from torch's generator.)

    Args:
        plain: the dataset without changes.
        transform: the changes.
        seed: seed of the changes; with ``None`` they are drawn one after the other.

    Attributes:
        plain: the dataset without changes, for uses that need the original volumes: a warm start, PCA, a mean image.
        epoch: number of the epoch.

    Example:
        >>> import torch
        >>> dataset = AugmentedDataset([{"image": torch.rand(1, 8, 8, 8)}], augmentation(probability=1), seed=3)
        >>> first, again = dataset[0]["image"], dataset[0]["image"]
        >>> dataset.set_epoch(1)
        >>> torch.equal(first, again), torch.equal(first, dataset[0]["image"])
        (True, False)
    """

    def __init__(self, plain: Any, transform: Compose, seed: int | None = None) -> None:
        super().__init__(plain, transform)
        self.plain = plain
        self.seed = check_seed("seed", seed)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch."""
        self.epoch = epoch

    def _transform(self, index: int) -> Any:
        if self.seed is not None:
            drawn = derived_seed(self.seed, f"augmentation of item {index} in epoch {self.epoch}")
            self.transform.set_random_state(seed=drawn % 2**32)  # numpy seeds have 32 bits
        return super()._transform(index)
