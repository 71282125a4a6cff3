"""Terms that compare the images of a batch are those of the global batch, however the processes share it."""

import os
import sys
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from forked_ranks import RANKS, results_of_ranks, run_ranks, run_script
from torch import nn
from torch.distributions import Normal
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from monai_betavae import VAE
from monai_betavae.batches.gathered_rows import gather_posteriors, gather_rows
from monai_betavae.batches.process_shares import BatchShare
from monai_betavae.data import GlobalOrder
from monai_betavae.objectives import BetaTCVAELoss, DIPVAELoss, InfoVAELoss

LOSSES = {
    "beta-tcvae, stratified": BetaTCVAELoss(6.0, alpha=0.5, gamma=2.0),
    "beta-tcvae, weighted": BetaTCVAELoss(6.0, alpha=0.5, estimator="weighted"),
    "dip-vae I": DIPVAELoss(kind="I"),
    "dip-vae II": DIPVAELoss(kind="II"),
    "info-vae": InfoVAELoss(weight=50.0),
    "info-vae without KL": InfoVAELoss(alpha=1.0),
}
SIZES = (7, 5)
"""Images in global batches of 4. The last one has 3, two on one process and one on the other, or 1, on the first."""


# ---- one process -----------------------------------------------------------------------------------------------------


def test_alone_nothing_is_gathered():
    own, q = torch.randn(3, 2, requires_grad=True), Normal(torch.zeros(3, 2), torch.ones(3, 2))
    share = BatchShare(0, 1, 3, 3)
    assert gather_rows(own, share) is own
    everyone, codes = gather_posteriors(q, own, share)
    assert everyone is q
    assert codes is own


# ---- several processes: this file is run as a script, which forks the ranks; so nothing of pytest is in them ---------


def images(n_items):
    return torch.rand(n_items, 1, 2, 2, 2, generator=torch.Generator().manual_seed(n_items))


def flat_gradient(module):
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


def gathered_of(counts, rank, *, told=True):
    """Rows that a linear layer makes, gathered, and its gradient of a term of all rows, as a training step makes it."""
    n_processes, n_global = len(counts), sum(counts)
    x = torch.randn(n_global, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    dealt = sorted((row, process) for process, count in enumerate(counts) for row in range(count))
    mine = [index for index, (_, process) in enumerate(dealt) if process == rank]
    layer = nn.Linear(3, 2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    # where nothing says what others hold, a process takes it that they hold as much
    n_own = len(mine)
    share = BatchShare(rank, n_processes, n_own, n_global if told else n_own * n_processes)
    network = layer if n_processes == 1 else DistributedDataParallel(layer)
    own = network(x[mine] if mine else x[:1])  # who owns none computes a row that another process owns
    rows = gather_rows(own, share)
    # no two rows, and no order of them, have the same share of the term
    weights = torch.arange(1, len(rows) + 1, dtype=torch.float64)
    term = (rows.T @ (weights[:, None] * rows)).square().sum()
    (share.weight * (term + 0 * own.sum())).backward()
    return {"rows": rows.detach(), "term": term.detach(), "gradient": flat_gradient(layer)}


COUNTS = {1: [(5,), (1,), (2,)], 2: [(3, 2), (1, 0), (1, 1)], 3: [(2, 2, 1), (1, 0, 0), (1, 1, 0)]}


class Steps(pl.Callback):
    """What each training step gives, logs and does to the weights, and what validations log."""

    def __init__(self):
        self.found = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradient = flat_gradient(pl_module).clone()  # after the processes' average

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        logged = {name: value.clone() for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        given = {name: value.detach().clone() for name, value in outputs.items()}
        self.found.append({"gradient": self.gradient, "given": given, "logged": logged})

    def on_validation_end(self, trainer, pl_module):
        self.found.append({name: value.clone() for name, value in trainer.callback_metrics.items() if "val/" in name})


def trained(loss, n_items, n_processes, make_sampler, global_batch=4):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Tanh())
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Unflatten(1, (1, 2, 2, 2)))
    vae, steps = VAE(encoder, decoder, 6, 2, loss=loss, optimizer=partial(torch.optim.SGD, lr=1e-3)), Steps()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=n_processes,
        strategy="auto" if n_processes == 1 else "ddp",
        precision="64-true",  # a total correlation is a small difference of large numbers
        max_epochs=1,
        callbacks=[steps],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    items = images(n_items)
    loader = DataLoader(items, batch_size=global_batch // n_processes, sampler=make_sampler(items))
    torch.manual_seed(7)
    trainer.fit(vae, loader, loader)
    return steps.found


def dealt_in_order(rank, n_processes, items):
    return DistributedSampler(items, n_processes, rank, shuffle=False)


def run_rank(rank, n_processes, folder):
    torch.set_num_threads(1)
    # as torchrun tells a process, so that Lightning starts no others; the group exists by then, and needs no port
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n_processes, "LOCAL_WORLD_SIZE": n_processes}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0, "TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": 0}
    os.environ.update({name: str(value) for name, value in told.items()})
    if n_processes > 1:
        address = (folder / f"rendezvous of {n_processes}").as_uri()
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=n_processes)
    try:
        found = {"gathered": [gathered_of(counts, rank) for counts in COUNTS[n_processes]]}
        unequal = {2: (3, 2), 3: (3, 1, 2)}.get(n_processes, (6,))
        found["untold"] = gathered_of(unequal, rank, told=False)
        nothing = BatchShare(rank, n_processes, 0, 0)
        found["nobody's"] = gather_rows(torch.ones(1, 2), nothing)
        if n_processes < 3:
            for name, loss in LOSSES.items():
                for n_items in SIZES:
                    sampler = partial(dealt_in_order, rank, n_processes)
                    found[name, n_items] = trained(loss, n_items, n_processes, sampler)
            found["in one order"] = trained(LOSSES["dip-vae II"], 7, n_processes, GlobalOrder)
        if n_processes != 2:  # of the last batch's two images, the third process owns none
            found["on three"] = trained(LOSSES["beta-tcvae, stratified"], 8, n_processes, GlobalOrder, 6)
        torch.save(found, folder / f"rank {rank} of {n_processes}.pt")
        if n_processes > 1:
            dist.barrier()
    finally:
        if n_processes > 1:
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What every rank of a group of 1, 2 and 3 processes got."""
    folder = tmp_path_factory.mktemp("ranks")
    run_script(__file__, folder)
    return results_of_ranks(folder)


def assert_same(found, expected, case):
    """Equal to 1e-9 of the whole; single entries of a gradient may cancel to nearly nothing."""
    assert found.shape == expected.shape, case
    assert (found - expected).norm() <= 1e-9 * expected.norm(), (case, found, expected)


@pytest.mark.parametrize("n_processes", [2, 3])
def test_rows_and_gradients_are_those_of_one_process(found, n_processes):
    alone = {len(one["rows"]): one for one in found[0, 1]["gathered"]}
    for rank in range(n_processes):
        for counts, shared in zip(COUNTS[n_processes], found[rank, n_processes]["gathered"], strict=True):
            expected = alone[sum(counts)]
            torch.testing.assert_close(shared["rows"], expected["rows"], rtol=1e-12, atol=0)
            for name in ("term", "gradient"):
                torch.testing.assert_close(shared[name], expected[name], rtol=1e-12, atol=0, msg=f"{name} of {counts}")


def test_processes_may_hold_other_numbers_than_they_think(found):
    expected = found[0, 1]["untold"]
    assert len(expected["rows"]) == 6
    for rank in range(3):
        for name, value in found[rank, 3]["untold"].items():
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=0)
    assert [len(found[rank, 2]["untold"]["rows"]) for rank in range(2)] == [5, 5]


def test_rows_that_no_process_owns_stay_where_they_are(found):
    for each in RANKS:
        assert torch.equal(found[each]["nobody's"], torch.ones(1, 2))


CASES = [*((name, n_items) for name in LOSSES for n_items in SIZES), "in one order", "on three"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_is_that_of_one_process(found, case):
    n_processes = 3 if case == "on three" else 2
    expected, shared = found[0, 1][case], [found[rank, n_processes][case] for rank in range(n_processes)]
    assert len(expected) == 3  # two steps and a validation
    for number, step in enumerate(expected[:2]):
        steps = [each[number] for each in shared]
        assert step["gradient"].norm() > 0
        for each in steps:
            assert_same(each["gradient"], step["gradient"], (case, number))
        for name, value in step["given"].items():
            average = torch.stack([each["given"][name] for each in steps]).mean(dim=0)
            assert_same(average, value, (case, number, name))
        own = {"train/loss", "train/rec_loss", "train/kl_loss"}
        assert own < set(step["logged"])
        for name, value in step["logged"].items():
            for each in steps:
                if name not in own:  # the whole batch's on each process, also on one that owns nothing
                    assert_same(each["logged"][name], value, (case, number, name))
    for name, value in expected[2].items():
        for each in shared:
            assert_same(each[2][name], value, (case, name))


if __name__ == "__main__":
    run_ranks(run_rank, Path(sys.argv[1]))
