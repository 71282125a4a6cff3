"""Atomic writing of files, by a temporary name and a rename; locks on folders; tables without formulas."""

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
"""Prefix of the names of unfinished files."""

LOCK_FILE = ".lock"


class UnwritableFileError(OSError):
    """A file can't be written (full disk, read-only or missing folder); an existing file at its path is unchanged."""

    def __str__(self) -> str:
        """Return the message without the error number."""
        return str(self.args[1])


FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Characters that start a formula in spreadsheets, including the full-width forms that some of them accept."""


@contextlib.contextmanager
def name_unwritable_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a file system error while a file is being written into a one-line error that names the file.

    Errors that name a file in another folder pass unchanged, since they concern something else.

    Raises:
        UnwritableFileError: with the number of the system error.

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
    """Yield a temporary path in the folder of ``path``; on success flush it to disk and rename it to ``path``.

    The temporary name keeps every suffix of ``path`` (``.nii.gz``), since writers choose the format by it. A failure
    removes the temporary file and leaves an existing file at ``path`` unchanged.

    Args:
        path: final path of the file.
        make_folder: whether to create its folder if it is missing; otherwise that is an error.

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
            # mkstemp creates private files; the finished file gets the permissions of any new file
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):  # its folder may be gone
                temporary.unlink(missing_ok=True)
            raise


def check_space(folder: str | os.PathLike[str], n_bytes: int) -> None:
    """Raise an error if the disk lacks the space for files that are going to be written.

    Args:
        folder: an existing folder.
        n_bytes: number of bytes that will be written there.

    Raises:
        ValueError: naming the folder, the free space and the space needed.

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
    """Lock folders, so that two runs can't write into one; the locks end with the process, however it ends.

    Args:
        folders: folders to lock; missing ones are created.

    Raises:
        ValueError: naming the folder that another process has locked, or that can't be written.

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
                # a lock can be acquired where nothing can be written, such as on a full disk
                with tempfile.TemporaryFile(dir=folder) as probe:
                    probe.write(b"\0" * 4096)
            except Timeout:
                raise ValueError(f"{folder} is in use by another run; wait for it, or give another folder.") from None
            except OSError as error:
                raise ValueError(f"{folder} can't be written: {error.strerror or error}.") from error
        yield


def check_available(*folders: str | os.PathLike[str]) -> None:
    """Raise an error before any work if another run has locked a folder, or it can't be written; create nothing.

    Args:
        folders: folders to write into later; they needn't exist.

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
    """Remove partial files that a killed process left; only these names, since another process may be writing others.

    Args:
        folder: folder of the files.
        names: names of the finished files, or patterns of ``Path.glob``.
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
    """Write a table atomically, with its text escaped so that no spreadsheet evaluates it.

    A text in a cell or a column name that starts like a formula (``=``, ``+``, ``-`` or ``@``, even after white space)
    and isn't a number is prefixed with an apostrophe. A subject named ``=HYPERLINK(...)`` is then shown as that text.

    Args:
        table: the table; its index isn't written.
        path: path of the file.
        sep: separator of the cells.
        na_rep: text for missing values.
        make_folder: whether to create its folder if it is missing; otherwise that is an error.

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
        # a file name that isn't valid UTF-8 is escaped, so that it doesn't cost the run its results
        safe.to_csv(temporary, sep=sep, index=False, na_rep=na_rep, errors="backslashreplace")


def escape_formula(value: Any) -> Any:
    """Return a value unchanged, or with a leading apostrophe if it is a text that starts like a formula.

    Example:
        >>> escape_formula("@SUM(A1)"), escape_formula("-3.5e2"), escape_formula(-1)
        ("'@SUM(A1)", '-3.5e2', -1)
    """
    if not isinstance(value, str):
        return value
    # most readers end a row at a lone carriage return, but Python's writer doesn't quote it
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    if not value.lstrip().startswith(FORMULA_STARTS):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value
