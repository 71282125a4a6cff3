"""Files that are either whole or absent: written under a temporary name, then renamed; tables without formulas."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

UNFINISHED = ".writing-"
"""How the names of files begin that aren't whole yet."""

LOCK_FILE = ".lock"


class UnwritableFileError(OSError):
    """A file that can't be written: a full disk, a read-only or vanished folder. What stood at its place still does."""

    def __str__(self) -> str:
        """Return the message, without the number of the error."""
        return str(self.args[1])


FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the start of a formula; some take the full-width signs of East Asian keyboards too."""


@contextlib.contextmanager
def name_unwritable_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an error of the file system while a file is being written into one line that names the file.

    Errors that name a file in another folder pass as they are: something else was being read or written.

    Raises:
        UnwritableFileError: with the number of the system's error.

    Example:
        >>> with name_unwritable_file("model.pt"):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        monai_betavae.saving.atomic_files.UnwritableFileError: model.pt can't be written: No space left on device.
    """
    try:
        yield
    except UnwritableFileError:
        raise
    except OSError as error:
        named = error.filename if isinstance(error.filename, str | os.PathLike) else None
        if named is not None and Path(path).parent not in [Path(named), *Path(named).parents]:
            raise
        reason = error.strerror or str(error)
        raise UnwritableFileError(error.errno, f"{os.fspath(path)} can't be written: {reason}.") from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, make_folder: bool = True) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; on success flush it to disk and rename it to ``path``.

    The temporary name keeps every suffix of ``path`` (``.nii.gz``), since writers choose the format by it.
    A failure leaves an existing file at ``path`` as it was, and removes the temporary one.

    Args:
        path: where the file is to stand.
        make_folder: whether its folder is made if it is missing; otherwise that is an error.

    Yields:
        the path to write to.

    Raises:
        UnwritableFileError: naming the file, if the disk is full, or the folder read-only or gone.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "table.csv"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("subject,mu_0")
        ...     assert not target.exists()
        >>> target.read_text()
        'subject,mu_0'
    """
    target = Path(path)
    with name_unwritable_file(target):
        if make_folder:
            target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=UNFINISHED, suffix="-" + target.name, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            # mkstemp makes files private; the finished one gets the permissions any new file would have
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):  # gone with its folder
                temporary.unlink(missing_ok=True)
            raise


def check_space(folder: str | os.PathLike[str], n_bytes: int) -> None:
    """Refuse to begin what the disk hasn't the room for.

    Args:
        folder: an existing one.
        n_bytes: that will be written there.

    Raises:
        ValueError: naming the folder, the room it has and the room that is needed.

    Example:
        >>> import tempfile
        >>> check_space(tempfile.mkdtemp(), 10**18)
        Traceback (most recent call last):
        ValueError: ... must have room for 1000000.0 TB, has ...; give another folder, or make room.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        needed, found = _size_text(n_bytes), _size_text(free)
        raise ValueError(
            f"{os.fspath(folder)} must have room for {needed}, has {found}; give another folder, or make room."
        )


def _size_text(n_bytes: int) -> str:
    unit, name = next((unit, name) for unit, name in ((1e12, "TB"), (1e9, "GB"), (0, "MB")) if n_bytes >= unit)
    return f"{n_bytes / (unit or 1e6):.1f} {name}"


@contextlib.contextmanager
def lock_folders(*folders: str | os.PathLike[str]) -> Iterator[None]:
    """Hold folders for oneself, so that two runs can't write into one; the locks go with the process, however it ends.

    Args:
        folders: to hold; they are made if they are missing.

    Raises:
        ValueError: naming the folder that another process holds, or that can't be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with lock_folders(folder):
        ...     with lock_folders(folder):
        ...         pass
        Traceback (most recent call last):
        ValueError: ... is in use by another run; wait for it, or give another folder.
    """
    from filelock import FileLock, Timeout

    with contextlib.ExitStack() as held:
        for folder in sorted({Path(folder).resolve() for folder in folders}):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(folder / LOCK_FILE, timeout=0, is_singleton=False))
                # a lock can be had where nothing can be written: in a folder on a full disk
                with tempfile.TemporaryFile(dir=folder) as probe:
                    probe.write(b"\0" * 4096)
            except Timeout:
                raise ValueError(f"{folder} is in use by another run; wait for it, or give another folder.") from None
            except OSError as error:
                raise ValueError(f"{folder} can't be written: {error.strerror or error}.") from error
        yield


def check_available(*folders: str | os.PathLike[str]) -> None:
    """Refuse folders that another run holds, or that can't be written, before any work; nothing is made.

    Args:
        folders: to write into later; they needn't exist.

    Raises:
        ValueError: naming the folder.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with lock_folders(folder):
        ...     check_available(folder)
        Traceback (most recent call last):
        ValueError: ... is in use by another run; wait for it, or give another folder.
    """
    for folder in map(Path, folders):
        existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
        if existing == folder.absolute():
            with lock_folders(folder):
                pass
            continue
        try:
            with tempfile.TemporaryFile(dir=existing) as probe:
                probe.write(b"\0" * 4096)
        except OSError as error:
            raise ValueError(f"{folder} can't be made: {existing}: {error.strerror or error}.") from error


def remove_unfinished(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Remove what a killed process left half-written of some files; others may be being written by another process.

    Args:
        folder: of the files.
        names: of the finished files; patterns are taken as of ``Path.glob``.
    """
    for name in names:
        for left in [*Path(folder).glob(f"{UNFINISHED}{name}"), *Path(folder).glob(f"{UNFINISHED}*-{name}")]:
            left.unlink(missing_ok=True)


def write_table(
    table: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    sep: str = ",",
    na_rep: str = "",
    make_folder: bool = True,
) -> None:
    """Write a table, whole or not at all, whose text no spreadsheet runs.

    A text that starts like a formula (``=``, ``+``, ``-``, ``@``, white space before it or not) and isn't a number gets
    an apostrophe before it, in the cells and in the heads of the columns: a subject named ``=HYPERLINK(...)`` comes
    out as that text.

    Args:
        table: without its index.
        path: of the file.
        sep: between the cells.
        na_rep: for missing values.
        make_folder: whether its folder is made if it is missing; otherwise that is an error.

    Source:
        OWASP, "CSV Injection".

    Example:
        >>> import tempfile
        >>> import pandas
        >>> path = Path(tempfile.mkdtemp()) / "table.csv"
        >>> write_table(pandas.DataFrame({"subject": ["=1+1", "-7", "a"]}), path)
        >>> path.read_text().split()
        ['subject', "'=1+1", '-7', 'a']
    """
    from pandas.api.types import is_numeric_dtype

    safe = table.rename(columns=escape_formula)
    for position, column in enumerate(safe.columns):
        if not is_numeric_dtype(safe.dtypes.iloc[position]):
            cells: Any = safe.iloc[:, position].astype(object).map(escape_formula, na_action="ignore")
            safe.isetitem(position, cells.rename(column))
    with atomic_path(path, make_folder=make_folder) as temporary:
        # a file's name that isn't UTF-8 can't be written as it is; it mustn't cost the run its results
        safe.to_csv(temporary, sep=sep, index=False, na_rep=na_rep, errors="backslashreplace")


def escape_formula(value: Any) -> Any:
    """Return a value as it is, or, of a text that starts like a formula, the text after an apostrophe.

    Example:
        >>> escape_formula("@SUM(A1)"), escape_formula("-3.5e2"), escape_formula(-1)
        ("'@SUM(A1)", '-3.5e2', -1)
    """
    if not isinstance(value, str):
        return value
    # a lone carriage return ends a row for most readers, but Python's writer doesn't put it in quotes
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    if not value.lstrip().startswith(FORMULA_STARTS):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value
