"""Model files: written whole or not at all, read without executing anything."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import traceback
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import torch
from torch import nn

from .atomic_files import atomic_path
from .descriptions import rebuild

ZIP_START = b"PK\x03\x04"
"""How every zip begins that torch writes."""


def source_name(source: str | os.PathLike[str] | IO[bytes]) -> str:
    """Return how messages name a file or stream."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else repr(source)


def save_weights(content: Any, path: str | os.PathLike[str], *, make_folder: bool = True) -> None:
    """Write tensors and plain values to a torch file, whole or not at all; equal content makes equal bytes.

    Args:
        content: tensors and plain values, nested.
        path: of the file.
        make_folder: whether its folder is made if it is missing; otherwise that is an error.

    Raises:
        UnwritableFileError: naming the file, if it can't be written.
    """
    # through memory: to a path torch would write the file's name, here a random one, into the file, and would tell of
    # a full disk in its own words
    packed = io.BytesIO()
    torch.save(content, packed)
    with atomic_path(path, make_folder=make_folder) as temporary:
        temporary.write_bytes(packed.getbuffer())


def load_weights_only(source: str | os.PathLike[str] | IO[bytes], *, verify: bool = True) -> Any:
    """Read a torch file of tensors and plain values onto the CPU.

    Args:
        source: path or binary stream.
        verify: whether to compare the checksums that the file holds, which reads it once more (80 MB in 0.1 s): torch
            itself doesn't, and would take a damaged weight for a weight.

    Raises:
        ValueError: naming the file, if it doesn't exist, isn't a torch file, is damaged, or holds objects whose loading
            would execute code.
    """
    if isinstance(source, str | os.PathLike) and not os.path.isfile(source):
        raise ValueError(f"{os.fspath(source)} must be an existing model file.")
    try:
        _check_archive(source, verify)
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(source_name(source)) from error
    except Exception as error:  # torch's reader of old files raises whatever foreign bytes make it stumble over
        raise ValueError(f"{source_name(source)} can't be read as a torch file: {error}") from error


def _refusal(source: str) -> ValueError:
    return ValueError(
        f"{source} was refused: it holds more than tensors and plain values, and loading that could execute code."
    )


def _check_archive(source: str | os.PathLike[str] | IO[bytes], verify: bool) -> None:
    """Refuse a zip that torch didn't write: what it packs could fill the memory, and its names could be paths."""
    with open(source, "rb") if isinstance(source, str | os.PathLike) else contextlib.nullcontext(source) as stream:
        position = stream.tell()
        try:
            # torch takes a file for a zip by its first bytes; one of old, or none, begins otherwise
            if stream.read(len(ZIP_START)) == ZIP_START:
                with zipfile.ZipFile(stream) as archive:
                    _check_records(archive, verify)
        finally:
            stream.seek(position)


def _check_records(archive: zipfile.ZipFile, verify: bool) -> None:
    records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("its records are compressed, which torch's never are")
    if sum(record.file_size for record in records) > archive.start_dir:
        raise ValueError("its records are said to be larger than the file")
    if any(record.filename.startswith("/") or ".." in record.filename.split("/") for record in records):
        raise ValueError("its records are named like files elsewhere")
    damaged = archive.testzip() if verify else None
    if damaged is not None:
        raise ValueError(f"its record {damaged} is damaged")


@contextlib.contextmanager
def name_file_in_errors(source: str) -> Iterator[None]:
    """Say which file it is whose values something stumbles over.

    Args:
        source: the file.

    Raises:
        ValueError: naming it.

    Example:
        >>> with name_file_in_errors("model.pt"):
        ...     {}["state_dict"]
        Traceback (most recent call last):
        ValueError: model.pt can't be loaded: KeyError: 'state_dict'
    """
    try:
        yield
    except Exception as error:  # what a file may hold is more than any constructor expects
        if isinstance(error, ValueError) and str(error).startswith(source):
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{source} can't be loaded: {kind}{error}") from error


@contextlib.contextmanager
def name_resumed_checkpoint(trainer: Any) -> Iterator[None]:
    """Name the checkpoint that a Lightning trainer stumbles over when it restores a run from it.

    Under SLURM Lightning also restores, by itself, from the newest ``hpc_ckpt_*.ckpt`` in its ``default_root_dir``.

    Args:
        trainer: the trainer, whose ``fit`` is called inside.

    Raises:
        ValueError: naming the file, if it holds code or isn't a checkpoint of this run. Other errors stay as they are.
    """
    try:
        yield
    except Exception as error:
        frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        if trainer.ckpt_path is None or not any(name.endswith(".checkpoint_connector") for name in frames):
            raise
        if isinstance(error, pickle.UnpicklingError):
            raise _refusal(str(trainer.ckpt_path)) from error
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{trainer.ckpt_path} can't be resumed from: {kind}{error}") from error


def refuse_stray_paths(checkpoint: Any, folders: Iterable[Any] = ()) -> None:
    """Refuse a Lightning checkpoint that says that an earlier one lies where none of a run's would.

    A ``ModelCheckpoint`` takes the path of the best checkpoint so far from the file, and once there is a better one
    removes what is there, a folder with all that is in it. It asks whether the path begins with its own folder, but
    follows a ``..`` in it, and doesn't ask for a path such as ``local:///home`` (Lightning 2.6).

    Args:
        checkpoint: the checkpoint.
        folders: where the trainer's own checkpoints lie; a folder of theirs may be on a remote file system.

    Raises:
        ValueError: naming the path.
    """
    states = checkpoint.get("callbacks") if isinstance(checkpoint, Mapping) else None
    for state in states.values() if isinstance(states, Mapping) else ():
        if not isinstance(state, Mapping) or "best_model_path" not in state:
            continue
        best = state.get("best_k_models")
        values = [
            *(best if isinstance(best, Mapping) else ()),
            *(v for k, v in state.items() if str(k).endswith("path")),
        ]
        for path in values:
            text = str(path)
            own = any(text.startswith(f"{os.fspath(folder).rstrip('/')}/") for folder in folders if folder)
            if ".." in re.split(r"[/\\]", text) or (("://" in text or "::" in text) and not own):
                raise ValueError(f"its earlier checkpoints must lie in the folder of the run, got {text!r:.200}.")


def parse_description(text: Any, source: str) -> dict[str, Any]:
    """Parse a model's JSON description.

    Args:
        text: JSON of an object with "hparams", "encoder" and "decoder".
        source: where it came from, for messages.

    Raises:
        ValueError: if it isn't that.
    """
    try:
        description = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:  # numbers of 5000 digits, a hundred thousand brackets
        raise ValueError(f"{source} must hold a JSON description of the model, got {text!r:.80}.") from error
    if not isinstance(description, dict) or not isinstance(description.get("hparams"), dict):
        raise ValueError(f"{source}: the description must have the model's 'hparams', got {text!r:.80}.")
    return description


def described_networks(
    description: dict[str, Any],
    given: dict[str, nn.Module | None],
    source: str,
    weights: Any = None,
) -> dict[str, nn.Module]:
    """Return the networks of a model: those given, the others rebuilt from the description.

    Args:
        description: of the model.
        given: networks by name, ``None`` for those that are to be rebuilt.
        source: where the description came from, for messages.
        weights: state dict of the model, as in :func:`~monai_betavae.saving.descriptions.rebuild`.

    Raises:
        ValueError: if a network is neither given nor described, the weights aren't a state dict, or as in ``rebuild``.
    """
    if weights is not None and not isinstance(weights, Mapping):
        raise ValueError(f"{source} must hold the weights of a model under 'state_dict', got {weights!r:.80}.")
    networks = {}
    for name, network in given.items():
        if network is None and description.get(name) is None:
            raise ValueError(
                f"`{name}` must be passed in: {source} was saved with one that no builder of monai_betavae made."
            )
        networks[name] = network if network is not None else rebuild(description[name], source, weights)
    return networks
