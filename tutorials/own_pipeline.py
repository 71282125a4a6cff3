# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A MONAI pipeline of your own networks and transforms
#
# Take `VAE` as one part of a pipeline whose other parts are yours: MONAI's transforms and augmentation, networks built
# from MONAI's blocks, a Lightning Trainer with its callbacks and logger, NIfTI files of the reconstructions on each
# file's own grid, and a scikit-learn pipeline on the latents.
#
# `python tutorials/own_pipeline.py my_folder` takes about two minutes on two CPU cores and keeps everything in
# `my_folder`. To open this script as a notebook: `pip install jupytext`, then
# `jupytext --to ipynb tutorials/own_pipeline.py`.

# %%
import os
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from monai import transforms
from monai.data import CacheDataset, DataLoader, Dataset
from monai.networks.blocks import Convolution, ResidualUnit, UpSample
from monai.utils import set_determinism
from PIL import Image
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from monai_betavae import VAE, data
from monai_betavae.evaluation import estimate, pca_codes, pca_reconstruction, squared_error
from monai_betavae.evaluation.probes import r_squared
from monai_betavae.plots import plot_losses, plot_reconstructions, save_figure

folder = Path(sys.argv[1]) if len(sys.argv) == 2 and __name__ == "__main__" else Path(tempfile.mkdtemp())
SIZES = {"full": {"n_subjects": 160, "max_epochs": 30}, "small": {"n_subjects": 24, "max_epochs": 3}}
size = SIZES[os.environ.get("TUTORIAL_SIZE", "full")]

# %% [markdown]
# ## The data
# `TUTORIAL_DATA` names a source of your own: a MONAI datalist, a CSV file, a BIDS folder, or any other that `discover`
# accepts. Set the grid for it with `TUTORIAL_SPACING` (mm) and `TUTORIAL_SHAPE` (voxels, multiples of 8). For the
# hippocampus crops of the Medical Segmentation Decathlon these are 1 and 48,64,48. Without `TUTORIAL_DATA` a cohort is
# simulated.
#
# All records of a subject fall into one part. Every choice below is made on validation subjects, and the held-out
# subjects are scored once.

# %%
source = os.environ.get("TUTORIAL_DATA")
note = "" if source else " (simulated)"
spacing = float(os.environ.get("TUTORIAL_SPACING", "6"))
shape = tuple(int(side) for side in os.environ.get("TUTORIAL_SHAPE", "32,40,32").split(","))
latent_dim = 16
if source is None:
    source = folder / "cohort"
    if not source.is_dir():
        data.simulate_cohort(source, size["n_subjects"], seed=5, spacing=spacing, lesion_fraction=0.0, progress=False)
records = data.discover(source)
training, validation, held_out = data.split_subjects(records, (0.65, 0.1, 0.25), seed=5)
print(f"{len(training)} training, {len(validation)} validation and {len(held_out)} held-out volumes{note}")

# %% [markdown]
# ## Transforms
# Most steps are MONAI's. Two are the package's: `ScaleBrainIntensityd` scales to [0, 1] and notes the range, and
# `ToPlainSampled` ends a sample in plain tensors and keeps what the way back needs: affine and shape of the file's
# grid. `CacheDataset` runs these steps once.
#
# The random steps apply to training samples alone, at each access. They are small, so that the anatomy stays plausible.
# There is no flip: it would exchange left and right. `set_determinism` seeds the random steps, the order and the noise
# of training.

# %%
set_determinism(seed=1)
preprocessing = transforms.Compose(
    [
        transforms.LoadImaged("image", ensure_channel_first=True),
        transforms.Orientationd("image", axcodes="RAS", labels=None),
        transforms.Spacingd("image", pixdim=(spacing,) * 3, mode="bilinear"),
        data.ScaleBrainIntensityd("image", percentiles=(0.5, 99.5), background="auto"),
        transforms.ResizeWithPadOrCropd("image", shape, mode="edge"),
        data.ToPlainSampled("image", keep=["subject"]),
    ]
)
augmentation = transforms.Compose(
    [
        transforms.RandAffined(
            "image", prob=0.5, rotate_range=[0.05] * 3, scale_range=[0.03] * 3, padding_mode="border"
        ),
        transforms.RandGaussianNoised("image", prob=0.5, std=0.02),
        transforms.EnsureTyped("image", track_meta=False),
    ]
)
parts = {"training": training, "validation": validation, "held out": held_out}
datasets = {part: CacheDataset(listed, preprocessing, progress=False) for part, listed in parts.items()}
train_loader = DataLoader(Dataset(datasets["training"], augmentation), batch_size=4, shuffle=True)
loaders = {part: DataLoader(dataset, batch_size=8) for part, dataset in datasets.items()}
print("A batch:", {key: getattr(value, "shape", len(value)) for key, value in next(iter(train_loader)).items()})

# %% [markdown]
# ## Networks
# The encoder maps images to a vector of features per image. The decoder maps codes to images of the same shape. `VAE`
# adds the two linear layers between them, `fc_mu` and `fc_logvar`. Any two modules with these shapes will do; here
# they are built from MONAI's blocks. If you want MONAI's `VarAutoEncoder` as it is, call
# `monai_betavae.networks.build_var_autoencoder` and pass the result to `VAE.from_network`.
#
# `AddImage` adds the mean training image to the decoder's output, so that the network learns what differs between
# subjects. It is a buffer, and therefore part of the state dict.

# %%
GROUPS = ("group", {"num_groups": 4})


class AddImage(nn.Module):
    """Add a fixed image."""

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("image", image)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.image


images = {part: torch.stack([sample["image"] for sample in dataset]) for part, dataset in datasets.items()}
start = [side // 8 for side in shape]
n_features = 32 * int(np.prod(start))
encoder = nn.Sequential(
    Convolution(3, 1, 8, strides=2, norm=GROUPS),
    ResidualUnit(3, 8, 16, strides=2, norm=GROUPS),
    ResidualUnit(3, 16, 32, strides=2, norm=GROUPS),
    nn.Flatten(),
)
decoder = nn.Sequential(
    nn.Linear(latent_dim, n_features),
    nn.Unflatten(1, (32, *start)),
    UpSample(3, 32, 16, scale_factor=2, mode="deconv"),
    Convolution(3, 16, 16, norm=GROUPS),
    UpSample(3, 16, 8, scale_factor=2, mode="deconv"),
    Convolution(3, 8, 8, norm=GROUPS),
    UpSample(3, 8, 8, scale_factor=2, mode="deconv"),
    Convolution(3, 8, 1, conv_only=True),
    AddImage(images["training"].mean(dim=0)),
)

# the loss sums over voxels: 1 is the default at 3 mm and 64x80x64 voxels
beta = float(np.prod(shape)) / (64 * 80 * 64)
vae = VAE(encoder, decoder, n_features, latent_dim, beta=beta, lr=2e-3, random_state=1, stochastic_transform=False)

# %% [markdown]
# ## A Trainer of your own
# `VAE` is a `LightningModule`. It logs `train/loss`, `train/rec_loss` and `train/kl_loss`, and the same under `val/`,
# so that callbacks and loggers follow them by name. Early stopping ends training when the validation loss has stopped
# falling, and the checkpoint of the best epoch is loaded. Lightning reads it with `weights_only`; networks of your own
# are passed in, and their weights are replaced.

# %%
best = ModelCheckpoint(folder / "checkpoints", filename="best", monitor="val/loss", enable_version_counter=False)
logger = CSVLogger(folder, name="logs", version="")
trainer = Trainer(
    max_epochs=size["max_epochs"],
    callbacks=[EarlyStopping("val/loss", patience=8), best],
    logger=logger,
    log_every_n_steps=1,
    accelerator="cpu",
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(vae, train_loader, loaders["validation"])
print(f"{trainer.current_epoch} epochs; lowest validation loss {float(best.best_model_score):.1f}{note}")
vae = VAE.load_from_checkpoint(best.best_model_path, encoder=encoder, decoder=decoder)

# %% [markdown]
# The curves say whether training was long enough (the validation loss is flat at its end) and whether the model
# overfits (the validation loss rises while the training loss falls). The training loss is that of augmented images,
# so it may lie above the validation loss.

# %%
metrics = pd.read_csv(Path(logger.log_dir) / "metrics.csv")
epochs = metrics.groupby("epoch", as_index=False).mean()
save_figure(plot_losses(epochs.to_dict("list"), f"Losses{note}"), folder / "losses.png")
Image.open(folder / "losses.png")

# %% [markdown]
# ## Reconstructions of held-out subjects
# The error is the squared error of reconstructions from the posterior mean, summed over held-out subjects, relative to
# that of the mean training image. PCA with as many components is the baseline. The last row is the ratio of both
# errors. Intervals are 95 % bootstrap intervals over held-out subjects.
#
# If the interval of the ratio lies above 1, PCA reconstructs better than these networks. That is common for plain
# convolutional networks and a few hundred subjects. The models of `build_vae` start from PCA for this reason.

# %%
with torch.no_grad():
    restored = torch.cat([vae.reconstruct(batch) for batch in loaders["held out"]])
truth, fitted = images["held out"].numpy(), images["training"].numpy()
mean_image = np.broadcast_to(fitted.mean(axis=0), truth.shape)
errors = {
    "mean image": squared_error(truth, mean_image),
    "PCA": squared_error(truth, pca_reconstruction(fitted, truth, latent_dim)),
    "VAE": squared_error(truth, restored.numpy()),
}
subjects = [record["subject"] for record in held_out]
pairs = [("VAE", "mean image"), ("PCA", "mean image"), ("VAE", "PCA")]
found = [
    estimate(errors[one], errors[other], statistic=lambda a, b: a.sum() / b.sum(), subjects=subjects)
    for one, other in pairs
]
table = pd.DataFrame(found, index=pd.Index([" / ".join(pair) for pair in pairs], name="ratio"))
table.to_csv(folder / "errors.csv")
print(f"Ratios of the squared error on {len(set(subjects))} held-out subjects{note}")
print(table.to_string(float_format="{:.3f}".format))

# %%
rows = range(min(3, len(held_out)))
names = [str(subjects[row]) for row in rows]
figure = plot_reconstructions(truth[rows, 0], restored[rows, 0].numpy(), names, f"Held-out subjects{note}")
save_figure(figure, folder / "reconstructions.png")
Image.open(folder / "reconstructions.png")

# %% [markdown]
# ## Back to the grid of each file
# `RestoreVolume` takes a reconstruction and its sample. It samples the reconstruction at the voxels of the file, undoes
# the scaling of the intensities, and returns a nibabel image. As a dictionary transform, for a MONAI `Compose`, it is
# `RestoreVolumed`. What lies outside the model's grid becomes background.
#
# Read one file back: its affine and shape are those of the input, so it can be laid over the input in any viewer.

# %%
restore = data.RestoreVolume()
written = folder / "reconstructions"
written.mkdir(exist_ok=True)
for number, sample in enumerate(datasets["held out"]):
    nib.save(restore(restored[number], sample), written / f"{number:03d}_{sample['subject']}_rec.nii.gz")

first = sorted(written.iterdir())[0]
one, source_file = nib.load(first), nib.load(held_out[0]["image"])
print("Written:", first.name, "for", Path(held_out[0]["image"]).name)
print("Same affine:", np.array_equal(one.affine, source_file.affine), "| same shape:", one.shape == source_file.shape)
high = [float(np.percentile(image.get_fdata(), 99)) for image in (source_file, one)]
print(f"99th percentile of the input {high[0]:.0f}, of the reconstruction {high[1]:.0f}")

# %% [markdown]
# ## A scikit-learn pipeline on the latents
# The latents are an array, so any estimator of scikit-learn takes them. Here a ridge regression, whose penalty is
# chosen by cross-validation within the training subjects, predicts each quantity from the posterior means. Beside it
# stands the same with as many principal components. The last column is the difference of R² for the same subjects. If
# its interval contains 0, the subjects don't say which codes predict better. In the simulated cohort, `control` changes
# nothing in the image, so its R² must not be above zero by more than chance.

# %%
training_frame, held_out_frame = pd.DataFrame(training), pd.DataFrame(held_out)
if "TUTORIAL_DATA" in os.environ:
    numbers = pd.DataFrame(records).select_dtypes("number").dropna(axis=1)
    targets = [name for name in numbers if numbers[name].nunique() > 10]
else:
    targets = ["intracranial_ml", "ventricle_ml", "cortical_csf_fraction", "contrast", "control"]
components = [pca_codes(fitted, images[part].numpy(), latent_dim) for part in ("training", "held out")]
latents = [vae.transform(loaders[part]).numpy() for part in ("training", "held out")]

rows = []
for name in targets:
    true, predicted, row = held_out_frame[name].to_numpy(float), {}, {"quantity": name}
    for code, (fit_on, score_on) in (("VAE", latents), ("PCA", components)):
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))
        predicted[code] = model.fit(fit_on, training_frame[name]).predict(score_on)
        score = estimate(true, predicted[code], statistic=r_squared, subjects=subjects)
        row[code] = "{:.2f} ({:.2f} to {:.2f})".format(*score)
    gain = estimate(
        *(true, predicted["VAE"], predicted["PCA"]),
        statistic=lambda true, ours, other: r_squared(true, ours) - r_squared(true, other),
        subjects=subjects,
    )
    row["VAE − PCA"] = "{:+.2f} ({:+.2f} to {:+.2f})".format(*gain)
    rows.append(row)
probes = pd.DataFrame(rows)
probes.to_csv(folder / "probes.csv", index=False)
print(f"R² of ridge regressions on {len(set(subjects))} held-out subjects{note}")
print(probes.to_string(index=False))
