"""Models on real volumes by cross-validation: held-out error, linear probes, calibration of the likelihood.

python benchmarks/real.py --data ../shared/data/hippocampus/hippocampus.csv --spacing 1 --spatial_shape "[48,64,48]"
    [--name hippocampus] [--latent_dim 32] [--n_folds 5] [--models "['ours, default', ...]"] [--work_dir folder]
    [--covariates "['total_mm3', ...]"]

Each subject is held out once. Of the others a tenth of the cohort is for validation, which gives the scale of the noise
and chooses the epoch whose weights count; the rest is for training. All models of a fold see the same volumes in the
same order. The error is the summed squared error of reconstructions from the posterior mean, relative to that of the
mean training image; a ratio to PCA's is of both sums, its interval a bootstrap over subjects. Probes are ridge
regressions, fitted on the codes of training subjects of each fold; R² is over the predictions for all held-out
subjects, and its difference from PCA's is paired by subject. Two supervised methods, which have no codes, say what the
images tell of the covariates: kernel ridge regression of all voxels, and a network of our encoder, trained to predict
all covariates at once, with the weights of the epoch that predicts those of the validation subjects best. Calibration
is the mean squared standardised residual of held-out voxels, the ideal is 1: under the model's own noise, or one scale
for all voxels from the validation volumes. What is in the working folder already is used again.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fire
import numpy as np
import peers
import torch
from measure import report
from numpy.typing import NDArray
from sklearn.decomposition import FactorAnalysis
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from monai_betavae import VAE
from monai_betavae.data import brain_transforms, discover
from monai_betavae.evaluation.intervals import estimate
from monai_betavae.evaluation.probes import r_squared
from monai_betavae.evaluation.reconstruction import (
    fit_pca,
    mean_image_reconstruction,
    reconstruct_by_pca,
    squared_error,
)
from monai_betavae.networks.builders import build_encoder, build_network
from monai_betavae.networks.correction import renew_gain
from monai_betavae.networks.noise import calibrate_noise, noise_of
from monai_betavae.networks.warm_start import warm_start
from monai_betavae.training import warmup_and_decay

Array = NDArray[Any]


class Fitted(NamedTuple):
    """A model: from images to codes, from images to reconstructions, and its noise's standard deviations, if any."""

    encode: Callable[[Array], Array]
    reconstruct: Callable[[Array], Array]
    deviation: Array | None = None


BATCH_SIZE, LEARNING_RATE, MAX_NOISE_VALUES = 4, 1e-3, 150_000
PCA, OURS = "PCA", "ours, default"
NETWORKS: dict[str, dict[str, Any]] = {
    OURS: {"noise": "auto"},
    "ours, a noise for each voxel": {"noise": "voxel"},
    "ours, without correction": {"n_corrections": 0},
    "ours, beta 4": {"noise": "auto", "beta": 4.0},
    "ours, linear start": {"warm_start": "linear"},
    "ours, convolutions from the mean image": {"warm_start": "mean"},
}
PEER = "MONAI VarAutoEncoder"
KERNEL, SUPERVISED = "supervised: kernel ridge", "supervised: our encoder"
MODELS = (PCA, "PCA, twice the components", "factor analysis", *NETWORKS, PEER, KERNEL, SUPERVISED)


def training_course(
    parameters: Any,
    step_loss: Callable[[Tensor], Tensor],
    training: Tensor,
    n_epochs: int,
    seed: int,
    after: Callable[[], None],
) -> None:
    """Train with the bundle's optimizer and learning rates; call ``after`` at the end of each epoch."""
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    n_steps = n_epochs * -(-len(training) // BATCH_SIZE)
    schedule = warmup_and_decay(optimizer, n_steps, warmup_steps=20, decay_fraction=0.4)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_epochs):
        for rows in torch.randperm(len(training), generator=generator).split(BATCH_SIZE):
            optimizer.zero_grad()
            step_loss(training[rows]).backward()
            optimizer.step()
            schedule.step()
        after()


class Best:
    """The weights of the epoch with the least validation error."""

    def __init__(self, network: nn.Module, reconstruct: Callable[[Array], Array], validation: Array) -> None:
        self.network, self.reconstruct, self.validation = network, reconstruct, validation
        self.error, self.weights = float("inf"), dict(network.state_dict())

    def __call__(self) -> None:
        """Look at the weights as they are."""
        error = float(squared_error(self.validation, self.reconstruct(self.validation)).mean())
        if error < self.error:
            self.error = error
            self.weights = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.train()


def in_parts(run: Callable[[Tensor], Tensor], images: Array) -> Array:
    """Return what a function of tensors gives for images, a few at a time."""
    with torch.no_grad():
        return np.concatenate(
            [run(torch.from_numpy(part)).numpy() for part in np.split(images, range(8, len(images), 8))]
        )


def fit_ours(
    training: Array,
    validation: Array,
    latent_dim: int,
    n_epochs: int,
    seed: int,
    beta: float = 1.0,
    **arguments: Any,
) -> Fitted:
    """Train our estimator."""
    torch.manual_seed(seed)
    network = build_network(training.shape[2:], latent_dim, random_state=seed, **arguments)
    vae = VAE.from_network(network, beta=beta, random_state=seed)
    volumes = torch.from_numpy(training)
    warm_start(vae, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(volumes), batch_size=8), seed=seed)
    encode = functools.partial(in_parts, lambda part: vae.encode(part).mean)
    reconstruct = functools.partial(in_parts, vae.reconstruct)
    best = Best(vae, reconstruct, validation)
    best()

    def after() -> None:
        renew_gain(vae)
        best()

    training_course(vae.parameters(), peers.our_loss(vae), volumes, n_epochs, seed, after)
    vae.load_state_dict(best.weights)
    calibrate_noise(vae, torch.from_numpy(validation).split(8))
    noise = noise_of(vae)
    return Fitted(encode, reconstruct, None if noise is None else noise.deviation().numpy())


def fit_peer(training: Array, validation: Array, latent_dim: int, n_epochs: int, seed: int) -> Fitted:
    """Train MONAI's VarAutoEncoder with the same loss."""
    from monai.networks.nets import VarAutoEncoder

    from monai_betavae import BetaVAELoss

    torch.manual_seed(seed)
    # its decoder ends on multiples of 2^levels: as the benchmark's grids are
    network: Any = VarAutoEncoder(3, training.shape[1:], 1, latent_dim, channels=peers.CHANNELS, strides=(2,) * 4)
    criterion = BetaVAELoss(beta=1.0)

    def loss(part: Tensor) -> Tensor:
        reconstruction, mu, logvar, _ = network(part)
        posterior = torch.distributions.Normal(mu, torch.exp(0.5 * logvar), validate_args=False)
        return criterion(part, reconstruction, posterior)["loss"]

    def encode(images: Array) -> Array:
        network.eval()
        return in_parts(lambda part: network.encode_forward(part)[0], images)

    def reconstruct(images: Array) -> Array:
        network.eval()
        return in_parts(lambda part: network.decode_forward(network.encode_forward(part)[0]), images)

    best = Best(network, reconstruct, validation)
    training_course(network.parameters(), loss, torch.from_numpy(training), n_epochs, seed, best)
    network.load_state_dict(best.weights)
    return Fitted(encode, reconstruct)


def fit_linear(name: str, training: Array, latent_dim: int, seed: int) -> Fitted:
    """Fit PCA, or factor analysis on the voxels that vary most, whose number its memory allows."""
    if name == "factor analysis":
        flat = training.reshape(len(training), -1)
        chosen = np.sort(np.argsort(-flat.var(axis=0), kind="stable")[:MAX_NOISE_VALUES])
        chosen = chosen[flat[:, chosen].var(axis=0) > 1e-8]
        model = FactorAnalysis(latent_dim, svd_method="lapack", max_iter=20, tol=1e-1, random_state=seed)
        model.fit(flat[:, chosen])

        def encode(images: Array) -> Array:
            found: Array = model.transform(images.reshape(len(images), -1)[:, chosen])
            return found

        def reconstruct(images: Array) -> Array:
            restored = mean_image_reconstruction(training, images).reshape(len(images), -1).copy()
            restored[:, chosen] = encode(images) @ model.components_ + model.mean_
            return restored.reshape(images.shape)

        return Fitted(encode, reconstruct)
    pca = fit_pca(training, latent_dim * (2 if "twice" in name else 1))
    return Fitted(
        lambda images: pca.transform(images.reshape(len(images), -1)),
        lambda images: reconstruct_by_pca(pca, images),
    )


def kernel_ridge(images: Array, values: Array, rows: Sequence[Array]) -> Array:
    """Return predictions for held-out subjects from all voxels; the penalty is chosen within the training subjects."""
    flat = torch.from_numpy(images).flatten(1).double()
    training, _, held_out = rows
    centred = flat - flat[training].mean(dim=0)
    products = (centred[training] @ centred[training].T).numpy()
    scale, mean = float(np.diag(products).mean()), float(values[training].mean())
    search = GridSearchCV(KernelRidge(kernel="precomputed"), {"alpha": np.logspace(-4, 3, 15)}, cv=5)
    search.fit(products / scale, values[training] - mean)
    found: Array = search.predict((centred[held_out] @ centred[training].T).numpy() / scale) + mean
    return found


def supervised_network(
    images: Array, targets: dict[str, Array], rows: Sequence[Array], n_epochs: int, seed: int
) -> dict[str, Array]:
    """Return predictions for held-out subjects by our encoder with a linear layer, trained on all covariates."""
    training, validation, held_out = rows
    values = np.stack(list(targets.values()), axis=1)
    mean, deviation = values[training].mean(axis=0), values[training].std(axis=0)
    wanted = torch.from_numpy((values - mean) / deviation).float()
    torch.manual_seed(seed)
    encoder = build_encoder(images.shape[2:])
    network = nn.Sequential(encoder, nn.Linear(encoder.out_dim, len(targets)))
    volumes, best = torch.from_numpy(images), {"error": float("inf"), "found": mean}
    order = torch.from_numpy(training)

    def step(places: Tensor) -> Tensor:
        batch = order[places.long()]
        return nn.functional.mse_loss(network(volumes[batch]), wanted[batch])

    def look() -> None:
        network.eval()
        error = float(np.square(in_parts(network, images[validation]) - wanted[validation].numpy()).mean())
        if error < best["error"]:
            best.update(error=error, found=in_parts(network, images[held_out]) * deviation + mean)
        network.train()

    training_course(network.parameters(), step, torch.arange(len(training)), n_epochs, seed, look)
    return dict(zip(targets, best["found"].T, strict=True))


def fold_rows(n_subjects: int, n_folds: int, fold: int) -> tuple[Array, Array, Array]:
    """Return the rows for training, for validation and held out."""
    order = np.random.default_rng(2026).permutation(n_subjects)
    held_out = order[fold::n_folds]
    rest = np.setdiff1d(order, held_out, assume_unique=True)
    rest = np.random.default_rng([2026, fold]).permutation(rest)
    n_validation = max(1, n_subjects // 10)
    return rest[n_validation:], rest[:n_validation], held_out


def run_fold(
    name: str,
    images: Array,
    targets: dict[str, Array],
    rows: Sequence[Array],
    latent_dim: int,
    n_epochs: int,
    seed: int,
) -> dict[str, Any]:
    """Fit a model on a fold's training volumes, and score it on those held out."""
    training, validation, held_out = (images[part] for part in rows)
    start = time.monotonic()
    if name == KERNEL:
        return {"predicted": {key: kernel_ridge(images, of, rows).tolist() for key, of in targets.items()}}
    if name == SUPERVISED:
        found = supervised_network(images, targets, rows, n_epochs, seed)
        return {"predicted": {key: of.tolist() for key, of in found.items()}}
    if name in NETWORKS:
        fitted = fit_ours(training, validation, latent_dim, n_epochs, seed, **NETWORKS[name])
    elif name == PEER:
        fitted = fit_peer(training, validation, latent_dim, n_epochs, seed)
    else:
        fitted = fit_linear(name, training, latent_dim, seed)
    encode, reconstruct = fitted.encode, fitted.reconstruct
    seconds = time.monotonic() - start
    codes, found = encode(training), encode(held_out)
    predicted = {}
    for target, values in targets.items():
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 5, 17)))
        predicted[target] = model.fit(codes, values[rows[0]]).predict(found).tolist()
    deviation = fitted.deviation
    if deviation is None:
        deviation = np.sqrt(np.square(validation - reconstruct(validation)).mean(dtype=np.float64))
    restored = reconstruct(held_out)
    errors = squared_error(held_out, restored)
    return {
        "errors": errors.tolist(),
        "mean image": squared_error(held_out, mean_image_reconstruction(training, held_out)).tolist(),
        "calibration": float(np.square((held_out - restored) / deviation).mean(dtype=np.float64)),
        "predicted": predicted,
        "seconds": seconds,
    }


def ratio_of_sums(first: Array, second: Array) -> float:
    """Return the ratio of two sums."""
    return float(first.sum() / second.sum())


def r_squared_difference(true: Array, ours: Array, other: Array) -> float:
    """Return how much better one prediction is than another."""
    return r_squared(true, ours) - r_squared(true, other)


def interval(found: Any, signed: bool = False) -> str:
    """Return an estimate with its interval."""
    form = "{:+.3f} ({:+.3f}–{:+.3f})" if signed else "{:.3f} ({:.3f}–{:.3f})"
    return form.format(found.value, found.low, found.high)


def tables_of(results: dict[str, list[dict[str, Any]]], targets: dict[str, Array], order: Array) -> dict[str, Any]:
    """Return the rows of all tables."""

    def together(name: str, key: str) -> Array:
        return np.concatenate([np.asarray(fold[key]) for fold in results[name]])

    errors, probes = [], []
    base = together(PCA, "mean image")
    for name, folds in results.items():
        if "errors" in folds[0]:
            found, pca = together(name, "errors"), together(PCA, "errors")
            errors.append(
                {
                    "model": name,
                    "error": interval(estimate(found, base, statistic=ratio_of_sums)),
                    "/ PCA's": interval(estimate(found, pca, statistic=ratio_of_sums)),
                    "calibration": float(np.mean([fold["calibration"] for fold in folds])),
                    "seconds per fold": float(np.mean([fold["seconds"] for fold in folds])),
                }
            )
        row: dict[str, Any] = {"model": name}
        for target, values in targets.items():
            true = values[order]
            predicted = np.concatenate([np.asarray(fold["predicted"][target]) for fold in folds])
            pcas = np.concatenate([np.asarray(fold["predicted"][target]) for fold in results[PCA]])
            row[target] = f"{r_squared(true, predicted):.3f}"
            if name != PCA:
                row[target] += ", " + interval(
                    estimate(true, predicted, pcas, statistic=r_squared_difference), signed=True
                )
        probes.append(row)
    return {"Held-out error": errors, "R² of covariates; minus PCA's": probes}


def main(
    data: str,
    spatial_shape: Sequence[int] = (64, 80, 64),
    spacing: float = 3.0,
    name: str = "",
    latent_dim: int = 32,
    n_epochs: int = 20,
    n_folds: int = 5,
    models: Sequence[str] = MODELS,
    covariates: Sequence[str] | None = None,
    work_dir: str | None = None,
    seed: int = 0,
) -> None:
    """Fit and score all models on all folds, and print the tables.

    Args:
        data: volumes, as any source of monai_betavae.data.discover: a BIDS folder, a table, a datalist.
        spatial_shape: voxels of the grid.
        spacing: of the grid, mm.
        name: of the result file; default: that of the data.
        latent_dim: number of latents, and of PCA's components.
        n_epochs: epochs of each network.
        n_folds: number of folds.
        models: names of models to fit; default: all, see MODELS.
        covariates: columns to predict from codes; default: quantities with more than 10 values.
        work_dir: folder for what is done, to go on from there; default: a temporary one.
        seed: of the trainings.
    """
    records = discover(data)
    transform: Any = brain_transforms(tuple(spatial_shape), spacing)
    images = np.stack([transform(record)["image"].numpy() for record in records])
    names = covariates or [
        key
        for key, value in records[0].items()
        if isinstance(value, int | float) and len({record[key] for record in records}) > 10
    ]
    targets = {key: np.array([float(record[key]) for record in records]) for key in names}
    folds = [fold_rows(len(records), n_folds, fold) for fold in range(n_folds)]
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(work_dir or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for model in [PCA, *(model for model in models if model != PCA)]:
            results[model] = []
            for number, rows in enumerate(folds):
                stored = folder / f"{model}_{latent_dim}_{n_epochs}_{number}.json"
                if not stored.is_file():
                    found = run_fold(model, images, targets, rows, latent_dim, n_epochs, seed)
                    stored.write_text(json.dumps(found), encoding="utf-8")
                results[model].append(json.loads(stored.read_text(encoding="utf-8")))
                print(f"{model}, fold {number}: done", flush=True)
    label = name or Path(data).stem
    report(
        f"real_{label}",
        f"Real volumes: {label}",
        tables_of(results, targets, np.concatenate([rows[2] for rows in folds])),
        notes=f"{len(records)} volumes on {'×'.join(map(str, spatial_shape))} voxels of {spacing:g} mm, {latent_dim} "
        f"latents, {n_epochs} epochs. Each subject" + (__doc__ or "").partition("\n\nEach subject")[2],
    )


if __name__ == "__main__":
    fire.Fire(main)
