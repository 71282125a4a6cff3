"""Write a trained network as a torch.export program, which runs wherever torch does, without this package.

python bundles/vae/scripts/export_program.py FILE.pt2 [--ckpt_dir FOLDER]

TorchScript and ONNX: see `ckpt_export` and `onnx_export` in docs/README.md.
"""

from __future__ import annotations

from pathlib import Path

import fire

from monai_betavae.bundle import run_root
from monai_betavae.workflows.export import export_program

BUNDLE = Path(__file__).resolve().parents[1]


def main(filepath: str, ckpt_dir: str | None = None) -> None:
    """Write the program, and say how far its output is from the network's."""
    path, difference = export_program(filepath, ckpt_dir or run_root(BUNDLE) / "models")
    print(f"{path}: largest difference to the network's output {difference:.1e}")


if __name__ == "__main__":
    fire.Fire(main)
