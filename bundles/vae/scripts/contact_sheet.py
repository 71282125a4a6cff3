"""Draw a contact sheet of volumes, as the model will see them: look at your data before you train on it.

python bundles/vae/scripts/contact_sheet.py SOURCE [--output contact_sheet.png] [--n_volumes 24] [--spacing 3]

SOURCE is anything discover() takes: a BIDS folder, a table, a datalist, a folder of NIfTI files, a glob, one file.
"""

from __future__ import annotations

import math

import fire
import numpy as np

from monai_betavae.data import brain_transforms, discover
from monai_betavae.plots import plot_volumes, save_figure


def main(source: str, output: str = "contact_sheet.png", n_volumes: int = 24, spacing: float = 3.0) -> None:
    """Draw the first volumes of a source, spread evenly over it."""
    records = discover(source)
    chosen = [records[i] for i in np.linspace(0, len(records) - 1, min(n_volumes, len(records))).round().astype(int)]
    shape = tuple(math.ceil(side / spacing) for side in (192, 240, 192))
    transform = brain_transforms(shape, spacing)
    volumes = np.stack([transform(record)["image"].numpy()[0] for record in chosen])
    figure = plot_volumes(
        volumes, [str(record["subject"]) for record in chosen], f"{len(chosen)} of {len(records)} volumes"
    )
    save_figure(figure, output)
    print(f"{len(chosen)} of {len(records)} volumes drawn in {output}")


if __name__ == "__main__":
    fire.Fire(main)
