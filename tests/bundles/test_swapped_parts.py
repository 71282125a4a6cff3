"""Parts of the bundle's configs swapped for others, and for a user's own: trained, resumed, embedded, evaluated."""

import copy
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import TINY, by_hand, evaluated, latents, metrics, run_bundle, tiny_cohort, train

from monai_betavae import bundle_root

# MONAI's warning of expressions in configs, and Lightning's advice on speed
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SHAPE = TINY["spatial_shape"]
CONFIG = json.loads((bundle_root() / "train.json").read_text())
OWN_STEPS = [*CONFIG["train"]["preprocessing"]["transforms"]]
OWN_STEPS.insert(5, {"_target_": "bundle_parts.Squared", "keys": "image"})
OWN_TRANSFORMS = {"_target_": "Compose", "transforms": OWN_STEPS}
OWN_NETWORK = {"_target_": "bundle_parts.FourParts", "spatial_shape": "@spatial_shape", "latent_dim": "@latent_dim"}


def given(entry):
    """Return an entry as a config after training needs it: without ids of train.json."""
    text = json.dumps(entry).replace('"@spatial_shape"', str(SHAPE)).replace('"@latent_dim"', "2")
    text = text.replace('"@spacing"', "24.0").replace('"$@spacing is None"', "false")
    text = text.replace('"@center"', '"image"').replace('"@padding"', '"background"')
    return json.loads(text)


SWAPS = {
    "transform of MONAI": (
        {"train#preprocessing#transforms#4": {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True}},
        {},
    ),
    "transform of one's own": ({"train#preprocessing": OWN_TRANSFORMS}, {"preprocessing": given(OWN_TRANSFORMS)}),
    "loss": ({"loss": {"_target_": "bundle_parts.Doubled", "beta": 0.02}}, {}),
    "loss that says nothing": (
        {"loss": {"_target_": "bundle_parts.plain_loss", "_mode_": "callable"}},
        {"likelihood": {"distribution": "laplace", "beta": 0.01}},
    ),
    "optimizer": (
        {"optimizer": {"_target_": "torch.optim.SGD", "_mode_": "callable", "lr": 1e-5, "momentum": 0.9}},
        {},
    ),
    "scheduler": (
        {"lr_scheduler": {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "_mode_": "callable", "max_lr": 0.01}},
        {},
    ),
    "network of one's own": ({"network_def": OWN_NETWORK}, {"network_def": given(OWN_NETWORK)}),
    "network of MONAI": (
        {
            "network_def": {
                "_target_": "monai_betavae.networks.var_autoencoder.build_var_autoencoder",
                "spatial_shape": "@spatial_shape",
                "latent_dim": "@latent_dim",
                "channels": [4, 8],
                "strides": [2, 2],
                "random_state": 0,
            }
        },
        {},
    ),
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return tiny_cohort(tmp_path_factory.mktemp("place") / "cohort")


@pytest.fixture(scope="module")
def base(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    train(folder, cohort)
    return folder


def only(again, name):
    """Return what inference (all but the likelihood) or evaluation is given again."""
    return {key: copy.deepcopy(value) for key, value in again.items() if name == "evaluate" or key != "likelihood"}


@pytest.mark.parametrize("name", SWAPS)
def test_a_swapped_part_trains_resumes_infers_and_evaluates(name, cohort, base, tmp_path, capsys):
    swap, again = SWAPS[name]
    longer = 3 if name == "scheduler" else 2
    workflow = train(tmp_path, cohort, **copy.deepcopy(swap), max_epochs=longer)
    assert not np.array_equal(metrics(tmp_path)[:2], metrics(base)[:2])
    codes, error = by_hand(workflow, tmp_path)
    np.testing.assert_allclose(latents(tmp_path, **only(again, "inference")), codes, atol=1e-5)
    scores = evaluated(tmp_path, **only(again, "evaluate"))
    assert scores["reconstruction"]["sse"]["value"] == pytest.approx(error, rel=1e-4)
    assert np.isfinite(scores["likelihood"]["log_likelihood"]["value"])
    if name != "scheduler":
        train(tmp_path, cohort, **copy.deepcopy(swap), resume=True, max_epochs=3)
        assert len(metrics(tmp_path)) == 3
    with pytest.raises(ValueError, match="`resume` needs the settings of"):
        train(tmp_path, cohort, resume=True, max_epochs=3)
    capsys.readouterr()
    if again:
        (needed,) = again
        with pytest.raises(ValueError, match=f"`{needed}` must be given: .*model.json says"):
            evaluated(tmp_path)
        evaluated(tmp_path, **only(again, "evaluate"))
        assert f"Given here, in place of what the model's description says: {needed}" in capsys.readouterr().out


def test_a_scheduler_of_fixed_length_is_not_extended(cohort, tmp_path):
    swap = SWAPS["scheduler"][0]
    train(tmp_path, cohort, **swap)
    with pytest.raises(ValueError, match="`lr_scheduler` OneCycleLR can't change its course: `total_steps` was 4"):
        train(tmp_path, cohort, **swap, resume=True, max_epochs=3)


def test_a_network_of_ones_own_is_needed_for_generation_too(cohort, tmp_path):
    train(tmp_path, cohort, network_def=OWN_NETWORK)
    options = {"ckpt_dir": str(tmp_path), "output_dir": str(tmp_path), "n_samples": 2, "device": TINY["device"]}
    with pytest.raises(ValueError, match=r"`network_def` must be given: .*bundle_parts\.FourParts"):
        run_bundle("generate", **options)
    run_bundle("generate", **options, network_def=given(OWN_NETWORK))
    assert nib.load(tmp_path / "samples" / "sample_001.nii.gz").shape == tuple(SHAPE)


def test_the_likelihood_of_a_model_is_that_of_its_loss(cohort, tmp_path):
    # the two distributions' densities of the same residuals, by their formulas
    train(tmp_path, cohort, loss__default_dist="laplace", noise="unit")
    laplace = evaluated(tmp_path)["likelihood"]["log_density"]["value"]
    described = {"distribution": "normal", "beta": 0.01}
    normal = evaluated(tmp_path, likelihood=described)["likelihood"]["log_density"]["value"]
    n_voxels = np.prod(SHAPE)
    assert laplace == pytest.approx(-n_voxels * np.log(2), abs=60)  # residuals are small beside a unit scale
    assert normal == pytest.approx(-n_voxels * np.log(2 * np.pi) / 2, abs=60)
    assert json.loads((tmp_path / "model.json").read_text())["likelihood"]["distribution"] == "laplace"


@pytest.mark.parametrize("noise", ["global", "voxel"])
def test_the_noise_is_measured_after_training_and_counts_in_evaluation(cohort, tmp_path, capsys, noise):
    train(tmp_path, cohort, noise=noise)
    said = capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    scale = float(torch.load(tmp_path / "model.pt", weights_only=True)["decoder.noise.scale"])
    assert scores["noise"] == pytest.approx(scale)
    assert f"Noise: standard deviation {scale:.3g} of the intensities' scale, measured on validation volumes" in said
    assert f"Exact ELBO {scores['elbo_nats']:.0f} nats (noise {scale:.3g})" in said
    if noise == "global":
        mean_square = scores["sse"] / scores["n_voxels"] / scale**2
        assert scores["squared_standardised_residual"] == pytest.approx(mean_square, rel=1e-4)
    likelihood = evaluated(tmp_path)["likelihood"]
    assert likelihood["elbo"]["value"] == pytest.approx(scores["elbo_nats"], rel=0.01)
    # far above what residuals of zero would have at unit scale
    assert likelihood["log_density"]["value"] > -np.prod(SHAPE) * np.log(2 * np.pi) / 2 + 500


def test_inference_finds_the_run_beside_its_weights_or_says_what_to_name(cohort, base, tmp_path):
    assert len(latents(base)) == 2  # with --ckpt_dir and --output_dir alone
    (tmp_path / "models").mkdir()
    for file in ("model.pt", "model.json"):
        (tmp_path / "models" / file).write_bytes((base / file).read_bytes())
    with pytest.raises(ValueError, match="--training_output_dir"):
        latents(tmp_path / "models", output_dir=str(tmp_path / "output"), run_root=str(tmp_path))


def test_the_split_of_another_run_is_refused(cohort, base, tmp_path):
    train(tmp_path, cohort, seed=5)
    with pytest.raises(ValueError, match=r"split\.json is of another training run than .*model\.pt: name"):
        latents(base, training_output_dir=str(tmp_path))
    with pytest.raises(ValueError, match="is of another training run"):
        evaluated(base, training_output_dir=str(tmp_path))


@pytest.mark.parametrize("named", ["batch_size", ["batch_size"]])
def test_a_setting_may_change_when_it_is_named(cohort, tmp_path, capsys, named):
    train(tmp_path, cohort)
    more = {"resume": True, "max_epochs": 3, "batch_size": 3}
    with pytest.raises(ValueError, match=r"batch_size was 4, now 3\. .*--resume_changes \"\['batch_size'\]\""):
        train(tmp_path, cohort, **more)
    train(tmp_path, cohort, **more, resume_changes=named)
    assert "Resuming with other settings: batch_size was 4, now 3" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"learning_rate was 0\.02, now 0\.01"):
        train(tmp_path, cohort, **more, resume_changes=named, learning_rate=0.01)


def test_every_run_says_which_weights_it_loaded(base, tmp_path, capsys):
    latents(base, output_dir=str(tmp_path))
    assert f"Weights: {base / 'model.pt'} (trained on 8 simulated volumes of 8 subjects)" in capsys.readouterr().out


def test_a_run_without_validation_or_held_out_says_so(cohort, tmp_path, capsys):
    train(tmp_path, cohort, split="$dict(training=@records, validation=[], test=[])")
    printed = capsys.readouterr().out
    assert "(last epoch)" in printed
    assert "(best epoch)" not in printed
    assert "No subject is held out: nothing is scored" in printed
    assert "scores.json" not in printed
    with pytest.raises(ValueError, match="`early_stopping` needs validation subjects"):
        train(tmp_path / "b", cohort, split="$dict(training=@records, validation=[], test=[])", early_stopping=True)


def test_the_model_line_counts_the_template(cohort, tmp_path, capsys):
    workflow = train(tmp_path, cohort)
    n_weights = sum(weights.numel() for weights in workflow.parser.get_parsed_content("network_def").parameters())
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Model: "))
    assert f", {n_weights / 1e6:.2f} million weights," in line
    train(tmp_path, cohort, resume=True, max_epochs=3)
    assert next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Model: ")) == line


def test_nothing_of_lightning_is_logged_after_an_epoch(cohort, tmp_path, caplog):
    with caplog.at_level("INFO"):
        train(tmp_path, cohort)
    assert not [record for record in caplog.records if "weights_only" in record.getMessage()]


def test_preprocessing_with_a_mask_is_used_by_every_run(cohort, tmp_path):
    """A mask's path stands in the records: also later, from split.json."""
    masks = tmp_path / "masks"
    masks.mkdir()
    rows = []
    for image in sorted(cohort.glob("sub-*/anat/*_T1w.nii.gz")):
        volume = nib.load(image)
        mask = np.zeros(volume.shape, np.uint8)
        mask[4:-4, 4:-4, 4:-4] = 1
        nib.save(nib.Nifti1Image(mask, volume.affine), masks / image.name)
        rows.append(f"{image},{masks / image.name},{image.name[:7]}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["image,brain,subject", *rows]) + "\n")
    folder = tmp_path / "run"
    workflow = train(folder, table, train__preprocessing__transforms__0__mask_key="brain")
    codes, _ = by_hand(workflow, folder)
    np.testing.assert_allclose(latents(folder), codes, atol=1e-5)
    stored = json.loads((folder / "model.json").read_text())["preprocessing"]["transforms"][0]
    assert stored == {"name": "ReadVolumed", "arguments": {"keys": "image", "background": "auto", "mask_key": "brain"}}


def test_two_of_the_former_faults(cohort, base, tmp_path):
    with pytest.raises(ValueError, match="`default_dist` must not be given beside `loss`"):
        train(tmp_path, cohort, estimator__default_dist="laplace")
    steps = {"train#preprocessing#transforms#4": {"_target_": "RandFlipd", "keys": "image"}}
    with pytest.raises(ValueError, match=r"must be deterministic.*got RandFlipd: give random transforms as"):
        train(tmp_path, cohort, **steps)
    assert not (tmp_path / "split.json").exists()
    torch.manual_seed(0)  # what a run draws is its own
    train(tmp_path, cohort)
    assert np.array_equal(metrics(tmp_path), metrics(base))
