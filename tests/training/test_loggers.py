"""Loggers by name, each writing for real."""

import os

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger

from monai_betavae.training.loggers import LOGGERS, build_logger


def test_names(tmp_path):
    assert build_logger("none", tmp_path) is build_logger(None, tmp_path) is build_logger(False, tmp_path) is False
    own = CSVLogger(tmp_path)
    assert build_logger(own, tmp_path) is own
    with pytest.raises(ValueError, match=r"`logger` must be one of auto, tensorboard, mlflow, none, .*got 'wandb'"):
        build_logger("wandb", tmp_path)
    assert "auto" in LOGGERS


def test_tensorboard_is_the_default(tmp_path):
    logger = build_logger("auto", tmp_path)
    assert isinstance(logger, TensorBoardLogger)
    logger.log_metrics({"val/loss": 2.5}, step=3)
    logger.finalize("success")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (tmp_path / "tensorboard" / "version_0").glob("events*")
    accumulator = EventAccumulator(str(events)).Reload()
    assert [(event.step, event.value) for event in accumulator.Scalars("val/loss")] == [(3, 2.5)]


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_betavae.training.loggers.find_spec", lambda name: None)
    assert build_logger("auto", tmp_path) is False
    for name in ("tensorboard", "mlflow"):
        with pytest.raises(ValueError, match=f"`logger` '{name}' needs the package {name}: pip install {name}"):
            build_logger(name, tmp_path)


def test_mlflow_into_local_files(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    uri = (tmp_path / "run" / "mlruns").as_uri()
    logger = build_logger("mlflow", tmp_path / "run", tracking_uri=uri, experiment_name="brains", run_name="first")
    assert isinstance(logger, MLFlowLogger)
    logger.log_hyperparams({"beta": 4.0})
    logger.log_metrics({"val/loss": 2.5}, step=3)
    logger.finalize("success")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("brains").experiment_id])
    assert run.info.run_name == "first"
    assert run.data.params == {"beta": "4.0"}
    assert run.data.metrics == {"val/loss": 2.5}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing where the user stands


def test_mlflows_places(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "elsewhere").as_uri())
    assert build_logger("mlflow", tmp_path)._tracking_uri == (tmp_path / "elsewhere").as_uri()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr("monai_betavae.training.loggers.find_spec", lambda name: None if name == "alembic" else True)
    assert build_logger("mlflow", tmp_path)._tracking_uri == (tmp_path / "mlruns").as_uri()
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"


def test_mlflows_database_where_mlflow_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_betavae.training.loggers.find_spec", lambda name: True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from monai_betavae.training.loggers import _local_store

    assert _local_store(tmp_path / "new") == f"sqlite:///{tmp_path / 'new' / 'mlruns.db'}"
    assert (tmp_path / "new").is_dir()
