# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Adjusted norms and sites
#
# Train a model that is told age, sex and site, and a plain one beside it. Ask what the codes still tell of the site,
# whether a norm of healthy subjects holds at every site and age, and what the same brain looks like at another age.
# The tutorial takes about two minutes on two CPU cores. Nothing is downloaded.
#
# `python tutorials/adjusted_norms.py my_folder` writes everything to `my_folder`. To open this script as a notebook:
# `pip install jupytext`, then `jupytext --to ipynb tutorials/adjusted_norms.py`.

# %%
import copy
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from monai.data import DataLoader
from monai.transforms import Compose
from PIL import Image

from monai_betavae import VAE, build_vae
from monai_betavae.data import (
    CodeCovariatesd,
    CovariateCoding,
    brain_transforms,
    discover,
    simulate_cohort,
    split_subjects,
)
from monai_betavae.evaluation import (
    adjust_scores,
    brain_mask,
    calibration_by_group,
    estimate,
    expected_share,
    latent_deviation,
    probe_held_out,
    residual_deviation,
)
from monai_betavae.evaluation.residuals import erode_mask
from monai_betavae.networks.conditional_mean import fit_condition
from monai_betavae.plots import save_figure
from monai_betavae.training import warmup_and_decay

folder = Path(sys.argv[1]) if len(sys.argv) == 2 and __name__ == "__main__" else Path(tempfile.mkdtemp())

# %% [markdown]
# `TUTORIAL_SIZE=small` runs the same code on fewer and coarser brains in less than a minute. It shows that the
# code runs; its numbers mean nothing.

# %%
SIZES = {
    "full": {"n_subjects": 600, "spacing": 6.0, "shape": (32, 40, 32), "beta": 0.125, "epochs": 6},
    "small": {"n_subjects": 126, "spacing": 8.0, "shape": (24, 30, 24), "beta": 0.05, "epochs": 1},
}
size = SIZES[os.environ.get("TUTORIAL_SIZE", "full")]

# %% [markdown]
# ## A cohort of three sites
# All subjects are healthy. The sites' scanners differ in contrast, sharpness, noise, bias field and distortion. A third
# of the subjects is for training. A third is the **reference**: healthy subjects that the model wasn't trained on,
# among whose scores new ones are ranked. The last third is held out and takes the place of new subjects.

# %%
cohort = folder / "cohort"
if not cohort.is_dir():
    options = {"lesion_fraction": 0.0, "site_effects": "strong", "progress": False}
    simulate_cohort(cohort, size["n_subjects"], seed=2041, spacing=size["spacing"], **options)
train, reference, held_out = split_subjects(discover(cohort), [1 / 3] * 3, seed=1, stratify=("site", "age"))
print(len(train), "training,", len(reference), "reference and", len(held_out), "held-out subjects")
print(pd.DataFrame(train).groupby("site")["age"].describe()[["count", "mean", "min", "max"]].round(0).to_string())

# %% [markdown]
# ## Code the covariates
# `CovariateCoding` turns age into a spline, and sex and site into a column for each level. It is measured on the
# training subjects. `CodeCovariatesd` puts each subject's row under `"covariates"`, where the model finds it.

# %%
coding = CovariateCoding.fit(train, ["age", "sex", "site"])
print("Columns:", ", ".join(coding.columns))
preprocess = Compose(
    [CodeCovariatesd(coding), brain_transforms(size["shape"], size["spacing"], keep=("subject", "covariates"))]
)
parts = {"train": train, "reference": reference, "held out": held_out}
samples = {part: [preprocess(record) for record in records] for part, records in parts.items()}
images = {part: torch.stack([sample["image"] for sample in own]) for part, own in samples.items()}
rows = {part: torch.stack([sample["covariates"] for sample in own]) for part, own in samples.items()}

# %% [markdown]
# ## Train two models
# They differ in `n_covariates` alone. The conditional model describes an image by what the covariates lead to expect,
# plus a code: what they leave.


# %%
quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}


def trained(n_covariates: int) -> VAE:
    """Return a model of the training subjects."""
    vae = build_vae(
        size["shape"],
        latent_dim=32,
        n_covariates=n_covariates,
        beta=size["beta"],
        noise="global",
        random_state=1,
        lr=1e-3,
        max_epochs=size["epochs"],
        lr_scheduler=warmup_and_decay,
        **quiet,
    )
    told = samples["train"] if n_covariates else [{"image": image} for image in images["train"]]
    return vae.fit(DataLoader(told, batch_size=4, shuffle=True))


def described(vae: VAE, part: str, conditional: bool = True) -> dict[str, np.ndarray]:
    """Return codes, their log-variances and the residuals of subjects."""
    found: dict[str, list] = {"codes": [], "logvar": [], "residuals": []}
    for image, row in zip(images[part].split(16), rows[part].split(16), strict=True):
        with torch.no_grad():
            posterior = vae.encode(image, row if conditional else None)
            restored = vae.decode(posterior.mean, row if conditional else None)
        found["codes"].append(posterior.mean)
        found["logvar"].append(2 * posterior.scale.log())
        found["residuals"].append((image - restored)[:, 0])
    return {name: torch.cat(each).numpy() for name, each in found.items()}


plain, conditional = trained(0), trained(coding.n_columns)
of_plain = {part: described(plain, part, conditional=False) for part in ("reference", "held out")}
of_conditional = {part: described(conditional, part) for part in ("reference", "held out")}

# %% [markdown]
# ## What do the codes tell of the site?
# A linear probe predicts the site from the codes. It is fitted on the reference, since the conditional model has
# removed the mean of each site from the codes of its training subjects themselves. It is scored on held-out subjects.
#
# Don't expect the conditional model to be at chance. It knows the mean of a site from its training subjects alone, and
# some dozens of subjects tell a mean only roughly. Where a cohort is harmonised as a whole, fit the conditional mean to
# all of it (`fit_condition`), as ComBat does: the last codes of the table. They are for an analysis of this cohort,
# since held-out subjects have taken part in the fit.
#
# The model was told age, too, so age is taken out as well, and as roughly. With few training subjects, the error of the
# mean is itself a function of age and site that all codes share, and a probe finds it: the R² of age can even be above
# the plain model's. To keep age on purpose, condition on the site alone.

# %%
everybody = [sample for own in samples.values() for sample in own]
refitted = copy.deepcopy(conditional)
fit_condition(refitted, DataLoader(everybody, batch_size=16))
of_refitted = {part: described(refitted, part) for part in ("reference", "held out")}
target = {part: {name: np.array([r[name] for r in own]) for name in ("site", "age")} for part, own in parts.items()}
probes = []
for name, of in (("plain", of_plain), ("conditional", of_conditional), ("conditional, fitted to all", of_refitted)):
    for covariate in ("site", "age"):
        fitted, scored = ((of[part]["codes"], target[part][covariate]) for part in ("reference", "held out"))
        found = probe_held_out(*fitted, *scored, n_permutations=0)
        value = {"value": found.value, "low": found.low, "high": found.high, "chance": found.chance}
        probes.append({"codes": name, "covariate": covariate, "score": found.score, **value})
probes = pd.DataFrame(probes)
print(f"Linear probes of codes on {len(held_out)} held-out subjects (simulated), 95 % intervals over subjects")
print(probes.to_string(index=False, float_format="{:.2f}".format))
probes.to_csv(folder / "probes.csv", index=False)

# %% [markdown]
# ## Is the norm right for everybody?
# Two scores say how much a brain deviates from healthy ones: `latent_deviation` of its codes (is it unusual as a
# whole?), and `residual_deviation` (is there a place that the codes don't explain?). p is the rank of a score among
# those of the reference.
#
# All held-out subjects are healthy, so about 5 % of them should have p of at most 0.05: at every site and at every age.
# A norm that ignores the site would call more subjects of a noisy site deviating. **Unadjusted** is the plain model
# with its scores as they are. **Adjusted** is the conditional model, and `adjust_scores` corrects its scores for how
# much healthy subjects of these covariates deviate.

# %%
brain = brain_mask(images["train"][:, 0].numpy()).mean(axis=0) >= 0.5
known = target["held out"]
shares = []
for kind, of in (("unadjusted", of_plain), ("adjusted", of_conditional)):
    new, norm = of["held out"], of["reference"]
    latent = latent_deviation(new["codes"], new["logvar"], norm["codes"], norm["logvar"])
    residual = residual_deviation(new["residuals"], norm["residuals"], brain, spacing=size["spacing"])
    scores = {
        "codes": (latent["score"], latent["reference_score"], latent["p_subject"]),
        "residuals": (residual.scores, residual.reference, residual.p),
    }
    for name, (score, healthy, p) in scores.items():
        if kind == "adjusted":
            p = adjust_scores(score, rows["held out"].numpy(), healthy, rows["reference"].numpy()).p
        groups = calibration_by_group(p, {"age": known["age"]}, {"site": known["site"]}, n_reference=len(reference))
        for each in groups:
            row = {"by": each.by, "group": each.group, "n": each.n, "norm": f"{name}, {kind}"}
            share = {key: 100 * value for key, value in each.share._asdict().items()}
            expected = {"lowest": 100 * each.expected[0], "highest": 100 * each.expected[1]}
            shares.append({**row, **share, **expected})
calibration = pd.DataFrame(shares)
calibration.to_csv(folder / "calibration.csv", index=False)
calibration["share"] = [f"{r.value:.1f} ({r.low:.1f} to {r.high:.1f})" for r in calibration.itertuples()]
calibration["calibrated"] = [f"{r.lowest:.1f} to {r.highest:.1f}" for r in calibration.itertuples()]
wide = calibration.pivot(index=["by", "group", "n", "calibrated"], columns="norm", values="share")
wide = wide.loc[pd.MultiIndex.from_frame(calibration[["by", "group", "n", "calibrated"]].drop_duplicates())]
right = 100 * expected_share(0.05, len(reference))
print(f"Healthy held-out subjects beyond the 5 % limit, in percent (simulated), 95 % intervals; right is {right:.1f}")
print(wide[calibration["norm"].unique()].reset_index().to_string(index=False))

# %% [markdown]
# "Calibrated" is where the share of a right norm lies in 95 % of cases. With so few subjects in a group it is wide, and
# so are the intervals. A group outside of it is a reason to doubt the norm; one inside of it isn't proof. Differences
# between unadjusted and adjusted scores can't be told apart where the intervals overlap. `docs/conditional_models.md`
# has the same measured on 3,000 further subjects.

# %% [markdown]
# ## The same brain at another age, or at another site
# Decode one held-out subject's code with other covariates. The code stays, so the brain keeps what is its own. Look at
# the ventricles in the upper row: they should grow, and the head should stay. In the lower row the anatomy should stay,
# and contrast and sharpness should change.

# %%
deep = erode_mask(brain, round(24 / size["spacing"]))  # without the outer 24 mm
codes = torch.from_numpy(of_conditional["held out"]["codes"])
chosen = int(np.abs(known["age"] - 60).argmin())
subject = held_out[chosen]


def decoded(**changes: object) -> np.ndarray:
    """Return the subject's image with other covariates than its own."""
    values = {name: subject[name] for name in coding.names} | changes
    with torch.no_grad():
        return conditional.decode(codes[chosen][None], coding.row_of(values))[0, 0].numpy()


sites = sorted(set(known["site"]))
series = {
    "age": [decoded(age=age) for age in (40, 60, 80)],
    "site": [decoded(site=site) for site in sites],
}
titles = {"age": ["40 years", "60 years", "80 years", "80 − 40"], "site": [*sites, f"{sites[-1]} − {sites[0]}"]}
darker = np.where(deep, series["age"][0] - series["age"][2], 0)
height = int(darker.sum(axis=(0, 1)).argmax())  # where age changes most, deep in the brain
figure = Figure(figsize=(9.0, 5.4), layout="constrained")
for line, panels in zip(series, figure.subplots(2, 4), strict=True):
    shown = [*series[line], series[line][-1] - series[line][0]]
    for axes, volume, title in zip(panels, shown, titles[line], strict=True):
        difference = axes is panels[-1]
        scale = {"cmap": "RdBu_r", "vmin": -0.4, "vmax": 0.4} if difference else {"cmap": "gray", "vmin": 0, "vmax": 1}
        drawn = axes.imshow(volume[:, :, height].T, origin="lower", **scale)
        axes.set(title=title, xticks=[], yticks=[])
    figure.colorbar(drawn, ax=panels[-1], label="difference")
figure.suptitle(f"{subject['subject']}, {subject['age']:.0f} years, {subject['site']}: decoded (simulated)")
save_figure(figure, folder / "other_covariates.png")
Image.open(folder / "other_covariates.png")

# %% [markdown]
# Is the growth of the right size? Measure what is dark deep in the brain, mostly the ventricles, in the decoded images
# of every held-out subject at 45 and at 70 years. Beside it stands the same measure of the original images: their
# regression on age, over as many years. The two should agree within their intervals. The first interval is over
# subjects and takes the model as given, so it is too narrow. Both are averages: what a model shows is the difference
# between subjects of different ages, not the future of one of them.


# %%
def dark_ml(volumes: np.ndarray) -> np.ndarray:
    """Return the volume of what is dark deep in each brain, in ml."""
    bright = np.percentile(volumes[:, brain], 90, axis=1, keepdims=True)
    return np.clip(1 - volumes[:, deep] / bright, 0, 1).sum(axis=1) * size["spacing"] ** 3 / 1000


at_age = {}
for age in (45, 70):
    told = torch.from_numpy(coding.rows([{**record, "age": age} for record in held_out]))
    with torch.no_grad():
        pairs = zip(codes.split(16), told.split(16), strict=True)
        at_age[age] = dark_ml(torch.cat([conditional.decode(*pair)[:, 0] for pair in pairs]).numpy())
observed = dark_ml(images["held out"][:, 0].numpy())
growth = {
    "decoded": estimate(at_age[70] - at_age[45]),
    "regression on age": estimate(known["age"], observed, statistic=lambda age, dark: 25 * np.polyfit(age, dark, 1)[0]),
}
growth = pd.DataFrame({name: value._asdict() for name, value in growth.items()}).T
print(f"Growth from 45 to 70 years in ml, {len(held_out)} held-out subjects (simulated), 95 % intervals")
print(growth.to_string(float_format="{:.1f}".format))
growth.to_csv(folder / "growth.csv")
conditional.save(folder / "conditional.pt")
print("Pictures, tables and model are in", folder)

# %% [markdown]
# ## Limits
# - Condition on what you want to take out, and on nothing else. If a disease is more frequent at one site or at high
#   age, part of it is taken out with them.
# - The conditional mean is one mean for each site and a smooth curve of age. A site that changes how brains of
#   different ages look, or how codes spread, stays visible; `adjust_scores` adjusts the spread of scores, not of codes.
# - A site needs subjects of its own in training and in the reference. For one that has none, see
#   `docs/conditional_models.md`: a few subjects can be enough for fine-tuning.
# - The measurements in `docs/conditional_models.md` are from a larger cohort and three seeds. Here one seed was trained
#   on fewer subjects, and the numbers are noisier.
