"""Optimizers and learning rates: what the factories are given, what is refused, and where a resumed run goes on."""

import functools
from pathlib import Path

import lightning.pytorch as pl
import pytest
import quiet_trainer
import torch
from torch import nn, optim
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)
from torch.utils.data import DataLoader

from monai_betavae import VAE, build_vae
from monai_betavae.training.callbacks import WarmupAndDecay
from monai_betavae.training.checkpoints import LastCheckpoint
from monai_betavae.training.learning_rate import missing_length, rate_factor, warmup_and_decay

IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
SGD = functools.partial(optim.SGD, lr=0.01)


def loader(batch_size=2):
    return DataLoader(IMAGES, batch_size=batch_size)


class Rates(pl.Callback):
    """The learning rate of every step, by its number."""

    def __init__(self):
        self.rates = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]

    def listed(self):
        return [self.rates[step] for step in sorted(self.rates)]


def custom_vae(max_epochs=1, callbacks=(), **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
        decoder = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(1, (1, 4, 4)))
    options = {"random_state": 0, **quiet_trainer.QUIET, "max_epochs": max_epochs, "callbacks": list(callbacks)}
    options["enable_checkpointing"] = any(isinstance(callback, LastCheckpoint) for callback in callbacks)
    return VAE(encoder, decoder, 4, 2, **{**options, **kwargs})


def rates_of(epochs, *, val=None, ckpt_path=None, saver=None, **kwargs):
    recorded = Rates()
    saver = saver if ckpt_path is None else LastCheckpoint(ckpt_path)
    vae = custom_vae(epochs, [recorded] if saver is None else [recorded, saver], **kwargs)
    vae.fit(loader(), val, ckpt_path=ckpt_path)
    return recorded.listed()


# ---- what is made ----------------------------------------------------------------------------------------------------


def test_without_factories_it_is_the_reference_s_adamw():
    made = custom_vae(lr=0.1).configure_optimizers()
    assert type(made) is list
    assert type(made[0]) is optim.AdamW


def test_an_optimizer_of_one_s_own():
    vae = custom_vae(optimizer=functools.partial(optim.SGD, lr=0.5, momentum=0.9))
    (optimizer,) = vae.configure_optimizers()
    assert type(optimizer) is optim.SGD
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.5, 0.9)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in vae.parameters()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": optim.SGD([torch.zeros(1)], lr=1.0)}, "`optimizer` must be None or a callable.*type SGD"),
        ({"optimizer": "sgd"}, "`optimizer` must be None or a callable.*type str"),
        ({"lr_scheduler": 3}, "`lr_scheduler` must be None or a callable.*type int"),
        ({"lr_interval": "steps"}, "`lr_interval` must be one of 'step', 'epoch', got 'steps'. Did you mean 'step'"),
    ],
)
def test_what_is_no_factory(arguments, message):
    with pytest.raises(ValueError, match=message):
        custom_vae(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"optimizer": lambda p: None},
            r"`optimizer` must be a callable from .*got one that gives a value of type None",
        ),
        ({"optimizer": functools.partial(optim.SGD, lrr=1)}, r"`optimizer` must be .* but stops: .*'lrr'"),
        ({"lr_scheduler": lambda o: o}, r"`lr_scheduler` must be a callable from .*gives a value of type AdamW"),
        (
            {"lr_scheduler": lambda o: {"interval": "step"}},
            "`lr_scheduler` .* a dictionary whose 'scheduler' is a value",
        ),
        (
            {"lr_scheduler": lambda o: StepLR(SGD([torch.zeros(1)]), 1)},
            "`lr_scheduler` .* scheduler of another optimizer",
        ),
        ({"lr_scheduler": StepLR}, "`lr_scheduler` must be .* but stops: .*step_size"),
        ({"lr_scheduler": CosineAnnealingLR}, "`lr_scheduler` needs the length of the training: set max_epochs"),
    ],
)
def test_what_a_factory_must_give(arguments, message):
    with pytest.raises(ValueError, match=message):
        custom_vae(**arguments).configure_optimizers()


@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (OneCycleLR, "total_steps"),
        (functools.partial(OneCycleLR, max_lr=0.1, total_steps=None), "total_steps"),
        (functools.partial(functools.partial(OneCycleLR, total_steps=4), max_lr=0.1), None),
        (functools.partial(OneCycleLR, max_lr=0.1, epochs=2, steps_per_epoch=3), None),
        (functools.partial(OneCycleLR, max_lr=0.1, epochs=2), "total_steps"),
        (CosineAnnealingLR, "T_max"),
        (warmup_and_decay, "total_steps"),
        (functools.partial(StepLR, step_size=3), None),
        (lambda optimizer: None, None),
        (lambda optimizer, total_steps: None, "total_steps"),
        (len, None),
    ],
)
def test_which_factories_lack_the_length(factory, name):
    assert missing_length(factory) == name


@pytest.mark.parametrize(
    ("options", "steps", "epochs"),
    [
        ({"max_epochs": 4}, 12, 4),
        ({"max_epochs": 4, "accumulate_grad_batches": 2}, 8, 4),
        ({"max_epochs": None, "max_steps": 5}, 5, 2),
        ({"max_epochs": 3, "max_steps": 5}, 5, 2),
        ({"max_epochs": 1, "limit_train_batches": 2}, 2, 1),
    ],
)
def test_the_length_of_the_training(options, steps, epochs):
    for interval, length in (("step", steps), ("epoch", epochs)):
        vae = custom_vae(lr_scheduler=CosineAnnealingLR, lr_interval=interval, **options).fit(loader())
        (config,) = vae.trainer.lr_scheduler_configs
        assert (config.scheduler.T_max, config.interval) == (length, interval)
        if "max_steps" not in options:  # they end in the middle of an epoch
            assert config.scheduler.last_epoch == length


def test_a_training_without_an_end_has_no_length():
    with pytest.raises(
        ValueError, match="`lr_scheduler` needs the length of the training: set max_epochs or max_steps"
    ):
        custom_vae(max_epochs=-1, lr_scheduler=warmup_and_decay).fit(loader())


def test_rates_of_torch_s_own():
    expected, optimizer = [], SGD([torch.zeros(1, requires_grad=True)])
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=6)
    for _ in range(6):
        expected += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    assert rates_of(2, optimizer=SGD, lr_scheduler=functools.partial(OneCycleLR, max_lr=0.1)) == pytest.approx(expected)


def test_a_step_per_epoch():
    factory = functools.partial(StepLR, step_size=1, gamma=0.1)
    found = rates_of(2, lr=1e-2, lr_scheduler=factory, lr_interval="epoch")
    assert found == pytest.approx([1e-2] * 3 + [1e-3] * 3)


def test_lightning_s_own_dictionary_is_passed_on():
    def factory(optimizer):
        return {"scheduler": StepLR(optimizer, 1, 0.1), "interval": "step", "frequency": 2}

    made = custom_vae(lr_scheduler=factory).configure_optimizers()["lr_scheduler"]
    assert (made["interval"], made["frequency"]) == ("step", 2)
    assert rates_of(1, lr=1.0, lr_scheduler=factory) == pytest.approx([1.0, 1.0, 0.1])


def test_a_plateau_is_that_of_the_validation():
    factory = functools.partial(ReduceLROnPlateau, patience=0, factor=0.1, threshold=1e9, threshold_mode="abs")
    assert rates_of(3, val=loader(), lr=1e-2, lr_scheduler=factory) == pytest.approx(
        [1e-2] * 3 + [1e-2] * 3 + [1e-3] * 3
    )
    with pytest.raises(
        ValueError, match="`lr_scheduler` ReduceLROnPlateau follows 'val/loss', so it needs a validation"
    ):
        rates_of(1, lr_scheduler=factory)
    every_other = rates_of(4, val=loader(), lr=1e-2, lr_scheduler=factory, check_val_every_n_epoch=2)
    assert every_other == pytest.approx([1e-2] * 12)


# ---- warm-up and decay -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 4, 20])
def test_warmup_and_decay_gives_the_callback_s_rates(epochs):
    recorded = Rates()
    custom_vae(epochs, [WarmupAndDecay(), recorded], lr=1e-2).fit(loader())
    assert len(recorded.rates) == 3 * epochs
    assert rates_of(epochs, lr=1e-2, lr_scheduler=warmup_and_decay) == pytest.approx(recorded.listed(), rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_steps": 0}, "`total_steps` must be an integer >= 1, got 0"),
        ({"total_steps": 5, "warmup_steps": 0}, "`warmup_steps` must be an integer >= 1, got 0"),
        ({"total_steps": 5, "decay_fraction": 0}, "`decay_fraction` must be a finite number > 0 and <= 1, got 0"),
    ],
)
def test_a_bad_course(arguments, message):
    with pytest.raises(ValueError, match=message):
        warmup_and_decay(SGD([torch.zeros(1, requires_grad=True)]), **arguments)


# ---- resuming --------------------------------------------------------------------------------------------------------

COURSES = {
    "warm-up and decay": (warmup_and_decay, "step"),
    "one cycle": (functools.partial(OneCycleLR, max_lr=0.1), "step"),
    "cosine": (CosineAnnealingLR, "step"),
    "cosine by epoch": (CosineAnnealingLR, "epoch"),
    "steps by epoch": (functools.partial(StepLR, step_size=2, gamma=0.5), "epoch"),
    "milestones": (functools.partial(MultiStepLR, milestones=[2, 5], gamma=0.5), "step"),
    "lambda by epoch": (functools.partial(LambdaLR, lr_lambda=lambda epoch: 1 / (1 + epoch)), "epoch"),
}


class InterruptedRunError(Exception):
    pass


class Interrupt(pl.Callback):
    """End a run that was planned to be longer."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise InterruptedRunError


@pytest.mark.parametrize("kind", COURSES)
def test_a_run_that_is_interrupted_goes_on_with_its_course(kind, tmp_path):
    factory, interval = COURSES[kind]
    options = {"lr": 1e-2, "lr_scheduler": factory, "lr_interval": interval}
    whole = rates_of(4, **options)
    path = tmp_path / "last.ckpt"
    interrupted = custom_vae(4, [Interrupt(2), LastCheckpoint(path)], **options)
    with pytest.raises(InterruptedRunError):
        interrupted.fit(loader())
    assert rates_of(4, ckpt_path=path, **options) == pytest.approx(whole[6:])


@pytest.mark.parametrize("kind", ["warm-up and decay", "steps by epoch", "milestones", "lambda by epoch"])
def test_more_epochs_follow_the_course_over_all_of_them(kind, tmp_path):
    factory, interval = COURSES[kind]
    options = {"lr": 1e-2, "lr_scheduler": factory, "lr_interval": interval}
    path = tmp_path / "last.ckpt"
    rates_of(2, saver=LastCheckpoint(path), **options)
    assert rates_of(5, ckpt_path=path, **options) == pytest.approx(rates_of(5, **options)[6:])


@pytest.mark.parametrize(
    ("kind", "name", "then", "now"), [("one cycle", "total_steps", 6, 15), ("cosine by epoch", "T_max", 2, 5)]
)
def test_a_course_that_can_not_change_is_refused_before_training(kind, name, then, now, tmp_path):
    factory, interval = COURSES[kind]
    options = {"lr_scheduler": factory, "lr_interval": interval}
    path = tmp_path / "last.ckpt"
    rates_of(2, saver=LastCheckpoint(path), **options)
    recorded = Rates()
    message = (
        rf"last\.ckpt can't be resumed from: `lr_scheduler` \w+ can't .*`{name}` was {then} .*is {now} now.*max_epochs"
    )
    with pytest.raises(ValueError, match=message) as caught:
        custom_vae(5, [recorded], **options).fit(loader(), ckpt_path=path)
    assert "\n" not in str(caught.value)
    assert not recorded.rates


@pytest.mark.parametrize("kind", COURSES)
@pytest.mark.parametrize("with_callback", [False, True])
def test_a_checkpoint_without_a_scheduler_s_state_goes_on_at_its_step(kind, with_callback, tmp_path):
    """As those of release 0.1.0, whose callback left scaled rates in the optimizer's state."""
    factory, interval = COURSES[kind]
    path = tmp_path / "last.ckpt"
    scaling = [WarmupAndDecay(warmup_steps=100)] if with_callback else []
    custom_vae(2, [*scaling, LastCheckpoint(path)], lr=1e-2).fit(loader())
    content = torch.load(path, weights_only=True)
    assert content["lr_schedulers"] == []
    assert "initial_lr" not in content["optimizer_states"][0]["param_groups"][0]
    options = {"lr": 1e-2, "lr_scheduler": factory, "lr_interval": interval}
    assert rates_of(4, ckpt_path=path, **options) == pytest.approx(rates_of(4, **options)[6:])


def test_a_plateau_starts_anew_on_a_checkpoint_without_its_state(tmp_path):
    path = tmp_path / "last.ckpt"
    rates_of(1, saver=LastCheckpoint(path), lr=1e-2)
    factory = functools.partial(ReduceLROnPlateau, patience=5)
    assert rates_of(2, val=loader(), ckpt_path=path, lr=1e-2, lr_scheduler=factory) == pytest.approx([1e-2] * 3)


def test_a_course_that_was_over_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    rates_of(2, saver=LastCheckpoint(path))
    factory = functools.partial(OneCycleLR, max_lr=0.1, total_steps=4)
    with pytest.raises(ValueError, match="`lr_scheduler` can't go on after 6 steps, the checkpoint's: "):
        rates_of(3, ckpt_path=path, lr_scheduler=factory)


def test_the_weights_are_those_of_a_run_in_one_go(tmp_path):
    """AdamW's moments come back with the rates."""

    class Seeds(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            torch.manual_seed(trainer.global_step)

    path = tmp_path / "last.ckpt"
    options = {"lr": 1e-2, "lr_scheduler": functools.partial(OneCycleLR, max_lr=0.1)}
    whole = custom_vae(4, [Seeds()], **options).fit(loader())
    with pytest.raises(InterruptedRunError):
        custom_vae(4, [Seeds(), Interrupt(2), LastCheckpoint(path)], **options).fit(loader())
    resumed = custom_vae(4, [Seeds(), LastCheckpoint(path)], **options).fit(loader(), ckpt_path=path)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Lightning")
def test_a_run_of_release_0_1_0_goes_on_with_a_scheduler_in_the_callback_s_place():
    path = Path(__file__).parents[1] / "support" / "released" / "0.1.0" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    assert (content["lr_schedulers"], content["callbacks"]["WarmupAndDecay"]) == ([], {"rates": [0.001]})
    done, epochs = content["global_step"], content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    recorded = Rates()
    options = {**quiet_trainer.QUIET, "max_epochs": epochs + 2, "callbacks": [recorded]}
    vae = VAE.load_from_checkpoint(path, lr_scheduler=warmup_and_decay, **options)
    volumes = torch.rand(6, *vae.encoder.in_shape, generator=torch.Generator().manual_seed(0))
    vae.fit(DataLoader(volumes, batch_size=6 * epochs // done), ckpt_path=path)
    total = done // epochs * (epochs + 2)
    expected = {step: 0.001 * rate_factor(step, total, 20, 0.4) for step in range(done, total)}
    assert recorded.rates == pytest.approx(expected)


def test_loggers_are_told_what_the_factory_says_of_itself():
    encoder, decoder = torch.nn.Flatten(), torch.nn.Unflatten(1, (1, 4))
    told = functools.partial(torch.optim.SGD, lr=0.25)
    vae = VAE(encoder, decoder, 4, 4, optimizer=told)
    assert vae.hparams["lr"] == 0.25
    assert "weight_decay" not in vae.hparams
    assert not {"lr", "weight_decay"} & set(VAE(encoder, decoder, 4, 4, optimizer=lambda _: None).hparams)
    assert VAE(encoder, decoder, 4, 4, lr=0.5).hparams["lr"] == 0.5
    with pytest.raises(ValueError, match="`lr` must not be given beside `optimizer`"):
        VAE.from_network(build_vae((8, 8), 2), optimizer=told, lr=0.1)
