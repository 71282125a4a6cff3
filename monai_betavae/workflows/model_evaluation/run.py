"""Evaluation on files: scores beside the baselines, tables per subject, pictures, and one report."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..._checks import check_choice, check_integer, check_seed
from ...data import CovariateCoding
from ...estimator import VAE
from ...evaluation.reconstruction import (
    PrincipalComponentModel,
    brain_mask,
    fit_pca,
    reconstruct_by_pca,
    reconstruction_scores,
    squared_error,
)
from ...evaluation.refinement import refined_codes
from ...networks.conditional_mean import n_covariates_of
from ...networks.latent_model import decode_array, latent_dim_of, reconstruct_array
from ...networks.modules import reconstruction_network
from ...networks.noise import noise_of
from ...networks.warm_start import variance_of
from ...plots import channel_labels, plot_activity, plot_losses, save_figure
from ...saving.atomic_files import atomic_path, write_table
from ..covariates import Unseen
from ..data_checks import held_out_warnings
from ..model_description import check_likelihood
from ..records import MIN_EVALUATED, Record, is_simulated, is_working_process
from ..trained_model import check_outputs
from ..training_course import epochs_text, overfitting_text
from .covariate_part import disentanglement_part, probes_part
from .lesion_part import LESION_KINDS, anomaly_part
from .model_parts import generation_part, latents_part, likelihood_part, reconstruction_part
from .norm_part import HealthyResiduals, normative_part
from .part import MEAN_RESIDUAL_NAME, MIN_TO_FIT, PCA_NAME, REFINED_NAME, VAE_NAME, Part, replace_non_finite
from .rate_distortion_part import rate_distortion_part
from .reliability_part import reliability_part
from .report import Report
from .report_texts import NEEDS, SIMULATED, few_subjects, notes_on_covariates, pca_text, verdict
from .subjects import (
    Subjects,
    add_truth,
    embed,
    is_healthy,
    output_mean,
    run_records,
    side_by_side,
    spacing_of,
    training_summary,
)
from .viewer import viewer_part

Array = NDArray[Any]

EVALUATION_FOLDER, SUBJECTS_FILE, SUMMARY_FILE, REPORT_FILE = (
    "evaluation",
    "reconstruction.csv",
    "scores.json",
    "report.html",
)
PARTS = (
    "reconstruction",
    "likelihood",
    "latents",
    "rate_distortion",
    "probes",
    "disentanglement",
    "anomaly",
    "normative",
    "reliability",
    "generation",
    "viewer",
)


def check_evaluation(
    output_dir: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    overwrite: bool = False,
    training_output_dir: str | os.PathLike[str] | None = None,
) -> None:
    """Check that an evaluation has weights to run, and no report to overwrite.

    Raises:
        ValueError: naming the file that is missing or in the way.

    Example:
        >>> try:
        ...     check_evaluation("out", "out/model.pt")
        ... except ValueError as error:
        ...     print(str(error).split(":")[0])
        out/model.pt must be the model.pt of a training run, and doesn't exist
    """
    check_outputs(Path(output_dir) / EVALUATION_FOLDER / SUMMARY_FILE, checkpoint, overwrite, training_output_dir)


class ModelEvaluation:
    """Evaluate a trained model on volumes, beside PCA and the mean training image.

    Writes into ``<output_dir>/evaluation``: ``report.html``, one page with everything in it; ``scores.json``; a table
    per subject for each part (``reconstruction.csv``, ``likelihood.csv``, ``predictions.csv``, ``deviation.csv``);
    ``reliability.csv``, a row per latent; and the pictures. A part without its data is left out, and the report says
    so: lesions without masks, disentanglement without known factors, reliability without repeated scans. The training
    run's ``split.json`` names the training subjects. If a launcher started several processes, the first does
    everything.

    Args:
        network: module with ``encoder``, ``decoder``, ``fc_mu`` and ``fc_logvar``.
        records: the volumes to evaluate.
        dataloader: loader of their samples from :func:`~monai_betavae.data.brain_transforms`, whose dataset is in their
            order; its sampler doesn't count.
        inferer: MONAI inferer that calls the network; of a conditional one, it gets the coded covariates as a further
            argument, which it passes on.
        transform: from a record to a sample.
        likelihood: what the model was trained with, {"distribution": ..., "beta": ...}.
        output_dir: folder of the results.
        training_output_dir: folder of the training run.
        device: where to compute.
        seed: seed of everything random.
        parts: which parts of :data:`PARTS` to run; ``None`` for all.
        n_samples: draws per subject of the importance-weighted likelihood.
        n_reference: maximum number of training subjects that are used.
        covariates: names to probe; ``None`` for all.
        lesions: "dark", "bright" or "both".
        refinement_steps: Gauss-Newton steps by which codes are refined and scored beside the encoder's; see
            :func:`~monai_betavae.evaluation.refinement.refined_codes`. They take about a second per volume.
        batch_size: volumes at once.
        num_workers: processes that load training volumes.
        coding: coding of the covariates that a conditional network was trained with, see
            :func:`~monai_betavae.workflows.trained_covariates`. Images are encoded and decoded with the covariates of
            their records. Traversals and samples are at the average subject of the training.
        unseen: for levels that training had none of, as in :meth:`~monai_betavae.data.CovariateCoding.rows`.
        contrasts: names of the channels of a model of several, for the pictures. Scores are over all channels; the
            brain mask and the lesions are those of the first one.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> from monai_betavae.networks import build_network
        >>> network, likelihood = build_network((8, 8, 8), 2), {"distribution": "normal", "beta": 1.0}
        >>> try:
        ...     ModelEvaluation(network, [], [], None, None, likelihood, "out", "out", parts=["looks"])
        ... except ValueError as error:
        ...     print(str(error)[:62])
        `parts` must be one of 'reconstruction', 'likelihood', 'latent
    """

    def __init__(
        self,
        network: nn.Module,
        records: Sequence[Record],
        dataloader: Iterable[Mapping[str, Any]],
        inferer: Callable[..., Tensor],
        transform: Callable[..., Any],
        likelihood: Mapping[str, Any],
        output_dir: str | os.PathLike[str],
        training_output_dir: str | os.PathLike[str],
        device: torch.device | str = "cpu",
        seed: int = 0,
        parts: Sequence[str] | None = None,
        n_samples: int = 50,
        n_reference: int = 500,
        covariates: Sequence[str] | None = None,
        lesions: str = "dark",
        refinement_steps: int = 0,
        batch_size: int = 4,
        num_workers: int = 0,
        coding: CovariateCoding | None = None,
        unseen: Unseen | None = None,
        contrasts: Sequence[str] | None = None,
    ) -> None:
        self.contrasts = contrasts
        self.network: Any = reconstruction_network(network)
        self.coding = _checked_coding(self.network, coding, unseen)
        self.unseen = unseen
        self.records = records
        self.dataloader = dataloader
        self.inferer = inferer
        self.transform = transform
        self.likelihood = check_likelihood(likelihood)
        self.output_dir = Path(output_dir) / EVALUATION_FOLDER
        self.training_output_dir = Path(training_output_dir)
        self.device = torch.device(device)
        self.seed = check_seed("seed", seed) or 0
        self.parts = [check_choice("parts", name, PARTS) for name in (PARTS if parts is None else parts)]
        self.n_samples = check_integer("n_samples", n_samples, minimum=1)
        self.n_reference = check_integer("n_reference", n_reference, minimum=0)
        self.covariates = covariates
        self.lesions = check_choice("lesions", lesions, LESION_KINDS)
        self.refinement_steps = check_integer("refinement_steps", refinement_steps, minimum=0)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._pca: PrincipalComponentModel | None = None

    def run(self) -> None:
        """Evaluate, write everything, and say what came out.

        Raises:
            ValueError: if the loader gives no volume, others than the records say, or one that can't be used.
        """
        if not is_working_process("Evaluation"):
            return
        records = [add_truth(record) for record in self.records]
        simulated = is_simulated(records)
        groups = {
            part: self._embedded(members, f"{part} subjects")
            for part, members in run_records(self.training_output_dir, self.n_reference).items()
        }
        training, validation = groups["training"], groups["validation"]
        if len(training.images) > 1:
            self._pca = fit_pca(training.images, latent_dim_of(self.network), self.seed)
        rows: list[dict[str, Any]] = []
        mean_image = self._mean_image(training)
        held_out = embed(
            self.network,
            self.dataloader,
            records,
            self.device,
            description="evaluated subjects",
            on_batch=lambda batch, images, given: rows.extend(self._rows(batch, images, given, mean_image)),
            coding=self.coding,
            unseen=self.unseen,
        )
        if not rows:
            raise ValueError("`dataloader` must give at least one volume, got none.")
        found = list(self._evaluated(held_out, training, validation, rows, mean_image, simulated))
        self._write(found, held_out, training, simulated)

    def _embedded(self, records: Sequence[Record], description: str) -> Subjects:
        from monai.data import Dataset

        loader: DataLoader[Any] = DataLoader(
            Dataset(list(records), self.transform), batch_size=self.batch_size, num_workers=self.num_workers
        )
        return embed(
            self.network,
            loader if records else [],
            records,
            self.device,
            description=description,
            coding=self.coding,
            unseen=self.unseen,
        )

    @property
    def conditional(self) -> tuple[str, ...]:
        """The covariates that the model is conditional on."""
        return () if self.coding is None else self.coding.names

    def _mean_image(self, training: Subjects) -> Array | None:
        if len(training.images):
            mean: Array = training.images.mean(axis=0)
            return mean
        return output_mean(self.network)

    def _rows(
        self, batch: Mapping[str, Any], images: Tensor, covariates: Tensor | None, mean_image: Array | None
    ) -> list[dict[str, Any]]:
        volumes = images.float().numpy()
        mask = brain_mask(volumes[:, 0])
        given = () if covariates is None else (covariates,)
        restored = self.inferer(images.to(self.device), self.network, *given).float().cpu().numpy()
        scores = reconstruction_scores(volumes, restored, mask=mask)
        if self._pca is not None:
            pca = reconstruction_scores(volumes, reconstruct_by_pca(self._pca, volumes), mask=mask)
            scores |= {f"{name}_pca": values for name, values in pca.items()}
        if mean_image is not None:
            scores["sse_mean_image"] = squared_error(volumes, np.broadcast_to(mean_image, volumes.shape))
        subjects, paths = batch.get("subject"), batch["image_path"]
        return [
            {
                "subject": None if subjects is None else subjects[index],
                "image": paths[index],
                **{name: float(values[index]) for name, values in scores.items()},
            }
            for index in range(len(volumes))
        ]

    def _refined(self, subjects: Subjects) -> Array:
        noise = noise_of(self.network)
        weight = torch.ones(()) if noise is None else noise.weight()
        return refined_codes(
            lambda codes, *given: self.network.decode(codes, *given) * weight,
            subjects.images * weight.cpu().numpy(),
            subjects.mu,
            # what the loss, SSE + beta KL, stands for
            variance=variance_of(**self.likelihood),
            n_steps=self.refinement_steps,
            device=self.device,
            progress=True,
            covariates=subjects.shown_covariates,
        )

    def _restored(self, subjects: Subjects) -> Array:
        return reconstruct_array(
            self.network, subjects.images, self.device, self.batch_size, covariates=subjects.shown_covariates
        )

    def _estimator(self) -> VAE:
        given = self.likelihood
        return VAE.from_network(self.network, beta=given["beta"], default_dist=given["distribution"])

    def _evaluated(
        self,
        held_out: Subjects,
        training: Subjects,
        validation: Subjects,
        rows: list[dict[str, Any]],
        mean_image: Array | None,
        simulated: bool,
    ) -> Iterable[Part]:
        """Yield the parts that there are data for."""
        import pandas as pd
        from tqdm.auto import tqdm

        label = "simulated" if simulated else ""
        restored = self._restored(held_out)
        healthy = [i for i, record in enumerate(validation.records) if is_healthy(record)]
        codes = {VAE_NAME: (training.mu, held_out.mu)}
        complete = len(training.images) == len(training) and len(held_out.images) == len(held_out)
        refined = None
        if self.refinement_steps and complete:
            codes[REFINED_NAME] = self._refined(training), self._refined(held_out)
            refined = decode_array(
                self.network,
                codes[REFINED_NAME][1],
                self.device,
                self.batch_size,
                covariates=held_out.shown_covariates,
            )
        if self._pca is not None and complete:
            codes[PCA_NAME] = _codes(self._pca, training.images), _codes(self._pca, held_out.images)

        def anomaly() -> Part | None:
            validated = self._restored(validation)
            of = {VAE_NAME: (restored, validated)}
            if self._pca is not None and len(validation.images):
                of[PCA_NAME] = (
                    reconstruct_by_pca(self._pca, held_out.images),
                    reconstruct_by_pca(self._pca, validation.images),
                )
            if mean_image is not None:
                of[MEAN_RESIDUAL_NAME] = (
                    np.broadcast_to(mean_image, held_out.images.shape),
                    np.broadcast_to(mean_image, validation.images.shape),
                )
            ours, theirs = ({name: pair[i] for name, pair in of.items()} for i in range(2))
            part = anomaly_part(held_out, ours, validation, theirs, self.transform, self.lesions, self.seed, label)
            n_channels = held_out.images.shape[1]
            if part is not None and n_channels > 1:
                first = channel_labels(n_channels, self.contrasts)[0]
                part.text(f"Lesions are looked for in the first channel alone, {first}.")
            return part

        def normative() -> Part | None:
            # codes of training subjects spread wider than new ones' where the encoder knows them by heart
            enough = len(healthy) >= MIN_TO_FIT
            reference, whose = (validation, "validation") if enough else (training, "training")
            kept = [row for row, index in enumerate(validation.shown) if index in healthy]
            validated = None
            if kept:
                volumes, given = validation.images[kept], validation.shown_covariates
                given = None if given is None else given[kept]
                fitted = reconstruct_array(self.network, volumes, self.device, self.batch_size, covariates=given)
                mask = np.tile(brain_mask(volumes[:, 0]).mean(axis=0) >= 0.5, (volumes.shape[1], 1, 1))
                validated = HealthyResiduals(side_by_side(volumes - fitted), mask, given)
            ours = side_by_side(held_out.images - restored)
            return normative_part(
                held_out, _healthy(reference), ours, validated, whose, self.coding, label, self.contrasts
            )

        def disentanglement() -> Part | None:
            groups = [training, held_out]
            return disentanglement_part(groups, {name: list(each) for name, each in codes.items()}, self.seed)

        done: dict[str, Part] = {}

        def viewer() -> Part:
            norm = done.get("normative")
            table = None if norm is None else norm.files["deviation.csv"]
            return viewer_part(
                self.network,
                held_out,
                training,
                restored,
                _scores_of_volumes(pd.DataFrame(rows), table),
                None if norm is None else norm.z,
                self.device,
                self.seed,
                self.conditional,
            )

        makers: dict[str, Callable[[], Part | None]] = {
            "reconstruction": lambda: reconstruction_part(
                held_out, pd.DataFrame(rows), restored, simulated, self.seed, refined, self.contrasts
            ),
            "likelihood": lambda: likelihood_part(self._estimator(), held_out, self.n_samples, self.seed),
            "latents": lambda: latents_part(
                self.network, held_out, training, simulated, self.seed, self.device, self.conditional, self.contrasts
            ),
            "rate_distortion": lambda: rate_distortion_part(
                self.network, held_out, restored, self._pca, mean_image, self.device, label
            ),
            "probes": lambda: probes_part(
                held_out,
                training,
                codes,
                self.covariates,
                "control" if simulated else None,
                self.seed,
                label=label,
                conditional=self.conditional,
            ),
            "disentanglement": disentanglement,
            "anomaly": anomaly,
            "normative": normative,
            "reliability": lambda: reliability_part(
                held_out, training, codes, self.covariates, self.seed, label, self.conditional
            ),
            "generation": lambda: generation_part(
                self.network,
                held_out,
                training,
                simulated,
                self.seed,
                self.device,
                conditional=self.conditional,
                contrasts=self.contrasts,
            ),
            "viewer": viewer,
        }
        # the viewer is last: it shows what other parts found
        bar = tqdm(sorted(self.parts, key=lambda name: name == "viewer"), desc="evaluating", unit="part")
        for name in bar:
            bar.set_postfix_str(name)
            part = makers[name]()
            if part is not None:
                done[name] = part
                yield part

    def _write(self, found: Sequence[Part], held_out: Subjects, training: Subjects, simulated: bool) -> None:
        about = training_summary(self.training_output_dir)
        n_subjects = _n_subjects(held_out)
        summary: dict[str, Any] = {
            "n_volumes": len(held_out),
            "n_subjects": n_subjects,
            "simulated": simulated,
            "latent_dim": latent_dim_of(self.network),
            "conditional_on": list(self.conditional),
            "pca_components": None if self._pca is None else self._pca.n_components_,
            **{part.name: part.scores for part in found},
        }
        messages = [f"{part.title}: {message}" for part in found for message in part.warnings]
        messages = [*notes_on_covariates(self.coding, held_out.records, self.unseen), *messages]
        if n_subjects < MIN_EVALUATED:
            messages.insert(0, few_subjects(n_subjects))
        if "losses" in about:
            # weights before the first epoch are kept where no epoch has a lower validation loss
            start = -math.inf if about.get("best_epoch") == 0 else math.inf
            overfitted = overfitting_text(about["losses"], start)
            messages += [overfitted] if overfitted is not None else []
        messages[:0] = held_out_warnings(self.records, self.training_output_dir)
        summary["warnings"] = messages
        for part in found:
            for name, table in part.files.items():
                write_table(table, self.output_dir / name)
            for name, (volume, affine) in part.maps.items():
                with atomic_path(self.output_dir / name) as temporary:
                    nib.save(nib.Nifti1Image(volume, affine), temporary)
            for name, picture in part.pictures.items():
                if isinstance(picture, bytes):
                    with atomic_path(self.output_dir / name) as temporary:
                        temporary.write_bytes(picture)
                else:
                    save_figure(picture, self.output_dir / name)
        self._report(found, messages, about, held_out, training, simulated).write(self.output_dir / REPORT_FILE)
        # the last: with it the evaluation counts as done
        with atomic_path(self.output_dir / SUMMARY_FILE) as temporary:
            temporary.write_text(
                json.dumps(replace_non_finite(summary), indent=1, allow_nan=False) + "\n", encoding="utf-8"
            )
        self._print_summary(summary)

    def _report(
        self,
        found: Sequence[Part],
        messages: Sequence[str],
        about: Mapping[str, Any],
        held_out: Subjects,
        training: Subjects,
        simulated: bool,
    ) -> Report:
        n_voxels = int(np.prod(held_out.images.shape[1:]))
        of = "simulated brains" if simulated else "brain volumes"
        report = Report(f"beta-VAE of {of}", f"{len(held_out)} volumes evaluated with seed {self.seed}")
        report.section("What this is")
        if simulated:
            report.note(SIMULATED, "plain")
        for message in messages:
            report.note(message)
        if not messages:
            report.note("No warning: no collapse, no subject of the training, no baseline that is better.", "good")
        reconstruction = next((part.scores for part in found if part.name == "reconstruction"), {})
        if (text := verdict(reconstruction)) is not None:
            report.note(text, "plain")
        report.facts(self._facts(about, held_out, training, n_voxels))
        # what a reader can move comes before the pictures
        for part in found:
            if part.name == "viewer":
                part.write_to(report)
        if "losses" in about or "activity" in about:
            report.section("Training")
        if "losses" in about:
            figure = plot_losses(about["losses"], "simulated" if simulated else "")
            report.figure(figure, "Losses per epoch of the training run.")
        if "activity" in about:
            figure = plot_activity(about["activity"], "simulated" if simulated else "")
            report.figure(figure, "Latent dimensions on the validation subjects, by epoch of the training run.")
        for part in found:
            if part.name != "viewer":
                part.write_to(report)
        left_out = [name for name in self.parts if name not in {part.name for part in found}]
        if left_out:
            report.section("Left out")
            report.facts({name.replace("_", " "): NEEDS.get(name, "no data for it") for name in left_out})
        report.section("Limits")
        report.text(
            "Intervals are bootstrap intervals over the evaluated subjects: how much another sample of subjects would "
            "change a score, not another training run. The numbers are in scores.json, the tables per subject beside "
            "this page."
        )
        return report

    def _facts(self, about: Mapping[str, Any], held_out: Subjects, training: Subjects, n_voxels: int) -> dict[str, Any]:
        import lightning
        import monai

        from ... import __version__

        split, beta = about.get("split"), self.likelihood["beta"]
        shape = "×".join(str(side) for side in held_out.images.shape[2:])
        spacing = "×".join(f"{side:.3g}" for side in spacing_of(held_out.affines[0]))
        n_weights = sum(weights.numel() for weights in self.network.parameters())
        # other objectives may have a beta of another meaning, such as the weight of the total correlation
        weight = "beta" if about.get("objective", "beta-vae") == "beta-vae" else "weight of the KL divergence"
        facts: dict[str, Any] = {
            "model": f"{latent_dim_of(self.network)} latent dimensions, {n_weights / 1e6:.2f} million weights",
            "grid": f"{shape} voxels of {spacing} mm; N = {n_voxels}",
            "likelihood": self.likelihood["distribution"],
            **({"conditional on": ", ".join(self.conditional)} if self.conditional else {}),
            weight: f"{beta:g}; beta / N = {beta / n_voxels:.3g}",
        }
        if "objective" in about:
            facts["objective"] = about["objective"]
        if split is not None:
            facts["split of the training run"] = ", ".join(f"{n} {part}" for part, n in split.items()) + " volumes"
        if "losses" in about:
            facts["epochs"] = epochs_text(len(about["losses"].get("epoch", [])), about.get("best_epoch"))
        facts["evaluated"] = f"{len(held_out)} volumes of {_n_subjects(held_out)} subjects"
        if self._pca is not None:
            facts["PCA"] = pca_text(self._pca, latent_dim_of(self.network), len(training.images))
        if len(training):
            facts["compared with"] = f"{len(training)} training volumes: PCA, probes and the norm are fitted to them"
        facts["versions"] = (
            f"monai_betavae {__version__}, torch {torch.__version__}, monai {monai.__version__}, "
            f"lightning {lightning.__version__}"
        )
        return facts

    def _print_summary(self, summary: Mapping[str, Any]) -> None:
        label = ", simulated" if summary["simulated"] else ""
        lines = [f"Evaluated: {summary['n_volumes']} volumes{label}"]
        scores = summary.get("reconstruction", {})
        if scores:
            ratios = "".join(
                f", {scores[key]['value']:.2f} of {whose}"
                for key, whose in (
                    ("sse_ratio", "the mean training image's"),
                    ("sse_ratio_to_pca", f"that of PCA with {summary['pca_components']} components"),
                )
                if key in scores
            )
            lines.append(f"  summed squared error {scores['sse']['value']:.0f}{ratios}")
            if scores.get("ssim_brain"):
                lines.append(
                    f"  in the brain: PSNR {scores['psnr_brain']['value'] or float('inf'):.2f} dB, "
                    f"SSIM {scores['ssim_brain']['value']:.3f}"
                )
        lines += [f"  Warning: {message}" for message in summary["warnings"]]
        lines.append(f"Report:  {self.output_dir / REPORT_FILE}")
        lines.append(f"Tables:  {self.output_dir}/*.csv, {self.output_dir / SUMMARY_FILE}")
        print("\n".join(lines))


def _scores_of_volumes(table: Any, deviation: Any | None) -> dict[str, Array]:
    """Return the scores that a viewer shows of each volume, by what it calls them."""
    names = {"sse": "summed squared error", "psnr_brain": "PSNR in the brain [dB]", "ssim_brain": "SSIM in the brain"}
    found = {text: table[name].to_numpy(dtype=float) for name, text in names.items() if name in table}
    if deviation is None:
        return found
    names = {
        "latent_deviation": "latent deviation",
        "p": "p of the latent deviation",
        "residual_deviation": "residual deviation",
        "p_residual": "p of the residual deviation",
        "deviating_voxels": "deviating voxels",
    }
    return found | {text: deviation[name].to_numpy(dtype=float) for name, text in names.items() if name in deviation}


def _codes(pca: PrincipalComponentModel, images: Array) -> Array:
    return pca.transform(images.reshape(len(images), -1))


def _n_subjects(subjects: Subjects) -> int:
    """Return how many people there are; a volume that says none is of one of its own."""
    return len(set(subjects.people.tolist()))


def _checked_coding(network: Any, coding: Any, unseen: Unseen | None) -> CovariateCoding | None:
    """Return the coding, or raise ``ValueError`` if the network doesn't take what it gives."""
    taken = n_covariates_of(network)
    if coding is None:
        if taken:
            raise ValueError(
                f"`coding` must be given, as the network is conditional on {taken} coded covariates: the "
                "CovariateCoding that it was trained with, see trained_covariates; got None."
            )
        if unseen is not None:
            raise ValueError(f"`unseen` must be None for a network that isn't conditional, got {unseen!r:.200}.")
        return None
    if not isinstance(coding, CovariateCoding):
        raise ValueError(f"`coding` must be a CovariateCoding or None, got {type(coding).__name__}.")
    if coding.n_columns != taken:
        accepted = (
            f"have the {taken} columns that the network takes"
            if taken
            else "be None for a network that isn't conditional"
        )
        raise ValueError(f"`coding` must {accepted}, got {coding.n_columns} columns of {', '.join(coding.names)}.")
    coding.rows([], unseen=unseen)  # refuses an `unseen` that doesn't fit before any volume is read
    return coding


def _healthy(subjects: Subjects) -> Subjects:
    """Return the codes of the subjects of whom no illness is known; images aren't needed."""
    rows = [row for row, record in enumerate(subjects.records) if is_healthy(record)]
    records = [subjects.records[row] for row in rows]
    return Subjects(
        records,
        subjects.mu[rows],
        subjects.logvar[rows],
        subjects.images[:0],
        subjects.shown[:0],
        subjects.affines[:0],
        None if subjects.covariates is None else subjects.covariates[rows],
    )
