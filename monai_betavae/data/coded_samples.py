"""Samples with their coded covariates, for a model that is told them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform

from .tables.covariate_coding import CovariateCoding


class CodeCovariatesd(MapTransform):
    """Add the coded covariates of a sample, which are computed from the sample's own entries.

    It comes before the preprocessing, which then keeps only the result, so that all samples have the same keys:
    ``Compose([CodeCovariatesd(coding), brain_transforms(shape, keep=("subject", "covariates"))])``. An entry that a
    sample lacks is missing. A missing value or one far outside the training range is warned of, as
    :meth:`CovariateCoding.rows` describes; the text doesn't name the sample, so Python shows it once.

    Args:
        coding: the coding, or the description of one.
        unseen: for a category's levels that training had none of, the known level that each is coded as, or ``None``
            for the average: ``{"site": {"C": "A", "D": None}}``.
        key: key of the result, a float32 tensor of shape (``coding.n_columns``,).

    Raises:
        ValueError: if an argument isn't as described, or if, when applied, :meth:`CovariateCoding.rows` refuses
            a value.

    Example:
        >>> coding = CovariateCoding.fit([{"site": site} for site in "AAAB"], ["site"])
        >>> sample = CodeCovariatesd(coding)({"image": torch.zeros(1, 4, 4, 4), "site": "B"})
        >>> sample["covariates"]
        tensor([-0.7500,  0.7500])
    """

    def __init__(
        self,
        coding: CovariateCoding | Mapping[str, Any],
        unseen: Mapping[str, Mapping[str, str | None]] | None = None,
        key: str = "covariates",
    ) -> None:
        self.coding = coding if isinstance(coding, CovariateCoding) else CovariateCoding.from_description(coding)
        super().__init__(self.coding.names, allow_missing_keys=True)
        if not isinstance(key, str) or key in self.coding.names:
            raise ValueError(f"`key` must be a text that isn't the name of a covariate, got {key!r}.")
        self.coding.rows([], unseen=unseen)  # refuses what it can't use before the first sample
        self.unseen = unseen
        self.key = key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with its coded covariates."""
        own = {name: data[name] for name in self.coding.names if name in data}
        return {**data, self.key: torch.from_numpy(self.coding.rows([own], unseen=self.unseen)[0])}
