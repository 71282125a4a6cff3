"""Write a trained model in the form of MONAI's model zoo: configs/, docs/, models/, LICENSE.

python bundles/vae/scripts/write_zoo_bundle.py OUTPUT_DIR [--ckpt_dir FOLDER]

The weights are those of --ckpt_dir, by default those that the training command left in the bundle.
"""

from __future__ import annotations

from pathlib import Path

import fire

from monai_betavae.bundle import run_root
from monai_betavae.workflows.zoo import write_zoo_bundle

BUNDLE = Path(__file__).resolve().parents[1]


def main(output_dir: str, ckpt_dir: str | None = None) -> None:
    """Write the bundle and say how to load it."""
    folder = write_zoo_bundle(output_dir, ckpt_dir or run_root(BUNDLE) / "models", BUNDLE).resolve()
    print(f"Bundle:  {folder}\nLoad:    monai.bundle.load({folder.name!r}, bundle_dir={str(folder.parent)!r})")


if __name__ == "__main__":
    fire.Fire(main)
