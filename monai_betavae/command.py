"""The command ``monai-betavae``: short forms of the bundle's commands, which it shows and runs.

There is no second logic: a short form is turned into the words of ``python -m monai.bundle``, and those are run.
"""

from __future__ import annotations

import argparse
import runpy
import shlex
import sys
import warnings
from collections.abc import Sequence
from functools import partial

from . import __version__
from .bundle import bundle_root

FORMS = {
    "train": ("training", "train.json", "train a model; without DATA on simulated brains"),
    "check": ("check", "train.json", "list what to change before training, and draw every volume"),
    "embed": ("inference", "inference.json", "write latents and reconstructions"),
    "evaluate": ("evaluation", "evaluate.json", "write report.html: scores, baselines, viewer"),
    "cross-validate": ("cross_validation", "cross_validate.json", "train and score a model per fold"),
    "sample": ("generation", "generate.json", "draw volumes from the prior"),
}
"""Run id, config and description of each short form."""

EXAMPLES = """
monai-betavae train /data/bids --out run      train; results and weights in run
monai-betavae evaluate --model run            score held-out subjects
monai-betavae embed /data/new --model run --out latents
monai-betavae cross-validate /data/bids --out folds
monai-betavae sample --model run --n_samples 8

Any id of the config (bundles/vae/*.json) is an option: --max_epochs 40.
"""


def bundle_words(arguments: Sequence[str]) -> list[str]:
    """Return the words after ``python -m monai.bundle`` that a short form stands for.

    Args:
        arguments: words after ``monai-betavae``.

    Raises:
        SystemExit: as argparse does, for words that are no short form, and after ``--help``.

    Example:
        >>> words = bundle_words(["train", "/data/bids", "--out", "run", "--latent_dim", "16"])
        >>> words[:3], words[4:]  # doctest: +NORMALIZE_WHITESPACE
        (['run', 'training', '--config_file'],
         ['--dataset_dir', '/data/bids', '--output_dir', 'run', '--ckpt_dir', 'run', '--latent_dim', '16'])
    """
    given = list(arguments)
    # argparse would take the value of an option that it doesn't know for DATA, so DATA comes right after the form
    has_data = len(given) > 1 and not given[1].startswith("-")
    data, rest = (given[1], given[2:]) if has_data else (None, given[1:])
    parsed, passed_on = _parser().parse_known_args([*given[:1], *rest])
    run_id, config, _ = FORMS[parsed.form]
    if parsed.form == "sample" and data is not None:
        _parser().error(f"sample takes no DATA, got {data!r}")
    if parsed.form == "cross-validate" and parsed.model is not None:
        _parser().error(f"cross-validate takes no --model, as each fold has its own under --out, got {parsed.model!r}")
    words = ["run", run_id, "--config_file", str(bundle_root() / config)]
    if data is not None:
        words += ["--dataset_dir", data]
    if parsed.out is not None:
        words += ["--output_dir", parsed.out]
        if parsed.form == "train" and parsed.model is None:
            words += ["--ckpt_dir", parsed.out]
    elif parsed.model is not None and parsed.form != "train":
        words += ["--output_dir", parsed.model]
    if parsed.model is not None:
        words += ["--ckpt_dir", parsed.model]
    return [*words, *passed_on]


def main() -> None:
    """Show and run the bundle's command that a short form stands for."""
    words = bundle_words(sys.argv[1:])
    print(f"$ python -m monai.bundle {shlex.join(words)}", flush=True)
    sys.argv = ["monai.bundle", *words]
    # the config is this package's own
    warnings.filterwarnings("ignore", message="parsing config_file ", category=UserWarning)
    # as the module itself would run, so that launchers of several processes repeat the bundle's command
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def _parser() -> argparse.ArgumentParser:
    forms = "\n".join(f"  {name:<16}{text}" for name, (_, _, text) in FORMS.items())
    parser = argparse.ArgumentParser(
        prog="monai-betavae",
        usage="monai-betavae FORM [DATA] [--out DIR] [--model DIR] [--ID VALUE ...]",
        description=f"The beta-VAE for 3D brain MRI: short forms of the bundle's commands.\n\n{forms}",
        epilog=EXAMPLES,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32),
        allow_abbrev=False,
        add_help=True,
    )
    parser.add_argument("form", metavar="FORM", choices=list(FORMS), help=argparse.SUPPRESS)
    parser.add_argument("--out", "--output_dir", metavar="DIR", help="folder of results; of weights when training")
    parser.add_argument("--model", "--ckpt_dir", metavar="DIR", help="folder of a trained model's weights")
    parser.add_argument("--version", action="version", version=f"monai-betavae {__version__}")
    return parser
