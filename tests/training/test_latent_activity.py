import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from monai_betavae import build_vae
from monai_betavae.evaluation import active_units, kl_per_dimension
from monai_betavae.training import LastCheckpoint, LatentActivity

OPTIONS = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
OPTIONS |= {"enable_model_summary": False, "random_state": 0, "lr": 1e-2}


def loaders():
    images = torch.rand(14, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(images[:8], batch_size=4), DataLoader(images[8:], batch_size=4)


def model(callbacks, **options):
    return build_vae((8, 8, 8), 3, channels=(4, 4), warm_start="none", callbacks=callbacks, **{**OPTIONS, **options})


def test_rows_are_those_of_the_posteriors(tmp_path):
    train, validation = loaders()
    vae = model([LatentActivity(tmp_path / "activity.csv")], max_epochs=2, num_sanity_val_steps=-1)
    vae.fit(train, validation)
    table = pd.read_csv(tmp_path / "activity.csv")
    assert table["epoch"].unique().tolist() == [0, 1, 2]
    q = vae.encode(validation.dataset)
    mu, logvar = q.mean.detach().numpy(), 2 * q.scale.log().detach().numpy()
    last = table[table["epoch"] == 2]
    np.testing.assert_allclose(last["kl"], kl_per_dimension(mu, logvar), rtol=1e-4)
    np.testing.assert_allclose(last["variance"], mu.var(axis=0), rtol=1e-3, atol=1e-6)
    assert ((last["variance"] > 0.01).to_numpy() == active_units(mu)).all()


def test_a_part_of_the_images_is_no_epoch_and_no_validation_no_file(tmp_path):
    train, validation = loaders()
    few = LatentActivity(tmp_path / "few.csv")
    model([few], max_epochs=1, num_sanity_val_steps=1).fit(train, validation)
    assert {row["epoch"] for row in few.rows} == {1}
    model([LatentActivity(tmp_path / "none.csv")], max_epochs=1).fit(train)
    assert not (tmp_path / "none.csv").exists()


def test_several_validations_in_an_epoch_leave_its_last(tmp_path):
    train, validation = loaders()
    vae = model([LatentActivity(tmp_path / "activity.csv")], max_epochs=1, val_check_interval=1, num_sanity_val_steps=0)
    vae.fit(train, validation)
    table = pd.read_csv(tmp_path / "activity.csv")
    assert table["epoch"].tolist() == [1, 1, 1]
    q = vae.encode(validation.dataset)
    np.testing.assert_allclose(table["variance"], q.mean.detach().numpy().var(axis=0), rtol=1e-3, atol=1e-6)


def test_a_resumed_run_has_the_same_table(tmp_path):
    tables = {}
    for name, stops in {"whole": [3], "resumed": [1, 3]}.items():
        for last in stops:
            train, validation = loaders()
            folder = tmp_path / name
            callbacks = [LatentActivity(folder / "activity.csv"), LastCheckpoint(folder / "last.ckpt")]
            vae = model(callbacks, max_epochs=last, num_sanity_val_steps=-1, enable_checkpointing=True)
            vae.fit(train, validation, ckpt_path=folder / "last.ckpt" if last != stops[0] else None)
        tables[name] = pd.read_csv(folder / "activity.csv")
    pd.testing.assert_frame_equal(tables["whole"], tables["resumed"])


@pytest.mark.parametrize("n_epochs", [1, 60])
def test_any_number_of_epochs_is_drawn(n_epochs):
    from monai_betavae.plots import plot_activity

    rng = np.random.default_rng(0)
    epochs, latents = np.meshgrid(np.arange(n_epochs), np.arange(40), indexing="ij")
    kl = rng.exponential(size=epochs.size)
    table = {"epoch": epochs.ravel(), "latent": latents.ravel(), "kl": kl, "variance": kl / 20}
    figure = plot_activity(table, "simulated")
    figure.canvas.draw()
    drawn = figure.axes[0].collections[0].get_array()
    assert (np.diff(np.asarray(drawn)[:, -1]) <= 0).all()


def test_of_one_image_no_variance_is_known(tmp_path):
    from monai_betavae.plots import plot_activity

    train, validation = loaders()
    one = DataLoader(validation.dataset[:1], batch_size=4)
    model([LatentActivity(tmp_path / "activity.csv")], max_epochs=1).fit(train, one)
    table = pd.read_csv(tmp_path / "activity.csv")
    assert table["kl"].notna().all()
    assert table["variance"].isna().all()
    panel = plot_activity(table.to_dict("list")).axes[1]
    assert panel.get_title() == ""
    assert "need two validation subjects" in panel.texts[0].get_text()
    assert not panel.lines
