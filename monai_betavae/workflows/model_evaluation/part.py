"""A part of an evaluation: its scores, tables, pictures, and its section of the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...evaluation.intervals import Estimate
from .report import Report, interval_text

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]

VAE_NAME, REFINED_NAME, PCA_NAME = "this model", "this model, refined codes", "PCA"
MEAN_NAME, MEAN_RESIDUAL_NAME, INTENSITY_NAME = "mean training image", "mean image residual", "intensity threshold"
METHOD_KEYS = {
    VAE_NAME: "model",
    REFINED_NAME: "refined",
    PCA_NAME: "pca",
    MEAN_RESIDUAL_NAME: "mean_image",
    INTENSITY_NAME: "intensity",
}

MIN_TO_FIT = 20
"""Smallest number of subjects to which a probe or a norm is fitted."""


class Part:
    """Results of one part, whose content is added in the order of the report.

    Args:
        name: name of the part in ``scores.json``.
        title: heading of the part in the report.

    Attributes:
        scores: entries for ``scores.json``.
        files: tables by file name.
        pictures: figures, or the bytes of a GIF, by file name.
        maps: volumes with their 4x4 affines, by file name, ``.nii.gz``, in a folder of their own or not.
        z: maps of the deviation of all subjects whose images are kept, of the first channel, for the viewer; ``None``
            without them.
        warnings: messages that readers must not miss, repeated at the top of the report.
    """

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title
        self.scores: dict[str, Any] = {}
        self.files: dict[str, pd.DataFrame] = {}
        self.pictures: dict[str, Figure | bytes] = {}
        self.maps: dict[str, tuple[Array, Array]] = {}
        self.z: Array | None = None
        self.warnings: list[str] = []
        self._content: list[tuple[str, tuple[Any, ...]]] = []

    def text(self, paragraph: str) -> None:
        """Add a paragraph."""
        self._content.append(("text", (paragraph,)))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> None:
        """Add a table."""
        self._content.append(("table", (columns, list(rows), caption)))

    def picture(self, file_name: str, picture: Figure | bytes, caption: str) -> None:
        """Add a picture, which is also written to its own file."""
        self.pictures[file_name] = picture
        self._content.append(("figure", (picture, caption)))

    def widget(self, markup: str, style: str, script: str, data: Mapping[str, Any]) -> None:
        """Add something that a script moves, as :meth:`~.report.Report.widget` takes it."""
        self._content.append(("widget", (markup, style, script, data)))

    def warn(self, message: str) -> None:
        """Add a warning."""
        self.warnings.append(message)
        self._content.append(("note", (message,)))

    def write_to(self, report: Report) -> None:
        """Add the part to a report as a section."""
        report.section(self.title)
        for method, arguments in self._content:
            getattr(report, method)(*arguments)


def method_key(method: str) -> str:
    """Return the key of a method in ``scores.json``."""
    return METHOD_KEYS.get(method, method)


def conditional_text(names: Sequence[str]) -> str:
    """Return what the codes of a model are that is conditional on covariates, as the first words of a sentence.

    Example:
        >>> conditional_text(["age", "sex"])
        'The model is conditional on age, sex: its codes are what is left of the images without them'
    """
    them = "it" if len(names) == 1 else "them"
    return f"The model is conditional on {', '.join(names)}: its codes are what is left of the images without {them}"


def covariate_label(name: str, conditional: Sequence[str]) -> str:
    """Return a covariate's name for a table, with a mark if the model is conditional on it."""
    return f"{name} (conditioned on)" if name in conditional else name


def format_estimate(values: Estimate) -> str:
    """Return a score with its interval as text for a table."""
    return interval_text(*values)


def as_dict(values: Estimate) -> dict[str, float | None]:
    """Return a score with its interval as a dictionary for JSON."""
    return {
        "value": replace_non_finite(values.value),
        "low": replace_non_finite(values.low),
        "high": replace_non_finite(values.high),
    }


def replace_non_finite(value: Any) -> Any:
    """Return nested values as plain numbers for JSON, with ``None`` for numbers that aren't finite."""
    if isinstance(value, Mapping):
        return {str(key): replace_non_finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(entry) for entry in value]
    if hasattr(value, "tolist"):
        return replace_non_finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
