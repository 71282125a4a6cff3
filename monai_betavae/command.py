"""The command ``monai-betavae``: short forms of the bundle's commands, which it shows and runs.

There is no second logic: a short form is turned into the words of ``python -m monai.bundle``, and those are run.
"""

from __future__ import annotations

import argparse
import json
import runpy
import shlex
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

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

Options of a form, such as --max_epochs: monai-betavae train --help
"""


NOTES = {
    "train": "Every other id of the config is an option, too: --train#trainer#accumulate_grad_batches 4",
    "cross-validate": "--settings takes the options of train: --settings \"{'max_epochs': 40}\"",
}
"""What the help of a short form says below its options."""


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
    if given[:1] and given[0] in FORMS and {"-h", "--help"} & set(given[1:]):
        print(options_text(given[0]))
        raise SystemExit(0)
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


def options_text(form: str) -> str:
    """Return the options of a short form with their defaults: the settings of its config.

    Args:
        form: a key of :data:`FORMS`.

    Example:
        >>> lines = options_text("train").splitlines()
        >>> [line.split() for line in lines if "_dim" in line or "spacing" in line]
        [['--spacing', '3.0'], ['--latent_dim', '32']]
    """
    run_id, config, text = FORMS[form]
    settings = json.loads((bundle_root() / config).read_text(encoding="utf-8"))
    of_short_form = ("output_dir", "ckpt_dir", "dataset_dir")
    plain = {name: value for name, value in settings.items() if name not in of_short_form and _is_setting(value)}
    width = max(map(len, plain)) + 4
    data = "" if form == "sample" else " [DATA]"
    model = "" if form in ("check", "cross-validate") else " [--model DIR]"
    return "\n".join(
        [
            f"usage: monai-betavae {form}{data} [--out DIR]{model} [--ID VALUE ...]\n\n{text}; it runs",
            f"python -m monai.bundle run {run_id} --config_file bundles/vae/{config}\n\noptions, with their defaults:",
            *(
                f"  --{name:<{width}}{value if isinstance(value, str) else repr(value)}"
                for name, value in plain.items()
            ),
            f"\n{NOTES.get(form, 'Every other id of the config is an option, too.')}",
            "What they do: bundles/vae/docs/README.md",
        ]
    )


def _is_setting(value: Any) -> bool:
    """Return whether the value of an id is plain: no expression, component, group or list of steps."""
    if isinstance(value, str):
        return not value.startswith(("$", "@", "%"))
    if isinstance(value, list):
        return all(map(_is_setting, value))
    return not isinstance(value, dict) or value == {}


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
