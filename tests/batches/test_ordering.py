"""Row i of the embedding is item i of the dataset, however the loader or the processes deal the items out."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from forked_ranks import results_of_ranks, run_ranks, run_script
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from monai_betavae import VAE, build_vae
from monai_betavae.batches.ordering import OrderedRows, check_not_empty, row_noise
from monai_betavae.batches.process_shares import BatchShare, batch_share, shared_noise
from monai_betavae.data import GlobalOrder

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


# ---- several processes: this file is run as a script, which forks the ranks; so nothing of pytest is in them ---------

SIZES = (1, 2, 7, 11, 12, 13)
BATCH_SIZES = (1, 4, 16)
ORDERS = ("as it is", "shuffled", "dealt", "dealt and shuffled", "incomplete batch dropped", "dealt and dropped")


def loader_of(n_items, batch_size, order, *, rank=0, n_processes=1):
    """A loader whose own order is another than the dataset's, or that leaves items out or repeats them."""
    items = [{"image": image, "label": index} for index, image in enumerate(images(n_items))]
    dropped = "dropped" in order
    if not order.startswith("dealt"):
        return DataLoader(items, batch_size=batch_size, shuffle=order == "shuffled", drop_last=dropped)
    shuffle = order == "dealt and shuffled"
    sampler = DistributedSampler(items, n_processes, rank, shuffle=shuffle, drop_last=dropped)
    return DataLoader(items, batch_size=batch_size, sampler=sampler)


def convolutional_vae():
    vae = build_vae(
        (2, 2, 2), 3, channels=(4,), norm="group", random_state=0, stochastic_transform=False, accelerator="cpu"
    )
    vae.fitted_ = True
    return vae


def embed_everything(rank=0, n_processes=1):
    """Return what every loader gives, or the message with which it is refused."""
    found = {}
    for name, vae in (("draws", ready_vae()), ("means", convolutional_vae())):
        for n_items, batch_size, order in itertools.product(SIZES, BATCH_SIZES, ORDERS):
            loader = loader_of(n_items, batch_size, order, rank=rank, n_processes=n_processes)
            case = f"{name} of {n_items} in batches of {batch_size}, {order}"
            try:
                features, targets = vae.transform_with_targets(loader)
                found[case] = {"transform": vae.transform(loader), "features": features, "targets": targets}
            except ValueError as error:
                found[case] = str(error)
    return found


def run_rank(rank, n_processes, folder):
    address = (folder / f"rendezvous of {n_processes}").as_uri()
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=n_processes)
    try:
        found = embed_everything(rank, n_processes)
        torch.save(found, folder / f"rank {rank} of {n_processes}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """What every rank of a group of 1, 2 and 3 processes got."""
    folder = tmp_path_factory.mktemp("ranks")
    run_script(__file__, "embed", folder)
    return results_of_ranks(folder)


@pytest.fixture(scope="module")
def expected():
    """What this process gives, which is in no group, each item on its own place."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranks have: the last digits of a sum depend on it
    found = embed_everything()
    torch.set_num_threads(threads)
    for case, result in found.items():
        if isinstance(result, str):
            # a loader that would give nothing is refused, on every process alike
            assert "dropped" in case
            assert "`test_dataloader` must give at least one batch, got an empty loader" in result
        else:
            n_items = int(case.split()[2])
            assert result["targets"].tolist() == list(range(n_items))
            assert len(result["features"].unique(dim=0)) == n_items
    return found


@pytest.mark.parametrize("n_processes", [1, 2, 3])
def test_every_rank_gets_every_row_to_the_last_bit(embedded, expected, n_processes):
    assert len(expected) == 2 * len(SIZES) * len(BATCH_SIZES) * len(ORDERS)
    for rank in range(n_processes):
        for case, result in embedded[rank, n_processes].items():
            if isinstance(expected[case], str) or isinstance(result, str):
                # a sampler that deals items out drops more of them on more processes
                assert isinstance(result, str), case
                assert "got an empty loader" in result, case
                continue
            for name, value in expected[case].items():
                assert torch.equal(result[name], value), f"{name} of {case}, rank {rank} of {n_processes}"


def test_rows_do_not_depend_on_how_the_loader_orders_them(expected):
    for case, result in expected.items():
        start = case.split(",")[0]
        if not isinstance(result, str):
            for name, value in expected[f"{start}, as it is"].items():
                assert torch.equal(result[name], value), case


@pytest.mark.parametrize("n_processes", [1, 2, 3, 5])
def test_shares_are_whole_batches(group, n_processes):
    for n_items, batch_size in itertools.product(range(1, 14), (1, 3, 4, 20)):
        loader = DataLoader(range(n_items), batch_size=batch_size, shuffle=True)
        dealt = []
        for rank in range(n_processes):
            group(rank, n_processes)
            rows = OrderedRows(loader)
            own = list(rows.batches())
            assert (rows.first_batch, rows.start) == (len(dealt), batch_size * len(dealt))
            dealt += own
        group(0, 1)
        alone = list(OrderedRows(loader).batches())
        assert [batch.tolist() for batch in dealt] == [batch.tolist() for batch in alone]
        assert torch.cat(alone).tolist() == list(range(n_items))


def test_a_process_may_read_everything(group):
    group(1, 2)
    rows = OrderedRows(DataLoader(range(5), batch_size=2, shuffle=True), share=False)
    assert torch.cat(list(rows.batches())).tolist() == [0, 1, 2, 3, 4]
    assert not rows.shared
    assert rows.gather([torch.arange(5)]).tolist() == [0, 1, 2, 3, 4]


def test_items_that_are_batches_are_not_shared(group):
    """Before an item is read nobody knows how many rows it has, so which noise the second process needs."""
    group(1, 2)
    batches = [images(6)[:1], images(6)[1:4], images(6)[4:]]
    vae = ready_vae()
    whole = vae.transform([images(6)])
    torch.testing.assert_close(vae.transform(DataLoader(batches, batch_size=None)), whole, rtol=1e-5, atol=1e-6)


def test_a_message_numbers_batches_as_one_process_does(group):
    group(1, 2)
    x = images(8)
    x[7] = float("nan")
    with pytest.raises(ValueError, match=r"The images of batch 3 must be finite, .* in item 1 with 8"):
        ready_vae().transform(DataLoader(x, batch_size=2))


TRAINED_SIZES = (7, 11, 12, 13)


def train_on(n_items, n_processes, folder):
    """Train on global batches of six and validate on five, on processes that the Trainer forks."""
    import lightning.pytorch as pl

    from monai_betavae.training.callbacks import MetricsTable

    class RankWeights(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            torch.save(pl_module.state_dict(), folder / f"{trainer.global_rank}.pt")

    folder.mkdir()
    items, held_out = images(n_items), images(5)
    order, held_out_order = GlobalOrder(items, shuffle=True, seed=1), GlobalOrder(held_out)
    size = 6 // n_processes
    vae = ready_vae(lr=0.05)
    vae.encoder[2].p = 0.0  # which features drop out depends on how the rows are dealt
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=n_processes,
        strategy="auto" if n_processes == 1 else "ddp_fork",
        max_epochs=3,
        callbacks=[MetricsTable(folder / "metrics.csv"), RankWeights()],
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


@pytest.mark.slow
def test_training_on_several_processes_equals_training_on_one(tmp_path):
    run_script(__file__, "train", tmp_path)
    for n_items, n_processes in itertools.product(TRAINED_SIZES, (2, 3)):
        alone, shared = tmp_path / f"{n_items} on 1", tmp_path / f"{n_items} on {n_processes}"
        losses = np.genfromtxt(alone / "metrics.csv", delimiter=",", names=True)
        assert losses.shape == (3,)
        assert losses["valloss"][0] != losses["valloss"][-1]
        # what is repeated so that all processes have as many must not count, neither in the losses nor in the steps
        others = np.genfromtxt(shared / "metrics.csv", delimiter=",", names=True)
        for column in losses.dtype.names:
            np.testing.assert_allclose(others[column], losses[column], rtol=1e-5, err_msg=f"{column} of {shared.name}")
        expected = torch.load(alone / "0.pt", weights_only=True)
        for rank in range(n_processes):
            found = torch.load(shared / f"{rank}.pt", weights_only=True)
            assert found.keys() == expected.keys()
            for name, weights in found.items():
                torch.testing.assert_close(
                    weights, expected[name], rtol=1e-4, atol=1e-5, msg=f"{name}, {shared.name}, rank {rank}"
                )


if __name__ == "__main__":
    if sys.argv[1] == "train":
        # alone last: no process can be forked from one that has computed gradients
        for n_processes, n_items in itertools.product((3, 2, 1), TRAINED_SIZES):
            train_on(n_items, n_processes, Path(sys.argv[2]) / f"{n_items} on {n_processes}")
    else:
        run_ranks(run_rank, Path(sys.argv[2]))


def test_batches_whose_rows_differ_in_shape_are_refused():
    rows = OrderedRows([])
    with pytest.raises(ValueError, match=r"All batches must have rows of one shape, got \(\) and \(2,\)"):
        rows.gather([torch.zeros(3, 2), torch.zeros(3)])
