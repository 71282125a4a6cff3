"""How a run starts and goes on, and the scores after it."""

import numpy as np
import pytest
import torch

from monai_betavae.workflows.training import _say_resumed, held_out_scores


def loader_of(images):
    return torch.utils.data.DataLoader([{"image": image} for image in images], batch_size=2)


def test_held_out_scores_on_ideal_and_useless_reconstructions():
    rng = np.random.default_rng(0)
    mode = rng.normal(size=(1, 4, 4, 4)).astype(np.float32)  # one mode of variation: one component is enough
    train = np.stack([amount * mode for amount in rng.normal(size=12)]).astype(np.float32)
    test = np.stack([amount * mode for amount in (-1.0, 2.0)]).astype(np.float32)
    loader = loader_of(torch.from_numpy(train))
    ideal = held_out_scores(loader, test, test, 1, seed=0)
    assert ideal["sse"] == ideal["sse_ratio"] == 0
    assert ideal["sse_ratio_pca"] < 1e-6
    mean = np.broadcast_to(train.mean(0), test.shape)
    useless = held_out_scores(loader, test, mean, 1, seed=0)
    assert useless["sse_ratio"] == pytest.approx(1.0)
    assert useless["sse"] == pytest.approx(float(((test - mean) ** 2).reshape(2, -1).sum(1).mean()), rel=1e-5)


def test_a_checkpoint_that_is_none_is_refused(tmp_path):
    for content in ({"state_dict": {}}, [1, 2]):
        torch.save(content, tmp_path / "last.ckpt")
        with pytest.raises(ValueError, match=r"last\.ckpt must be the checkpoint of a training run"):
            _say_resumed(tmp_path / "last.ckpt", 3)


@pytest.mark.parametrize(
    ("max_epochs", "said"), [(3, "going on"), (-1, "going on"), (2, "it is only scored and drawn")]
)
def test_what_resuming_does(tmp_path, capsys, max_epochs, said):
    progress = {"epoch_progress": {"current": {"processed": 2}}}
    torch.save({"loops": {"fit_loop": progress}}, tmp_path / "last.ckpt")
    _say_resumed(tmp_path / "last.ckpt", max_epochs)
    printed = capsys.readouterr().out
    assert "has 2 epochs; " in printed
    assert said in printed
