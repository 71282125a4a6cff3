"""Row i of the embedding is item i of the dataset, however the loader or the processes deal the items out."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from monai_betavae import VAE
from monai_betavae.data import GlobalOrder
from monai_betavae.ordering import BatchShare, OrderedRows, batch_share, check_not_empty, row_noise, shared_noise

pytestmark = [
    # Python 3.12 warns when DataLoader forks its workers beside torch's threads; that is torch's way of working
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


def ready_vae(**kwargs):
    """A model that counts as trained, small enough to follow, without a Trainer."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Dropout(0.5), nn.Tanh())
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Unflatten(1, (1, 2, 2, 2)))
    vae = VAE(encoder, decoder, 6, 2, random_state=0, accelerator="cpu", **kwargs)
    vae.fitted_ = True
    return vae


def images(n_items):
    return torch.rand(n_items, 1, 2, 2, 2, generator=torch.Generator().manual_seed(n_items))


def by_hand(vae, x):
    """Each row on its own, in eval mode, from the layers."""
    vae.eval()
    with torch.no_grad():
        return torch.cat([vae.fc_mu(vae.encoder(x[i : i + 1])) for i in range(len(x))])


@pytest.mark.parametrize("n_items", [7, 12])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 4},
        {"batch_size": 1},
        {"batch_size": 4, "shuffle": True},
        {"batch_size": 5, "drop_last": True},
        {"batch_size": 5, "drop_last": True, "shuffle": True},
        {"batch_size": 3, "sampler": WeightedRandomSampler(torch.ones(4), 4)},
        {"batch_sampler": [[1, 0], [2, 1]]},
    ],
    ids=["plain", "single", "shuffle", "drop_last", "drop_last and shuffle", "sampler", "batch_sampler"],
)
def test_rows_are_the_items(options, n_items):
    vae, x = ready_vae(stochastic_transform=False), images(n_items)
    z = vae.transform(DataLoader(x, **options))
    assert z.shape == (n_items, 2)
    torch.testing.assert_close(z, by_hand(vae, x), rtol=1e-5, atol=1e-6)


def test_rows_are_the_items_with_workers():
    vae, x = ready_vae(stochastic_transform=False), images(7)
    z = vae.transform(DataLoader(x, batch_size=2, shuffle=True, num_workers=2))
    torch.testing.assert_close(z, by_hand(vae, x), rtol=1e-5, atol=1e-6)


def test_a_distributed_sampler_neither_pads_nor_drops():
    vae, x = ready_vae(stochastic_transform=False), images(7)
    z = vae.transform(DataLoader(x, batch_size=2, sampler=DistributedSampler(x, num_replicas=2, rank=1)))
    torch.testing.assert_close(z, by_hand(vae, x), rtol=1e-5, atol=1e-6)


def test_loader_without_batching():
    """batch_size=None: the dataset gives whole batches itself."""

    class Batches(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return images(6)[2 * index : 2 * index + 2]

    vae = ready_vae(stochastic_transform=False)
    z = vae.transform(DataLoader(Batches(), batch_size=None))
    torch.testing.assert_close(z, by_hand(vae, images(6)), rtol=1e-5, atol=1e-6)


class Stream(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


@pytest.mark.parametrize("kind", ["list of batches", "iterable dataset"])
def test_a_loader_without_length_is_read_as_it_comes(kind):
    vae, x = ready_vae(stochastic_transform=False), images(7)
    loader = [x[:3], x[3:]] if kind == "list of batches" else DataLoader(Stream(x), batch_size=3)
    torch.testing.assert_close(vae.transform(loader), by_hand(vae, x), rtol=1e-5, atol=1e-6)


def test_collate_function_is_kept():
    vae, x = ready_vae(stochastic_transform=False), images(5)
    loader = DataLoader(x, batch_size=2, collate_fn=lambda items: {"image": 2 * torch.stack(items)})
    torch.testing.assert_close(vae.transform(loader), by_hand(vae, 2 * x), rtol=1e-5, atol=1e-6)


def test_noise_belongs_to_the_row_not_to_the_batch():
    vae, x = ready_vae(), images(7)
    whole = vae.transform(DataLoader(x, batch_size=7))
    for options in ({"batch_size": 2}, {"batch_size": 3, "shuffle": True}, {"batch_size": 7}):
        torch.testing.assert_close(vae.transform(DataLoader(x, **options)), whole, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        q = vae.encode(x)
    noise = (whole - q.mean) / q.stddev
    torch.testing.assert_close(noise, row_noise(range(7), 2, 0, "transform"), rtol=1e-4, atol=1e-5)


def test_row_noise():
    noise = row_noise(range(4000), 2, seed=3, stream="a")
    assert noise.shape == (4000, 2)
    assert torch.equal(noise[7:9], row_noise(range(7, 9), 2, seed=3, stream="a"))
    # five standard errors
    assert abs(float(noise.mean())) < 5 / np.sqrt(noise.numel())
    assert abs(float(noise.std()) - 1) < 5 / np.sqrt(2 * noise.numel())
    assert abs(float(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1])) < 5 / np.sqrt(len(noise))
    for seed, stream in ((4, "a"), (3, "b")):
        assert not torch.equal(noise[:5], row_noise(range(5), 2, seed=seed, stream=stream))


@pytest.mark.parametrize("targets", ["tuple", "dict"])
def test_targets_come_in_the_order_of_the_rows(targets):
    vae, x, y = ready_vae(stochastic_transform=False), images(7), torch.arange(7) * 10
    if targets == "tuple":
        z, found = vae.transform_with_targets(DataLoader(TensorDataset(x, y), batch_size=3, shuffle=True))
    else:
        items = [{"image": image, "age": age} for image, age in zip(x, y, strict=True)]
        loader = DataLoader(items, batch_size=3, shuffle=True, drop_last=True)
        z, found = vae.transform_with_targets(loader, target_key="age")
    assert found.tolist() == y.tolist()
    torch.testing.assert_close(z, by_hand(vae, x), rtol=1e-5, atol=1e-6)


def test_targets_missing():
    vae, x = ready_vae(), images(3)
    with pytest.raises(ValueError, match=r"`target_key` must be a key of the batch, got 'label'; .*'image', 'age'"):
        vae.transform_with_targets([{"image": x, "age": torch.zeros(3)}])
    with pytest.raises(ValueError, match=r"takes batches .*got Tensor without targets"):
        vae.transform_with_targets([x])
    with pytest.raises(ValueError, match=r"must be numbers, got \['a', 'b', 'c'\]"):
        vae.transform_with_targets([(x, ["a", "b", "c"])])


def test_a_loader_that_is_not_one():
    for value, shown in ((None, "None"), (3, "3")):
        with pytest.raises(ValueError, match=f"`test_dataloader` must be a DataLoader .*got {shown}"):
            check_not_empty("test_dataloader", value)
    with pytest.raises(ValueError, match=r"`a` must .*empty loader \(dataset of 3 items, batch_size=4, drop_last=True"):
        check_not_empty("a", DataLoader(images(3), batch_size=4, drop_last=True))
    check_not_empty("a", DataLoader(images(3), batch_size=4))
    with pytest.raises(ValueError, match="at least one batch, got none"):
        OrderedRows(iter(())).gather([])


# ---- shares of a global batch --------------------------------------------------------------------------------------


def test_alone_a_process_holds_the_whole_batch():
    assert batch_share(DataLoader(range(5), batch_size=2), 2, 1) == BatchShare(0, 1, 1, 1)


def test_repeated_items_are_not_owned(group):
    # 5 items on 2 processes with batches of 2: 0 2 | 4 and 1 3 | (0 again)
    expected = {0: [(2, 4), (1, 1)], 1: [(2, 4), (0, 1)]}
    for rank, shares in expected.items():
        group(rank, 2)
        for sampler in (DistributedSampler(range(5), shuffle=False), GlobalOrder(range(5))):
            loader = DataLoader(range(5), batch_size=2, sampler=sampler)
            found = [batch_share(loader, index, len(batch)) for index, batch in enumerate(loader)]
            assert [(share.n_own, share.n_global) for share in found] == shares
            assert {(share.rank, share.n_processes) for share in found} == {(rank, 2)}


def test_more_processes_than_items(group):
    group(2, 3)
    loader = DataLoader(range(1), batch_size=4, sampler=GlobalOrder(range(1)))
    assert [len(batch) for batch in loader] == [1]
    assert batch_share(loader, 0, 1) == BatchShare(2, 3, 0, 1)


def test_a_sampler_that_says_nothing(group):
    group(1, 2)
    assert batch_share(DataLoader(range(5), batch_size=2), 0, 2) == BatchShare(1, 2, 2, 4)


def test_shared_noise_is_dealt_out_of_that_of_one_process():
    def noise(share, n_rows):
        torch.manual_seed(3)
        return shared_noise(torch.zeros(n_rows, 5), share)

    torch.manual_seed(3)
    whole = torch.normal(torch.zeros(7, 5), torch.ones(7, 5))
    assert torch.equal(noise(BatchShare(0, 1, 7, 7), 7), whole)
    assert torch.equal(noise(BatchShare(0, 2, 4, 7), 4), whole[0::2])
    assert torch.equal(noise(BatchShare(1, 2, 3, 7), 4), torch.cat([whole[1::2], whole[:1]]))  # one row is a repeat


# ---- two processes: this file is run as a script, once per rank, so that nothing of pytest is in them ----------------

SIZES = (1, 7, 12)


def loaders(n_items):
    items = [{"image": image, "label": index} for index, image in enumerate(images(n_items))]
    plain = DataLoader(items, batch_size=4, shuffle=True, drop_last=n_items > 4)
    dealt = DataLoader(items, batch_size=2, sampler=DistributedSampler(items, num_replicas=2, rank=0))
    return {"plain": plain, "dealt": dealt}


def embed_everything():
    return {
        f"{n_items} {name} {stochastic}": ready_vae(stochastic_transform=stochastic).transform_with_targets(loader)
        for n_items in SIZES
        for stochastic in (False, True)
        for name, loader in loaders(n_items).items()
    }


def run_rank(rank, folder):
    dist.init_process_group("gloo", init_method=(folder / "rendezvous").as_uri(), rank=rank, world_size=2)
    try:
        torch.save(embed_everything(), folder / f"rank{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def test_two_processes_give_every_rank_every_row(tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [rank.communicate(timeout=120)[0].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(outputs)
    expected = embed_everything()
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for case, (z, y) in expected.items():
            assert len(z) == int(case.split()[0])
            assert found[case][1].tolist() == y.tolist() == list(range(len(z))), case
            torch.testing.assert_close(found[case][0], z, rtol=1e-5, atol=1e-6, msg=case)


def train_on(n_processes, folder):
    """Train on global batches of four, with a Trainer that starts the other processes itself; validate on five."""
    import lightning.pytorch as pl

    items, held_out = images(12), images(5)
    order, held_out_order = GlobalOrder(items, shuffle=True, seed=1), GlobalOrder(held_out)
    size = 4 // n_processes
    vae = ready_vae(lr=0.05)
    vae.encoder[2].p = 0.0  # which features drop out depends on how the rows are dealt
    losses = []

    class Losses(pl.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            losses.append(float(trainer.callback_metrics["val/loss"]))

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=n_processes,
        max_epochs=3,
        callbacks=[Losses()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    torch.manual_seed(7)
    trainer.fit(
        vae,
        DataLoader(items, batch_size=size, sampler=order),
        DataLoader(held_out, batch_size=size, sampler=held_out_order),
    )
    torch.save({"losses": losses, **vae.state_dict()}, folder / f"{n_processes}_{trainer.global_rank}.pt")


@pytest.mark.slow
def test_training_on_two_processes_equals_training_on_one(tmp_path):
    for n_processes in (1, 2):
        command = [sys.executable, __file__, "train", str(n_processes), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    alone = torch.load(tmp_path / "1_0.pt", weights_only=True)
    assert len(alone["losses"]) == 3
    assert alone["losses"][0] != alone["losses"][-1]
    for rank in (0, 1):
        shared = torch.load(tmp_path / f"2_{rank}.pt", weights_only=True)
        # five items on two processes: one is repeated, and must not count
        np.testing.assert_allclose(shared.pop("losses"), alone["losses"], rtol=1e-5)
        for name, weights in shared.items():
            torch.testing.assert_close(weights, alone[name], rtol=1e-4, atol=1e-5, msg=name)


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train_on(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        run_rank(int(sys.argv[1]), Path(sys.argv[2]))
