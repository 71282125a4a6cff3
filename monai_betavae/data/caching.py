"""Caches of preprocessed volumes, in memory or on disk: each file is read and resampled only once."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from types import CellType, CodeType
from typing import Any

import monai
import numpy as np
import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.transforms import Compose, RandomizableTrait, Transform
from torch import Tensor

from .._checks import check_choice, check_integer
from ..saving.safe_loading import load_weights_only, save_weights

CACHES = ("auto", "memory", "disk", "none")
STORAGE = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}

MEMORY_SHARE = 0.5
"""Largest share of the free memory that volumes may take to be kept in memory."""

LEFT_BY_USE = {"filenames", "_tracing"}
"""Attributes that MONAI's readers and transforms acquire in use: they are not settings."""

VERSIONED = {"builtins", "abc", "collections", "functools", "monai", "nibabel", "numpy", "torch", "typing"}
"""Packages whose classes a fingerprint identifies by name; for other classes it includes the code of their methods."""

FORMAT = 2
"""Version of the file format: each version has its own cache."""


def cached_dataset(
    data: Sequence[Mapping[str, Any]],
    transform: Callable[..., Any],
    cache: str = "auto",
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    storage: str = "float32",
    image_key: str = "image",
    num_workers: int = 2,
    progress: bool = True,
) -> Dataset:
    """Make a dataset that preprocesses every volume once.

    The cache stores the result of the transforms that precede the first random one (or the first that isn't a MONAI
    ``Transform``). The remaining transforms run at every access.

    Args:
        data: records.
        transform: maps a record to a sample, a dictionary.
        cache: where to keep samples: "memory" (MONAI's ``CacheDataset``), "disk" (:class:`DiskCacheDataset`), "none",
            or "auto": memory if the estimate from the first volume is at most half of the free memory, otherwise disk.
        cache_dir: folder of the disk cache; required for "disk", and for "auto" if memory is short.
        storage: how to store the image: "float32" unchanged, "float16" in half the bytes (relative error up to
            2^-11), "uint8" in a quarter (images in [0, 1], error up to 1/510). Samples are always float32.
        image_key: key of the image in a sample.
        num_workers: number of threads that fill the cache, at least 0.
        progress: whether to show a progress bar while the cache fills.

    Returns:
        a MONAI ``Dataset``.

    Raises:
        ValueError: if an argument is invalid or a volume can't be used; the message names the argument or the file.

    Example:
        >>> dataset = cached_dataset([{"image": torch.zeros(1, 4, 4, 4)}], Compose([]), "memory", progress=False)
        >>> dataset[0]["image"].shape
        torch.Size([1, 4, 4, 4])
    """
    check_choice("cache", cache, CACHES)
    check_choice("storage", storage, list(STORAGE))
    check_integer("num_workers", num_workers, minimum=0)
    steps = _flat(transform)
    if cache == "auto":
        cache = _fitting(data, steps, storage, image_key, cache_dir)
    if cache == "none" or len(data) == 0:
        return Dataset(data, steps)
    if cache == "disk":
        if cache_dir is None:
            raise ValueError("`cache_dir` must be a folder for a disk cache, got None.")
        return DiskCacheDataset(
            data, steps, cache_dir, storage=storage, image_key=image_key, num_workers=num_workers, progress=progress
        )
    if storage != "float32":
        first_random = _first_random(steps)
        cut = len(steps.transforms) if first_random is None else first_random
        packing = [_Packed(image_key, storage), _Unpacked(image_key)]
        steps = Compose([*steps.transforms[:cut], *packing, *steps.transforms[cut:]])
    return CacheDataset(data, steps, num_workers=num_workers, progress=progress)


class DiskCacheDataset(PersistentDataset):
    """A MONAI ``PersistentDataset`` that never returns stale or partly written samples.

    Each sample is stored in ``<cache_dir>/<transforms>/<record>.pt``. ``<transforms>`` is a digest of the deterministic
    transforms with all their settings, the methods of those that aren't MONAI's (functions that these call are
    identified by name only), and the versions of monai and this package. ``<record>`` is a digest of the record and of
    the size and times of the files that it names. A change of the preprocessing or of a file therefore makes a new
    sample. Files are written under a temporary name and then renamed: a killed run loses only the volume in progress,
    and several processes may share a folder. An unreadable file is made again. Loading executes no code
    (``weights_only``).

    Args:
        data: records.
        transform: maps a record to a dictionary of tensors, texts and numbers.
        cache_dir: the folder.
        storage: "float32", "float16" or "uint8"; see :func:`cached_dataset`.
        image_key: key of the image in a sample.
        num_workers: number of threads that fill the cache when the dataset is made.
        progress: whether to show a progress bar while the cache fills.

    Attributes:
        folder: folder of this dataset's samples.

    Raises:
        ValueError: if an argument is invalid or a volume can't be used; the message names the argument or the file.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> data = [{"image": torch.full((1, 4, 4, 4), 0.5), "subject": "sub-1"}]
        >>> dataset = DiskCacheDataset(data, Compose([]), folder, progress=False)
        >>> float(dataset[0]["image"].mean()), len(list(Path(folder).rglob("*.pt")))
        (0.5, 1)
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[..., Any],
        cache_dir: str | os.PathLike[str],
        *,
        storage: str = "float32",
        image_key: str = "image",
        num_workers: int = 2,
        progress: bool = True,
    ) -> None:
        check_choice("storage", storage, list(STORAGE))
        super().__init__(data, _flat(transform), None)
        self.image_key = image_key
        self._pack, self._unpack = _Packed(image_key, storage), _Unpacked(image_key)
        deterministic = self.transform.transforms[: _first_random(self.transform)]
        self.folder = Path(cache_dir) / fingerprint([deterministic, storage])[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"`cache_dir` must be a folder that can be written, got {cache_dir}: {error}.") from error
        self._files = [self._file(record) for record in data]
        self._fill(num_workers, progress)

    def set_data(self, data: Sequence[Mapping[str, Any]]) -> None:
        """Replace the records; MONAI's own method would delete the folder, which other processes may be using."""
        self.data = data
        self._files = [self._file(record) for record in data]

    def _file(self, record: Mapping[str, Any]) -> Path:
        return self.folder / f"{fingerprint([record, list(_stamps(record))])[:32]}.pt"

    def _fill(self, num_workers: int, progress: bool) -> None:
        """Make the missing samples, in parallel."""
        from tqdm.auto import tqdm

        missing = [index for index, file in enumerate(self._files) if not file.is_file()]
        if not missing:
            return
        # the processes of one run start at different positions and so share the work without communicating
        rank, world = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        start = len(missing) * rank // max(world, 1)
        order = missing[start:] + missing[:start]

        def make(index: int) -> None:
            if not self._files[index].is_file():
                self._made(index)

        label = f"caching in {self.folder.parent}"
        with ThreadPoolExecutor(max(num_workers, 1)) as pool:
            for _ in tqdm(pool.map(make, order), desc=label, unit="volume", total=len(order), disable=not progress):
                pass

    def _made(self, index: int) -> dict[str, Any]:
        sample = self._pack(self._pre_transform(deepcopy(self.data[index])))
        save_weights(sample, self._files[index])
        return sample

    def _transform(self, index: int) -> Any:
        file = self._files[index]
        sample = None
        if file.is_file():
            try:
                sample = load_weights_only(file, verify=False)
                if not isinstance(sample, dict) or not isinstance(sample.get(self.image_key), Tensor):
                    sample = None
                    raise ValueError(f"{file} isn't a sample with {self.image_key!r}.")
            except ValueError as error:
                warnings.warn(f"{error} It is made again.", stacklevel=2)
        if sample is None:
            sample = self._made(index)
        return self._post_transform(self._unpack(sample))


class _Packed(Transform):
    """Store the image in fewer bytes."""

    def __init__(self, image_key: str, storage: str) -> None:
        self.image_key = image_key
        self.storage = storage

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        sample = dict(data)
        if self.storage == "float32":
            return sample
        image: Tensor = sample[self.image_key]
        if self.storage == "uint8":
            low, high = float(image.min()), float(image.max())
            if low < 0 or high > 1:
                where = sample.get(f"{self.image_key}_path", "an image")
                raise ValueError(f"`storage` uint8 needs images in [0, 1], got {low:g} to {high:g} in {where}.")
            image = image * 255 + 0.5
        sample[self.image_key] = image.to(STORAGE[self.storage])
        return sample


class _Unpacked:
    """Return a stored image as float32; this is no ``Transform``, so that a cache ends before it."""

    def __init__(self, image_key: str) -> None:
        self.image_key = image_key

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        sample = dict(data)
        image: Tensor = sample[self.image_key]
        if image.dtype == torch.uint8:
            sample[self.image_key] = image.float() / 255
        elif image.dtype == torch.float16:
            sample[self.image_key] = image.float()
        return sample


def fingerprint(content: Any) -> str:
    """Return a digest of nested plain values and of objects with all their attributes; every process gets the same.

    Example:
        >>> from monai.transforms import ScaleIntensity
        >>> one, other = (fingerprint(ScaleIntensity(maxv=value)) for value in (1.0, 2.0))
        >>> one == other, one == fingerprint(ScaleIntensity(maxv=1.0))
        (False, True)
    """
    own_version = sys.modules["monai_betavae"].__version__  # importing the package here would invert the layers
    described = [FORMAT, monai.__version__, own_version, _described(content, ())]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _described(value: Any, above: tuple[int, ...]) -> Any:
    """Return a value in a form that JSON can hold; different values give different results."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return repr(value)
    if id(value) in above:
        return "a value further up"
    inside = (*above, id(value))
    if isinstance(value, Mapping):
        return ["dict", sorted(([str(key), _described(entry, inside)] for key, entry in value.items()), key=str)]
    if isinstance(value, list | tuple):
        return [_described(entry, inside) for entry in value]
    if isinstance(value, set | frozenset):
        return ["set", sorted((_described(entry, inside) for entry in value), key=str)]
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return ["array", str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, np.random.RandomState | np.random.Generator | torch.Generator):
        return type(value).__name__  # the state changes with every draw
    if isinstance(value, type):
        return _described_class(value, inside)
    if isinstance(value, CodeType) or (callable(value) and hasattr(value, "__qualname__")):
        return _described_code(value, inside)
    if isinstance(value, functools.partial):
        return ["partial", _described([value.func, value.args, value.keywords], inside)]
    if isinstance(value, os.PathLike):
        return ["path", os.fspath(value)]
    attributes = {name: entry for name, entry in getattr(value, "__dict__", {}).items() if name not in LEFT_BY_USE}
    if not attributes:
        attributes = {"value": str(value)} if "object at 0x" not in str(value) else {}
    return [_described_class(type(value), inside), _described(attributes, inside)]


def _described_class(kind: type, above: tuple[int, ...]) -> Any:
    """Describe a class by its name and, if no package version identifies it (a user's transform), its methods' code."""
    methods = [
        [name, _described_code(method, above)]
        for parent in kind.__mro__
        if parent.__module__.partition(".")[0] not in VERSIONED
        for name, method in sorted(vars(parent).items())
        if hasattr(method, "__code__")
    ]
    return [f"{kind.__module__}.{kind.__qualname__}", methods]


def _described_code(value: Any, above: tuple[int, ...]) -> Any:
    """Describe a function by its code, so that a changed body changes the result, and a builtin by its name."""
    code = value if isinstance(value, CodeType) else getattr(value, "__code__", None)
    if code is None:
        return [getattr(value, "__module__", ""), getattr(value, "__qualname__", str(value))]
    cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or () if cell != CellType()]
    around = [cells, getattr(value, "__defaults__", None), getattr(value, "__kwdefaults__", None)]
    if getattr(value, "__self__", None) is not None:
        around.append(value.__self__)
    constants = [_described(constant, above) for constant in code.co_consts]
    return [code.co_name, code.co_code.hex(), list(code.co_names), constants, _described(around, above)]


def _stamps(value: Any) -> Iterator[list[Any]]:
    """Yield the size and times of each file that a record names, and of the files in each folder that it names."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _stamps(entry)
    elif isinstance(value, str | os.PathLike):
        for path in _files_of(os.fspath(value)):
            status = os.stat(path)
            yield [path, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _files_of(path: Any) -> list[Any]:
    # a covariate such as "left" may share its name with a folder of the working directory: only absolute paths count
    try:
        paths = sorted(os.path.join(path, name) for name in os.listdir(path)) if _is_folder(path) else [path]
    except OSError:  # a covariate that happens to name an unreadable folder
        return []
    return [each for each in paths if os.path.isfile(each)]


def _is_folder(path: Any) -> bool:
    return os.path.isabs(path) and os.path.isdir(path)


def _flat(transform: Any) -> Compose:
    """Return transforms as one flat list: MONAI treats a nested ``Compose`` as random and caches none of it."""
    return (transform if isinstance(transform, Compose) else Compose(transform)).flatten()


def _first_random(steps: Compose) -> int | None:
    index: int | None = steps.get_index_of_first(
        lambda step: isinstance(step, RandomizableTrait) or not isinstance(step, Transform)
    )
    return index


def _fitting(
    data: Sequence[Mapping[str, Any]],
    steps: Compose,
    storage: str,
    image_key: str,
    cache_dir: str | os.PathLike[str] | None,
) -> str:
    """Return "memory" if all samples are estimated to fit, else "disk", and print the choice with its reason."""
    if len(data) == 0:
        return "none"
    sample = _Packed(image_key, storage)(steps(deepcopy(data[0]), end=_first_random(steps)))
    each = sum(value.nbytes for value in sample.values() if isinstance(value, Tensor))
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed, free = each * len(data) * processes, free_memory()
    where = "memory" if free is None or needed <= MEMORY_SHARE * free else "disk"
    of = "" if free is None else f", {free / 2**30:.1f} GiB are free"
    folder = f" ({cache_dir})" if where == "disk" else ""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return where  # the first process prints it
    print(
        f"Cache: {len(data)} volumes of {each / 2**20:.1f} MiB, {needed / 2**30:.2f} GiB in all{of}: "
        f"kept {'in memory' if where == 'memory' else 'on disk'}{folder}"
    )
    return where


def free_memory() -> int | None:
    """Return the bytes still available to this process, from the system and the container's limit, or ``None``."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    except (OSError, StopIteration, ValueError):
        pass
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no container, or "max"
            continue
    return max(min(found), 0) if found else None
