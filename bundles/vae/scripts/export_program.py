"""Write a trained network as a torch.export program or an ONNX model, which run without this package.

python bundles/vae/scripts/export_program.py FILE.pt2 [--codes True] [--ckpt_dir FOLDER]
python bundles/vae/scripts/export_program.py FILE.onnx [--codes True] [--ckpt_dir FOLDER]

A conditional model's program takes the images and their coded covariates. TorchScript and MONAI's own ONNX export: see
`ckpt_export` and `onnx_export` in docs/README.md.
"""

from __future__ import annotations

from pathlib import Path

import fire

from monai_betavae.bundle import run_root
from monai_betavae.workflows.export import export_program

BUNDLE = Path(__file__).resolve().parents[1]


def main(filepath: str, ckpt_dir: str | None = None, codes: bool = False) -> None:
    """Write the program, and say how far its output is from the network's."""
    path, difference = export_program(filepath, ckpt_dir or run_root(BUNDLE) / "models", codes)
    print(f"{path}: largest difference to the network's output {difference:.1e}")


if __name__ == "__main__":
    fire.Fire(main)
