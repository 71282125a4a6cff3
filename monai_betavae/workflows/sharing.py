"""Push a trained model to a repository of Hugging Face, and pull one from there.

The package ``huggingface_hub`` does the transport; it is an extra. What is pushed is searched for personal data first
(:mod:`~.personal_data`). Of what is pulled, only weights, description and card are kept; the configs are this
package's own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..saving.atomic_files import check_space, lock_folders
from .model_card import CARD_FILE, file_sha256
from .model_description import MODEL_FILE, SETTINGS_FILE, trained_description
from .personal_data import check_no_personal_data, is_common, personal_data_of
from .records import SPLIT_FILE, print_once, read_earlier, read_split
from .shared_files import (
    DESCRIPTION,
    DIGESTS_FILE,
    MAX_TEXT,
    NEEDED,
    OF_THE_HUB,
    README,
    WEIGHTS,
    card_of,
    check_digest,
    check_file_names,
    check_weights,
    harmless_files,
    read_digests,
    shared_files,
    write_shared_files,
)
from .trained_model import of_another_run, training_folder
from .zoo import write_zoo_bundle


class SharedModel(NamedTuple):
    """Where a shared model is, and what makes sure that it is the one.

    Attributes:
        repo_id: "owner/name" of the repository.
        revision: its commit.
        digest: SHA-256 of ``digests.json``, which has those of all other files.

    Example:
        >>> SharedModel("me/vae", "0" * 40, "f" * 64).repo_id
        'me/vae'
    """

    repo_id: str
    revision: str
    digest: str


def push_model(
    repo_id: str,
    ckpt_dir: str | os.PathLike[str],
    *,
    training_output_dir: str | os.PathLike[str] | None = None,
    card: str | os.PathLike[str] | None = None,
    private: bool = True,
    allow: Sequence[str] = (),
    small_groups: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> SharedModel:
    """Push a trained model with its card to a repository of Hugging Face, in one commit.

    Pushed are ``model.pt``, ``model.json``, the configs in the model zoo's layout, the card as ``README.md`` and the
    digests of these files. Everything is searched for personal data before anything is sent: names of the subjects,
    paths and folders of their volumes, home folder and name of the user.

    Args:
        repo_id: "owner/name" of the repository; it is made if it doesn't exist. It must hold a shared model or nothing.
        ckpt_dir: folder of the trained model.
        training_output_dir: folder of the training's results, whose ``split.json`` has the names to search for;
            default: the ``split.json`` in ``ckpt_dir`` or in ``output`` beside it.
        card: the model's card; default: ``MODEL_CARD.md`` in ``ckpt_dir``.
        private: whether a new repository is private.
        allow: texts that the search may find: no personal data, although a subject or folder is called so.
        small_groups: whether the coding of covariates may tell of groups of fewer than five training volumes.
        endpoint: address of the hub; default: that of ``huggingface_hub``.
        token: access token; default: that of ``hf auth login``.

    Returns:
        the repository, its commit, and the digest to pass on with them.

    Raises:
        ValueError: naming the file, if something can't be pushed; nothing has been sent then. Naming ``repo_id``, if
            the hub refuses.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:
        ...     try:
        ...         push_model("me/vae", empty)
        ...     except ValueError as error:
        ...         print(str(error).split(",")[0])
        `ckpt_dir` must hold the model.pt and model.json of a training run
    """
    models = Path(ckpt_dir)
    trained_description(models)  # before the names of a training that there isn't are looked for
    known = _known_names(models, training_output_dir)
    with tempfile.TemporaryDirectory(prefix="monai_betavae-push-") as holder:
        folder = Path(holder) / "bundle"
        write_shared_files(
            folder, models, card_of(models, None if card is None else Path(card)), small_groups=small_groups
        )
        files = shared_files(folder)
        check_no_personal_data(files, known, harmless_files(), allow)
        digest = file_sha256(folder / DIGESTS_FILE)
        hub = _hub()
        api = hub.HfApi(endpoint=endpoint, token=token)
        with _naming(repo_id, "pushed to"):
            api.create_repo(repo_id, private=private, exist_ok=True)
            info = api.model_info(repo_id)
        there = [sibling.rfilename for sibling in info.siblings or ()]
        check_file_names(there, f"`repo_id` {repo_id}")
        operations = [hub.CommitOperationAdd(name, path) for name, path in files.items()]
        operations += [hub.CommitOperationDelete(name) for name in there if name not in (*files, *OF_THE_HUB)]
        with _naming(repo_id, "pushed to"):
            commit = api.create_commit(
                repo_id, operations, commit_message="Push a model with monai_betavae", parent_commit=info.sha
            )
    return SharedModel(repo_id, str(commit.oid), digest)


def _known_names(models: Path, training_output_dir: str | os.PathLike[str] | None) -> dict[str, str]:
    """Return what to search for, from the records of the training."""
    folder = Path(training_output_dir or training_folder(models, models, models.parent))
    if not (folder / SPLIT_FILE).is_file():
        raise ValueError(
            f"`training_output_dir` must hold the {SPLIT_FILE} of the training, got {folder}: without the names of its "
            "subjects, nobody can say that the files are free of them."
        )
    if of_another_run(models, folder):
        raise ValueError(f"{folder / SPLIT_FILE} is of another training run than {models / MODEL_FILE}.")
    records = [record for members in read_split(folder / SPLIT_FILE).values() for record in members]
    earlier = read_earlier(folder)
    if any(each is None for each in earlier):
        print_once("Not searched for: the subjects of an earlier training, who aren't known.")
    records += [record for each in earlier for record in each or ()]
    names = {str(record.get("subject")).removeprefix("sub-") for record in records}
    short = sorted(name for name in names if is_common(name))
    if short:
        print_once(
            f"Searched for only with 'sub-' before them: {len(short)} names of subjects that are so short that they "
            f"occur by chance, such as {short[0]!r}."
        )
    return personal_data_of(records)


def pull_model(
    repo_id: str,
    folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    digest: str | None = None,
    overwrite: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> SharedModel:
    """Pull a model that :func:`push_model` pushed, as a bundle in the model zoo's layout.

    Every file is compared with its digest. Nothing that was pulled is executed: weights are read with ``weights_only``,
    the description as JSON, and configs and scripts are written by this package, not taken from the repository. The
    card is ``models/MODEL_CARD.md``. The folder appears once everything is there.

    Args:
        repo_id: "owner/name" of the repository.
        folder: the folder to create.
        revision: commit, branch or tag; a branch can move, so give the commit that :func:`push_model` returned.
        digest: the digest that :func:`push_model` returned, by a way that you trust: whoever can change the repository
            can change its ``digests.json`` too. Without it, only damage is found.
        overwrite: whether a model that is in the folder may be replaced.
        endpoint: as in :func:`push_model`.
        token: as in :func:`push_model`.

    Returns:
        the repository, the commit that was pulled, and its digest.

    Raises:
        ValueError: naming the file that was changed, is missing, is too many or isn't accepted, or ``folder``, if it
            holds files. Nothing is kept then.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "thesis.tex").write_text("")
        ...     try:
        ...         pull_model("me/vae", folder)
        ...     except ValueError as error:
        ...         print(str(error).split(",")[0])
        `folder` must be a new or an empty folder
    """
    target = Path(folder).resolve()
    _check_target(target, folder, overwrite)
    hub = _hub()
    api = hub.HfApi(endpoint=endpoint, token=token)
    with _naming(repo_id, "pulled from"):
        info = api.model_info(repo_id, revision=revision, files_metadata=True)
    where = f"{repo_id} at {info.sha}"
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    check_file_names(sizes, where)
    missing = [name for name in NEEDED if name not in sizes]
    if missing:
        raise ValueError(
            f"{where} must hold a model that push_model pushed, but lacks {', '.join(map(repr, missing))}."
        )
    large = [name for name, size in sizes.items() if name != WEIGHTS and size > MAX_TEXT]
    if large:
        raise ValueError(f"{large[0]} of {where} must have at most {MAX_TEXT} bytes, got {sizes[large[0]]}.")
    # in one place of its own: what a killed run has left there is removed by the next one
    work = target.with_name(f".{target.name}-pulling")
    replaced = work / "replaced"
    with lock_folders(work):
        if replaced.exists() and not target.exists():
            os.rename(replaced, target)
            _check_target(target, folder, overwrite)
        for left in work.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
        try:
            check_space(work, 3 * sum(sizes.values()))
            found = _download(api, repo_id, info.sha, sizes, digest, work)
            _check_target(target, folder, overwrite)
            if target.exists():
                os.rename(target, replaced)
            os.rename(work / "bundle", target)
        except BaseException:
            if replaced.exists() and not target.exists():
                os.rename(replaced, target)
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return SharedModel(repo_id, str(info.sha), found)


def _download(api: Any, repo_id: str, revision: str, names: Iterable[str], digest: str | None, work: Path) -> str:
    """Write a checked bundle as ``work / "bundle"``, and return the digest of its digests."""
    where = f"{repo_id} at {revision}"
    pulled, models = work / "pulled", work / "models"

    def download(name: str) -> Path:
        with _naming(repo_id, "pulled from"):
            return Path(api.hf_hub_download(repo_id, name, revision=revision, local_dir=pulled))

    found = file_sha256(download(DIGESTS_FILE))
    if digest is not None and found != digest:
        raise ValueError(f"{DIGESTS_FILE} of {where} must have SHA-256 {digest}, got {found}; nothing was kept.")
    for name, expected in read_digests(pulled / DIGESTS_FILE, names, where).items():
        check_digest(download(name), name, expected, where)
    models.mkdir()
    for name, kept in ((WEIGHTS, MODEL_FILE), (DESCRIPTION, SETTINGS_FILE), (README, CARD_FILE)):
        os.replace(pulled / name, models / kept)
    check_weights(models, f"{WEIGHTS} of {where}")
    write_zoo_bundle(work / "bundle", models)
    os.replace(models / CARD_FILE, work / "bundle" / "models" / CARD_FILE)
    return found


def _check_target(target: Path, folder: str | os.PathLike[str], overwrite: bool) -> None:
    """Refuse a folder whose content would be lost."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise ValueError(
            f"`folder` must be a new or an empty folder, got {os.fspath(folder)}, which holds files; a model there is "
            "replaced with `overwrite=True`."
        )
    if not (target / "models" / SETTINGS_FILE).is_file() or not (target / "configs").is_dir():
        raise ValueError(
            f"`folder` must hold a pulled model for `overwrite`, got {os.fspath(folder)}, which holds others."
        )


def _hub() -> Any:
    """Return the package ``huggingface_hub``."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            "Pushing and pulling models needs the package huggingface_hub: pip install monai-betavae[hub]"
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def _naming(repo_id: str, what: str) -> Iterator[None]:
    """Say in one line which repository the hub, or the way there, refuses."""
    try:
        yield
    except Exception as error:  # of the transport, which differ from version to version
        reasons = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ValueError(f"`repo_id` {repo_id!r} can't be {what}: {reasons[0]:.300}") from error
