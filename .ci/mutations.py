#!/usr/bin/env python3
"""Whether the tests of the evaluation can fail: each fault below, put in a copy, must break the tests named with it.

python .ci/mutations.py [module ...]

Not part of .ci/run: each fault starts pytest anew, about ten seconds. A fault that survives, or that no longer applies
since the line has changed, is an error.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent

# module, line, what it becomes, which of the module's tests must fail (pytest's -k)
FAULTS = [
    ("intervals", "[(1 - level) / 2, (1 + level) / 2]", "[(1 - level), level]", ""),
    ("intervals", "rng.integers(0, n, (n_resamples, n))", "rng.integers(0, n - 1, (n_resamples, n))", ""),
    ("reconstruction", "difference = (images - reconstructions)", "difference = (images + reconstructions)", ""),
    ("reconstruction", "10 * np.log10(data_range**2 / mse)", "10 * np.log10(mse / data_range**2)", ""),
    (
        "reconstruction",
        '"mae_brain": _masked_mean(np.abs(error), inside)',
        '"mae_brain": _masked_mean(error, inside)',
        "",
    ),
    ("reconstruction", "data_range=torch.tensor(data_range)", "data_range=torch.tensor(2 * data_range)", ""),
    ("reconstruction", "centres = inside[window]", "centres = ~inside[window]", ""),
    ("likelihood", "log_density + drawn.log_ratio", "log_density - drawn.log_ratio", ""),
    ("likelihood", "- math.log(n_samples)", "", ""),
    ("likelihood", "log_density - kl)", "log_density + kl)", ""),
    ("likelihood", "(n_values - k) * math.log(s2)", "n_values * math.log(s2)", ""),
    (
        "likelihood",
        "torch.logsumexp(drawn.log_density + drawn.log_ratio, dim=1)",
        "torch.logsumexp(drawn.log_density + drawn.log_ratio, dim=0)",
        "",
    ),
    (
        "refinement",
        "self.image - restored)).double() - self.variance",
        "self.image - restored)).double() + self.variance",
        "",
    ),
    ("refinement", "if new < energy", "if True", ""),
    ("latents", "mu**2 + np.exp(logvar) - 1.0 - logvar", "mu**2 + np.exp(logvar) - 1.0 + logvar", ""),
    ("latents", "np.var(mu, axis=0)", "np.var(mu, axis=1)", ""),
    ("aggregate_posterior", "log_conditional - log_joint)", "log_joint - log_conditional)", ""),
    ("aggregate_posterior", "log_densities.sum(axis=2), axis=1)", "log_densities.sum(axis=2), axis=0)", ""),
    ("aggregate_posterior", "log_joint - log_marginals.sum(axis=1)", "log_joint - log_marginals.mean(axis=1)", ""),
    ("disentanglement", "ranked[-1] - ranked[-2]", "ranked[-1] - ranked[0]", "mig or ideal or duplicated"),
    ("disentanglement", "_gap(information) / entropy", "_gap(information)", "mig"),
    ("disentanglement", "scaled.T @ target / len(target)) ** 2", "scaled.T @ target / len(target))", "sap"),
    ("disentanglement", ".var(axis=0).argmin()", ".var(axis=0).argmax()", "factor_vae or ideal"),
    ("factors", "np.arange(len(shuffled)) % N_FOLDS", "np.arange(len(shuffled)) * 0", ""),
    (
        "factors",
        "2 * position < n_bins * edge, position // edge, (position - 1) // edge",
        "True, position // edge, 0",
        "",
    ),
    (
        "importance",
        "importance.sum(axis=1) @ concentration(importance) / total",
        "concentration(importance).mean()",
        "",
    ),
    ("importance", "/ math.log(n)", "", ""),
    ("importance", "concentration(importance.T)", "concentration(importance).repeat(9)[: importance.shape[1]]", ""),
    ("probes", "return float(1 - error /", "return float(1 + error /", "definitions or ideal"),
    (
        "probes",
        "data.codes[~test], values[~test], data.codes[test]",
        "data.codes, values, data.codes[test]",
        "useless or pipeline",
    ),
    ("probes", "dealt[numbers]", "dealt[rng.permutation(numbers)]", "subject or fold"),
    ("probes", "null >= found.value - 1e-12", "null <= found.value", "ideal or useless"),
    ("probes", "first[rng.permutation(len(first))][numbers]", "rng.permutation(len(numbers))", "permutations_swap"),
    ("targets", "value is None or bool(value != value)", "value is None", ""),
    ("targets", "len(np.unique(values)) <= MOST_CLASSES", "len(np.unique(values)) >= MOST_CLASSES", ""),
    ("residuals", 'scores if kind == "positive" else -scores', "scores", ""),
    ("residuals", "n - 1 - above])", "above])", ""),
    ("residuals", "iterations=erosion", "iterations=erosion + 1", ""),
    ("residuals", "np.ones((3, 3, 3))", "None", ""),
    ("anomaly", "2.0 * voxel_counts(found & lesions)", "voxel_counts(found & lesions)", ""),
    ("anomaly", "average_precision_score(lesions, values)", "average_precision_score(lesions, -values)", ""),
    ("anomaly", "(repaired - target) ** 2", "(repaired - diseased) ** 2", ""),
    ("anomaly", "rankdata(values)[patients]", "rankdata(values)[~patients]", ""),
    ("anomaly", "hits[ends] / (ends + 1)", "hits[ends] / (ends + 2)", ""),
    ("normative", "np.sqrt(variance[active] + posterior_variance)", "np.sqrt(variance[active])", ""),
    ("normative", "2 * stdtr(degrees, -np.abs(statistic))", "2 * stdtr(degrees, np.abs(statistic))", ""),
    ("normative", "(healthy >= score[:, None])", "(healthy <= score[:, None])", ""),
    ("normative", "row[chosen] * chosen.sum()", "row[chosen]", ""),
    ("generation", "within_x + within_y - 2 * between", "within_x + within_y - between", "mmd"),
    ("generation", "(1 + as_far) / (1 + n_permutations)", "as_far / n_permutations", "mmd"),
    ("generation", "weights = np.array(MS_SSIM_WEIGHTS[:n_scales])", "weights = np.ones(n_scales)", "ssim"),
    ("generation", "np.exp(0.5 * logvar) * rng", "0 * rng", "mixture"),
    ("generation", "noise[rows] @ root.T", "noise[rows] @ root", "codes or sample or mixture"),
    ("generation", "numbers - j * (j - 1) // 2", "numbers - j * (j - 1)", "pairs or ssim"),
]


def survives(copy: Path, module: str, line: str, fault: str, tests: str) -> bool:
    """Put one fault in a copy, run the module's tests, take it out again; whether they all passed."""
    path = copy / "monai_betavae" / "evaluation" / f"{module}.py"
    text = path.read_text(encoding="utf-8")
    if text.count(line) != 1:
        raise SystemExit(f"{module}: the line {line!r} is there {text.count(line)} times, not once.")
    path.write_text(text.replace(line, fault), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        f"tests/evaluation/test_{module}.py",
    ]
    done = subprocess.run([*command, "-k", tests] if tests else command, cwd=copy, capture_output=True, text=True)
    path.write_text(text, encoding="utf-8")
    if done.returncode not in (0, 1):  # no test chosen, or pytest itself failed
        raise SystemExit(f"{module}, {fault!r}: pytest ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return done.returncode == 0


def main(modules: list[str]) -> None:
    """Try all faults, or those of some modules."""
    chosen = [fault for fault in FAULTS if not modules or fault[0] in modules]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        copy.mkdir()
        for name in ("monai_betavae", "tests", "bundles", "README.md"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "models", "output"))
            else:
                shutil.copy(source, copy / name)
        # without the coverage and doctest settings that pytest has in the project; the copy comes first on the path
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        (copy / "pyproject.toml").write_text(text, encoding="utf-8")
        survivors = []
        for module, line, fault, tests in chosen:
            survived = survives(copy, module, line, fault, tests)
            survivors += [f"{module}: {fault}"] if survived else []
            print(f"{'SURVIVED' if survived else 'caught  '}  {module}: {line!r} -> {fault!r}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} faults caught, {time.monotonic() - start:.0f} s")
    if survivors:
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
