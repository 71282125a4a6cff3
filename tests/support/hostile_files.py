"""Files whose loading would run somebody else's code, if anything unpickled them; and true files, damaged at random."""

from __future__ import annotations

import builtins
import collections
import functools
import io
import os
import pickle
import subprocess
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Payload:
    """What calls a function with some arguments as soon as it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def payload_of(marker: Path) -> Payload:
    """Return the one that goes into every place; it makes the file ``marker``."""
    return Payload(Path.touch, marker)


PAYLOADS: dict[str, Callable[[Path], Any]] = {
    "open": lambda marker: Payload(builtins.open, str(marker), "w"),
    "os.system": lambda marker: Payload(os.system, f"touch '{marker}'"),
    "subprocess": lambda marker: Payload(subprocess.check_call, ["touch", str(marker)]),
    "eval": lambda marker: Payload(builtins.eval, f"open({str(marker)!r}, 'w').close()"),
    "exec": lambda marker: Payload(builtins.exec, f"open({str(marker)!r}, 'w').close()"),
    "partial": lambda marker: functools.partial(print, payload_of(marker)),
    "os.mkdir": lambda marker: Payload(os.mkdir, str(marker)),
    "Path.touch": payload_of,
    "numpy object array": lambda marker: np.array([payload_of(marker)], dtype=object),
    "in a list in a dictionary": lambda marker: {"a": [{"b": (payload_of(marker),)}]},
    "as a key": lambda marker: {Payload(os.system, f"touch '{marker}'"): 1},
    "in an ordered dictionary": lambda marker: collections.OrderedDict(a=payload_of(marker)),
    "in a module": lambda marker: _module(payload_of(marker)),
    "in a tensor's attribute": lambda marker: _tensor(payload_of(marker)),
}
"""Objects that run when they are unpickled, each another function or another hiding place."""


def _module(payload: Any) -> torch.nn.Module:
    module = torch.nn.Linear(1, 1)
    module.__dict__["extra"] = payload
    return module


def _tensor(payload: Any) -> torch.Tensor:
    tensor = torch.nn.Parameter(torch.ones(1))
    tensor.extra = payload
    return tensor


def zipped(content: Any) -> bytes:
    """Return torch's format, a zip."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def legacy(content: Any) -> bytes:
    """Return the format of torch before 1.6, a row of pickles."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def repacked(data: bytes, change: Callable[[str, bytes], tuple[str, bytes]], compression: int = 0) -> bytes:
    """Return a zip whose records have another name or content."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(*change(entry.filename, old.read(entry)))
    return stream.getvalue()


def tarred(pickled: bytes) -> bytes:
    """Return torch's first format, a tar, with a pickle in each place."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages", "../../evil"):
            entry = tarfile.TarInfo(name)
            entry.size = len(pickled)
            archive.addfile(entry, io.BytesIO(pickled))
    return stream.getvalue()


def opcodes(marker: Path) -> dict[str, bytes]:
    """Return pickles that are written by hand: what no pickler makes, and some scanners overlook."""
    command = f"touch '{marker}'".encode()
    system = f"{os.system.__module__}".encode()
    return {
        "GLOBAL and REDUCE": b"c" + system + b"\nsystem\n(V" + command + b"\ntR.",
        "INST": b"(V" + command + b"\ni" + system + b"\nsystem\n.",
        "OBJ": b"(c" + system + b"\nsystem\nV" + command + b"\no.",
        "STACK_GLOBAL": b"\x80\x04V" + system + b"\nVsystem\n\x93V" + command + b"\n\x85R.",
        "before what breaks off": b"c" + system + b"\nsystem\n(V" + command + b"\ntRbroken",
        "by a module": b"cimportlib\nimport_module\n(Vos\ntR0c" + system + b"\nsystem\n(V" + command + b"\ntR.",
    }


def places(content: dict[str, Any], payload: Any) -> Iterator[tuple[str, Any]]:
    """Yield a file's content with the payload in each of its places: instead of every value, and beside it."""
    yield "beside the rest", {**content, "extra": payload}
    for key, value in content.items():
        yield f"as {key}", {**content, key: payload}
        if isinstance(value, dict):
            yield f"in {key}", {**content, key: {**value, "extra": payload}}
            for inner in list(value)[:2]:
                yield f"as {key}, {inner}", {**content, key: {**value, inner: payload}}
        if isinstance(value, list):
            yield f"in {key}", {**content, key: [*value, payload]}


def hostile_files(content: dict[str, Any], marker: Path) -> dict[str, bytes]:
    """Return the bytes of files that look like ``content`` and make ``marker`` when something unpickles them."""
    payload = payload_of(marker)
    files: dict[str, bytes] = {}
    for name, make in PAYLOADS.items():
        for form, written in (("zip", zipped), ("legacy", legacy)):
            files[f"{form}: {name}"] = written({**content, "extra": make(marker)})
    for protocol in range(6):
        files[f"pickle, protocol {protocol}"] = pickle.dumps({**content, "extra": payload}, protocol=protocol)
    for place, hostile in places(content, payload):
        files[f"zip: {place}"] = zipped(hostile)
        files[f"legacy: {place}"] = legacy(hostile)
    for name, pickled in opcodes(marker).items():
        files[f"pickle: {name}"] = pickled
        files[f"zip: {name}"] = repacked(
            zipped(content), lambda entry, old, new=pickled: (entry, new if entry.endswith("data.pkl") else old)
        )
    files["tar"] = tarred(pickle.dumps(payload))
    files["tar of a torch file"] = tarred(legacy(payload))
    files["zip, compressed"] = repacked(zipped({**content, "extra": payload}), lambda *e: e, zipfile.ZIP_DEFLATED)
    files["script"] = _script(pickle.dumps(payload))
    stream = io.BytesIO()
    np.save(stream, np.array([payload], dtype=object), allow_pickle=True)
    files["numpy array of objects"] = stream.getvalue()
    stream = io.BytesIO()
    np.savez(stream, a=np.array([payload], dtype=object))
    files["numpy archive of objects"] = stream.getvalue()
    return files


def _script(pickled: bytes) -> bytes:
    """Return a TorchScript archive whose pickle isn't TorchScript's."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), stream)
    return repacked(stream.getvalue(), lambda name, old: (name, pickled if name.endswith("data.pkl") else old))


def broken_archives(content: dict[str, Any]) -> dict[str, bytes]:
    """Return files without code that aren't what they claim to be: cut, of false sizes, with paths for names."""
    whole = zipped(content)
    return {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "without its end": whole[:-30],
        "end only": whole[-200:],
        "text": b"not a model",
        "names that go up": repacked(whole, lambda name, old: ("../../" + name, old)),
        "absolute names": repacked(whole, lambda name, old: ("/" + name, old)),
        "compressed": repacked(whole, lambda name, old: (name, old), zipfile.ZIP_DEFLATED),
        "a bomb": bomb(content, 2**26),
        "of claimed sizes": whole.replace(*_claimed(whole)),
        "a legacy file of claimed sizes": _legacy_bomb(),
        "a record short": repacked(whole, lambda name, old: (name, old[:-8] if "/data/" in name else old)),
        "a record empty": repacked(whole, lambda name, old: (name, b"" if "/data/" in name else old)),
        "without records": repacked(whole, lambda name, old: (name.replace("/data/", "/gone/"), old)),
        "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n",
    }


def bomb(content: dict[str, Any], size: int) -> bytes:
    """Return a small zip with a record that unpacks to ``size`` zeros."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(zipped(content))) as old, zipfile.ZipFile(stream, "w", 8) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        with new.open("archive/data/bomb", "w", force_zip64=True) as record:
            for _ in range(size // 2**24):
                record.write(bytes(2**24))
    return stream.getvalue()


def _claimed(whole: bytes) -> tuple[bytes, bytes]:
    """Return the sizes of the first record of data in the zip's directory, and false ones."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entry = next(entry for entry in archive.infolist() if "/data/" in entry.filename)
    sizes = entry.compress_size.to_bytes(4, "little") + entry.file_size.to_bytes(4, "little")
    return entry.CRC.to_bytes(4, "little") + sizes, entry.CRC.to_bytes(4, "little") + b"\xf0\xff\xff\x7f" * 2


def _legacy_bomb() -> bytes:
    """Return a legacy file whose storage is said to have 2^42 numbers."""
    number = (2**20).to_bytes(4, "little")
    old = legacy({"a": torch.zeros(2**20)})
    return old.replace(b"J" + number, b"\x8a\x06" + (2**42).to_bytes(6, "little"))[:2000]


def damaged(data: bytes, n_cases: int, seed: int) -> Iterator[bytes]:
    """Yield a file's bytes, damaged in one of six ways at random places."""
    rng = np.random.default_rng(seed)
    for case in range(n_cases):
        changed = bytearray(data)
        start = int(rng.integers(len(data)))
        length = int(rng.integers(1, 64))
        way = case % 6
        if way == 0:
            for place in rng.integers(len(data), size=8):
                changed[place] ^= 1 << int(rng.integers(8))
        elif way == 1:
            del changed[start:]
        elif way == 2:
            changed[start : start + length] = bytes(len(changed[start : start + length]))
        elif way == 3:
            del changed[start : start + length]
        elif way == 4:
            changed[start:start] = rng.bytes(length)
        else:  # one letter or digit for another: what stays JSON
            places = [place for place, sign in enumerate(data) if chr(sign).isalnum() and sign < 128]
            changed[places[int(rng.integers(len(places)))]] = ord("0123456789aeiosrn"[int(rng.integers(17))])
        yield bytes(changed)
