"""Experiment tracking: the Lightning logger of a run."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger

LOGGERS = ("auto", "tensorboard", "mlflow", "none")
"""Names that :func:`build_logger` accepts."""


def build_logger(
    name: str | bool | Logger | None,
    output_dir: str | os.PathLike[str],
    tracking_uri: str | None = None,
    experiment_name: str = "monai_betavae",
    run_name: str | None = None,
) -> Logger | Literal[False]:
    """Return the logger of a run, for ``lightning.pytorch.Trainer(logger=...)``.

    Args:
        name: "auto" (TensorBoard if it is installed, else none), "tensorboard" (event files in
            ``<output_dir>/tensorboard``), "mlflow", "none", or a Lightning logger, which is returned unchanged.
        output_dir: folder of the run.
        tracking_uri: tracking URI of MLflow. Default: ``$MLFLOW_TRACKING_URI``, else the SQLite database
            ``<output_dir>/mlruns.db``, or with ``mlflow-skinny``, which has no database, files in
            ``<output_dir>/mlruns``.
        experiment_name: name of the MLflow experiment.
        run_name: name of the MLflow run.

    Returns:
        the logger, or ``False`` for no logger.

    Raises:
        ValueError: for another name, or if the logger's package isn't installed.

    Example:
        >>> build_logger("none", "output")
        False
    """
    if isinstance(name, Logger):
        return name
    if name in (None, False, "none"):
        return False
    if name == "auto" or name is True:
        return _tensorboard(output_dir) if find_spec("tensorboard") else False
    if name == "tensorboard":
        _require("tensorboard", name)
        return _tensorboard(output_dir)
    if name == "mlflow":
        _require("mlflow", name)
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or _local_store(Path(output_dir))
        artifacts = (Path(output_dir).resolve() / "mlruns").as_uri() if uri.startswith(("sqlite:", "file:")) else None
        return MLFlowLogger(experiment_name, run_name, uri, artifact_location=artifacts)
    raise ValueError(f"`logger` must be one of {', '.join(LOGGERS)}, or a Lightning logger, got {name!r}.")


def _tensorboard(output_dir: str | os.PathLike[str]) -> TensorBoardLogger:
    return TensorBoardLogger(os.fspath(output_dir), name="tensorboard")


def _local_store(output_dir: Path) -> str:
    output_dir = output_dir.resolve()
    if find_spec("sqlalchemy") and find_spec("alembic"):
        output_dir.mkdir(parents=True, exist_ok=True)  # SQLite doesn't create folders
        return f"sqlite:///{output_dir / 'mlruns.db'}"
    # since 3.13 MLflow uses its file store on request only, and without a database there is no other store
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return (output_dir / "mlruns").as_uri()


def _require(package: str, name: Any) -> None:
    if find_spec(package) is None:
        raise ValueError(f"`logger` {name!r} needs the package {package}: pip install {package}.")
