"""Push a trained model with its card to a repository of Hugging Face.

python bundles/vae/scripts/push_model.py OWNER/NAME [--ckpt_dir FOLDER] [--output_dir FOLDER] [--private False]

The weights are those of --ckpt_dir, by default those that the training command left in the bundle, and --output_dir is
the folder of the results of their training. Nothing is pushed in which a name of a subject or a path is found.
"""

from __future__ import annotations

from pathlib import Path

import fire

from monai_betavae.bundle import run_root
from monai_betavae.workflows import push_model, training_folder

BUNDLE = Path(__file__).resolve().parents[1]


def main(
    repo_id: str,
    ckpt_dir: str | None = None,
    output_dir: str | None = None,
    card: str | None = None,
    private: bool = True,
    allow: str | list[str] | tuple[str, ...] = (),
    small_groups: bool = False,
    endpoint: str | None = None,
) -> None:
    """Push the model, and say how to pull it."""
    root = run_root(BUNDLE)
    models = Path(ckpt_dir or root / "models")
    pushed = push_model(
        str(repo_id),
        models,
        training_output_dir=output_dir or training_folder(models, models, root),
        card=card,
        private=private,
        allow=[allow] if isinstance(allow, str) else [str(text) for text in allow],
        small_groups=small_groups,
        endpoint=endpoint,
    )
    print(
        f"Pushed:  {pushed.repo_id} at {pushed.revision}\n"
        f"Pull:    python bundles/vae/scripts/pull_model.py {pushed.repo_id} FOLDER --revision {pushed.revision} "
        f"--digest {pushed.digest}"
    )


if __name__ == "__main__":
    fire.Fire(main)
