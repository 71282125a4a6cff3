"""The rules of scikit-learn for the parameters of an estimator: read them, change them, clone the estimator."""

from __future__ import annotations

import contextlib
import copy
import inspect
from typing import Any

import lightning.pytorch as pl
from torch import nn

from ._checks import check_choice
from ._estimator_arguments import CHECKED

MAX_COPIED_BYTES = 2**29
"""Networks of up to this size are copied before their first training, so that a clone can start where they did."""


class SklearnParameters:
    """``get_params``, ``set_params`` and ``sklearn.base.clone`` for a LightningModule that is made of networks."""

    def get_params(self: Any, deep: bool = True) -> dict[str, Any]:
        """Return the arguments that make a model like this one, as scikit-learn asks for them.

        Args:
            deep: ignored: no argument is an estimator.

        Returns:
            The arguments of the class and those of the Trainer, by name. A derived class has its own arguments as
            attributes, or among its ``hparams``.

        Raises:
            ValueError: naming an argument of a derived class that is neither.

        Example:
            >>> from monai_betavae import build_vae
            >>> build_vae((16, 16, 16), latent_dim=2, beta=4.0, max_epochs=3).get_params()["max_epochs"]
            3
        """
        current = {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "loss": self.criterion if self._loss_given else None,
            "optimizer": self.optimizer,
            "lr_scheduler": self.lr_scheduler,
            "default_dist": self.default_dist,
            "ignore": self._arguments.get("ignore"),
            "save_hparams": self._arguments.get("save_hparams", True),
            **{name: getattr(self, name) for name in CHECKED},
        }
        names, takes_more = self._argument_names()
        found = {}
        for name in names:
            if name in current:
                found[name] = current[name]
            elif hasattr(self, name) or name in self.hparams:
                found[name] = getattr(self, name) if hasattr(self, name) else self.hparams[name]
            else:
                raise ValueError(
                    f"{type(self).__name__} must keep its argument `{name}` as an attribute of that name, for "
                    "get_params and clone."
                )
        return {**found, **self.trainer_params_} if takes_more else found

    def set_params(self: Any, **params: Any) -> Any:
        """Give arguments other values, as scikit-learn does; see :class:`~monai_betavae.VAE` for what they may be.

        The weights stay unless the sizes or the networks change. Then the model is untrained again, with the networks
        that it has or is given. ``random_state`` draws the linear layers of an untrained model anew.

        Args:
            params: arguments of the class or of the Trainer.

        Returns:
            The estimator itself. It is unchanged if a value is refused.

        Raises:
            ValueError: naming the argument, what came and what is accepted.

        Example:
            >>> from monai_betavae import build_vae
            >>> build_vae((16, 16, 16), latent_dim=2).set_params(beta=2.0).beta
            2.0
        """
        if not params:
            return self
        known = self.get_params()
        accepted = list(known)
        if self._argument_names()[1]:
            # the arguments of the class that this one derives from, and hands its own keyword arguments to
            bases = [base for base in type(self).__mro__ if issubclass(base, SklearnParameters)]
            more = [name for base in bases for name in inspect.signature(base.__init__).parameters]
            more += inspect.signature(pl.Trainer.__init__).parameters
            accepted += [name for name in more if name not in (*known, "self", "args", "kwargs")]
        for name in params:
            check_choice(f"name of a parameter of {type(self).__name__}", name, accepted)
        made = type(self)(**{**known, **params})
        networks = {name for name in ("encoder", "decoder") if getattr(made, name) is not getattr(self, name)}
        same = not networks and (made.encoder_out_dim, made.latent_dim) == (self.encoder_out_dim, self.latent_dim)
        if same and (self.fitted_ or made.random_state == self.random_state):
            made.fc_mu, made.fc_logvar = self.fc_mu, self.fc_logvar
        if same:
            made.fitted_, made._started = self.fitted_, self._started
            if self._initial is not None:
                made._initial = {name: value for name, value in self._initial.items() if name not in params}
        made.to(self.device)
        self.__dict__.update(made.__dict__)
        return self

    def _argument_names(self) -> tuple[list[str], bool]:
        """Return the names of the arguments of this model's class, and whether it takes others beside them."""
        parameters = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        further = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        named = [parameter.name for parameter in parameters if parameter.kind not in further]
        return named, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)

    def __sklearn_clone__(self: Any) -> Any:
        """Return an untrained model of the same arguments, for ``sklearn.base.clone``.

        Raises:
            ValueError: if the model is trained and the state of its networks before training is unknown.
        """
        if self._initial is None and self.fitted_:
            raise ValueError(
                "clone needs the weights that the networks had before training, and this VAE was loaded trained, or "
                f"has networks of over {MAX_COPIED_BYTES // 2**20} MiB, which are not kept: build a new one."
            )
        params, own = self.get_params(), self._stateful()
        copies = copy.deepcopy({**own, **(self._initial or {})})
        made = type(self)(**{**params, **{name: value for name, value in copies.items() if name in params}})
        if {"encoder", "decoder"} <= params.keys():
            made.fc_mu, made.fc_logvar = copies["fc_mu"], copies["fc_logvar"]
        return made

    def _stateful(self: Any) -> dict[str, Any]:
        """Return what a training changes: networks, a loss that was passed in, the callbacks of the Trainer."""
        changing = {
            name: value
            for name, value in self.get_params().items()
            if isinstance(value, nn.Module) or (name in ("loss", "callbacks") and value is not None)
        }
        return {**changing, "fc_mu": self.fc_mu, "fc_logvar": self.fc_logvar}

    def _untrained_copies(self: Any) -> dict[str, Any] | None:
        """Return copies of what the first training changes, for a clone; ``None`` where they can't be had."""
        size = sum(weights.nbytes for weights in self.state_dict().values())
        if self._initial is not None or self.fitted_ or size > MAX_COPIED_BYTES:
            return self._initial  # type: ignore[no-any-return]  # what VAE.__init__ made
        # what can't be copied can't be cloned either
        with contextlib.suppress(Exception):
            kept = copy.deepcopy(self._stateful())
            return {name: value.cpu() if isinstance(value, nn.Module) else value for name, value in kept.items()}
        return None

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn asks of an estimator: nothing in particular."""
        from sklearn.base import BaseEstimator

        return BaseEstimator().__sklearn_tags__()

    def __sklearn_is_fitted__(self: Any) -> bool:
        """Return whether ``sklearn.utils.validation.check_is_fitted`` passes."""
        return bool(self.fitted)
