"""Pull a model that push_model.py pushed, as a bundle in the form of MONAI's model zoo.

python bundles/vae/scripts/pull_model.py OWNER/NAME FOLDER [--revision COMMIT] [--digest DIGEST] [--overwrite True]

Every file is compared with its digest, and nothing that was pulled is executed.
"""

from __future__ import annotations

from pathlib import Path

import fire

from monai_betavae.workflows import pull_model


def main(
    repo_id: str,
    folder: str,
    revision: str | None = None,
    digest: str | None = None,
    overwrite: bool = False,
    endpoint: str | None = None,
) -> None:
    """Pull the model, and say where it is and how to use it."""
    pulled = pull_model(
        str(repo_id),
        str(folder),
        revision=None if revision is None else str(revision),
        digest=None if digest is None else str(digest),
        overwrite=overwrite,
        endpoint=endpoint,
    )
    config = Path(str(folder)).resolve() / "configs" / "inference.json"
    print(
        f"Pulled:  {pulled.repo_id} at {pulled.revision}, digest {pulled.digest}\n"
        f"Next:    python -m monai.bundle run inference --config_file {config} --dataset_dir <folder, table or file>"
    )


if __name__ == "__main__":
    fire.Fire(main)
