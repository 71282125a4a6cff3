"""How a run starts and goes on, and the scores after it."""

import numpy as np
import pytest
import torch

from monai_betavae.checkpoints import Position
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


@pytest.mark.parametrize(
    ("max_epochs", "said"), [(3, "going on"), (-1, "going on"), (2, "it is only scored and drawn")]
)
def test_what_resuming_does(tmp_path, capsys, max_epochs, said):
    for batches, told in ((0, "has 2 epochs; "), (3, "has 2 epochs and 3 batches of the next; ")):
        _say_resumed(tmp_path / "last.ckpt", Position(2, batches, 4), max_epochs)
        printed = capsys.readouterr().out
        assert told in printed
        assert said in printed
