"""Evaluation on files: how well each subject is reconstructed, and what that comes to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..batches import check_images, image_tensor, item_names
from ..evaluation.reconstruction import reconstruction_scores, squared_error
from ..files import atomic_path
from .records import is_simulated
from .trained_model import check_outputs

EVALUATION_FOLDER, SUBJECTS_FILE, SUMMARY_FILE = "evaluation", "reconstruction.csv", "scores.json"


def check_evaluation(
    output_dir: str | os.PathLike[str], checkpoint: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Refuse to start without weights, or over an existing evaluation; see :func:`~.trained_model.check_outputs`."""
    check_outputs(Path(output_dir) / EVALUATION_FOLDER / SUMMARY_FILE, checkpoint, overwrite)


class ReconstructionEvaluation:
    """Score the reconstruction of every volume of a loader.

    Writes ``<output_dir>/evaluation/reconstruction.csv``, one row per volume in input order (subject, image, sse, mse,
    mae, psnr, ssim, and sse_mean_image where the network's output started at the mean training image), and
    ``scores.json`` beside it with count, mean, standard deviation, median and extremes of each. Intensities are those
    of the preprocessing, [0, 1], over the whole field of view.

    Args:
        network: module; calling it reconstructs.
        dataloader: loader of samples from :func:`~monai_betavae.data.brain_transforms`.
        inferer: MONAI inferer that calls the network.
        output_dir: folder of the run.
        device: where to compute.
        image_key: key of the images in a batch.
    """

    def __init__(
        self,
        network: nn.Module,
        dataloader: Iterable[Mapping[str, Any]],
        inferer: Callable[..., Tensor],
        output_dir: str | os.PathLike[str],
        device: torch.device | str = "cpu",
        image_key: str = "image",
    ) -> None:
        self.network = network
        self.dataloader = dataloader
        self.inferer = inferer
        self.output_dir = Path(output_dir) / EVALUATION_FOLDER
        self.device = torch.device(device)
        self.image_key = image_key

    def run(self) -> None:
        """Score all volumes, write table and summary, and say what came out."""
        import pandas as pd
        from tqdm.auto import tqdm

        rows: list[dict[str, Any]] = []
        self.network.to(self.device).eval()
        with torch.inference_mode():
            for batch in tqdm(self.dataloader, desc="evaluating", unit="batch"):
                images = image_tensor(batch, self.image_key)
                check_images(images, f"the batch after {len(rows)} volumes", item_names(batch))
                reconstructions = self.inferer(images.to(self.device), self.network).float().cpu()
                rows += self._rows(batch, images, reconstructions)
        if not rows:
            raise ValueError("`dataloader` must give at least one volume, got none.")
        table = pd.DataFrame(rows)
        summary = self._summary(table)
        with atomic_path(self.output_dir / SUBJECTS_FILE) as temporary:
            table.to_csv(temporary, index=False)
        with atomic_path(self.output_dir / SUMMARY_FILE) as temporary:
            temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        self._say(summary)

    def _rows(self, batch: Mapping[str, Any], images: Tensor, reconstructions: Tensor) -> list[dict[str, Any]]:
        scores = reconstruction_scores(images.numpy(), reconstructions.numpy())
        mean_image = _output_mean(self.network, images.shape[1:])
        if mean_image is not None:
            scores["sse_mean_image"] = squared_error(images.numpy(), np.broadcast_to(mean_image, images.shape))
        subjects, paths = batch.get("subject"), batch[f"{self.image_key}_path"]
        return [
            {
                "subject": None if subjects is None else subjects[index],
                "image": paths[index],
                **{name: float(values[index]) for name, values in scores.items()},
            }
            for index in range(len(images))
        ]

    def _summary(self, table: Any) -> dict[str, Any]:
        scores = table.drop(columns=["subject", "image"])
        statistics = {name: _statistics(scores[name].to_numpy(dtype=float)) for name in scores.columns}
        summary: dict[str, Any] = {
            "n_volumes": len(table),
            "simulated": is_simulated(table.to_dict("records")),
            "latent_dim": getattr(getattr(self.network, "fc_mu", None), "out_features", None),
            **statistics,
        }
        if "sse_mean_image" in statistics:
            summary["sse_ratio"] = statistics["sse"]["mean"] / statistics["sse_mean_image"]["mean"]
        return summary

    def _say(self, summary: Mapping[str, Any]) -> None:
        label = ", simulated" if summary["simulated"] else ""
        ratio = f", {summary['sse_ratio']:.2f} of the mean training image's" if "sse_ratio" in summary else ""
        print(
            f"Reconstruction ({summary['n_volumes']} volumes{label}), mean ± standard deviation over subjects:\n"
            f"  summed squared error {_spread(summary['sse'], '.0f')}{ratio}\n"
            f"  MSE {_spread(summary['mse'], '.5f')}, MAE {_spread(summary['mae'], '.4f')}, "
            f"PSNR {_spread(summary['psnr'], '.2f')} dB, SSIM {_spread(summary['ssim'], '.3f')}\n"
            f"Tables:  {self.output_dir / SUBJECTS_FILE}, {self.output_dir / SUMMARY_FILE}"
        )


def _output_mean(network: nn.Module, shape: Sequence[int]) -> np.ndarray[Any, Any] | None:
    """Return the mean training image that the decoder's output started at, if it has one."""
    decoder = getattr(network, "decoder", None)
    mean = getattr(decoder, "output_mean", None)
    if not isinstance(mean, Tensor) or tuple(mean.shape) != tuple(shape):
        return None
    mean = torch.sigmoid(mean) if getattr(decoder, "sigmoid", False) else mean
    return mean.float().cpu().numpy()


def _statistics(values: np.ndarray[Any, Any]) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _spread(statistics: Mapping[str, float], form: str) -> str:
    return f"{statistics['mean']:{form}} ± {statistics['sd']:{form}}"
