"""Files that are either whole or absent: written under a temporary name, then renamed; tables without formulas."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

UNFINISHED = ".writing-"
"""How the names of files begin that aren't whole yet."""

LOCK_FILE = ".lock"

FORMULA_STARTS = ("=", "+", "-", "@")
"""What a spreadsheet takes for the start of a formula."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; on success flush it to disk and rename it to ``path``.

    The temporary name keeps every suffix of ``path`` (``.nii.gz``), since writers choose the format by it.
    A failure leaves an existing file at ``path`` as it was, and removes the temporary one.

    Args:
        path: where the file is to stand; its folder is made if it is missing.

    Yields:
        the path to write to.

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
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(*folders: str | os.PathLike[str]) -> Iterator[None]:
    """Hold folders for oneself, so that two runs can't write into one; the locks go with the process, however it ends.

    Args:
        folders: to hold; they are made if they are missing.

    Raises:
        ValueError: naming the folder that another process holds, or that can't be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with locked(folder):
        ...     with locked(folder):
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
            except Timeout:
                raise ValueError(f"{folder} is in use by another run; wait for it, or give another folder.") from None
            except OSError as error:
                raise ValueError(f"{folder} can't be written: {error.strerror or error}.") from error
        yield


def remove_unfinished(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Remove what a killed process left half-written of some files; others may be being written by another process.

    Args:
        folder: of the files.
        names: of the finished files; patterns are taken as of ``Path.glob``.
    """
    for name in names:
        for left in [*Path(folder).glob(f"{UNFINISHED}{name}"), *Path(folder).glob(f"{UNFINISHED}*-{name}")]:
            left.unlink(missing_ok=True)


def write_table(table: pd.DataFrame, path: str | os.PathLike[str], *, sep: str = ",", na_rep: str = "") -> None:
    """Write a table, whole or not at all, whose text no spreadsheet runs.

    A text that starts like a formula (``=``, ``+``, ``-``, ``@``, white space before it or not) and isn't a number gets
    an apostrophe before it, in the cells and in the heads of the columns: a subject named ``=HYPERLINK(...)`` comes
    out as that text.

    Args:
        table: without its index.
        path: of the file.
        sep: between the cells.
        na_rep: for missing values.

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

    safe = table.rename(columns=without_formula)
    for position, column in enumerate(safe.columns):
        if not is_numeric_dtype(safe.dtypes.iloc[position]):
            cells: Any = safe.iloc[:, position].astype(object).map(without_formula, na_action="ignore")
            safe.isetitem(position, cells.rename(column))
    with atomic_path(path) as temporary:
        safe.to_csv(temporary, sep=sep, index=False, na_rep=na_rep)


def without_formula(value: Any) -> Any:
    """Return a value as it is, or, of a text that starts like a formula, the text after an apostrophe.

    Example:
        >>> without_formula("@SUM(A1)"), without_formula("-3.5e2"), without_formula(-1)
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
