#!/usr/bin/env python3
"""Whether the tests can fail: each fault below, put in a copy, must break the tests of its module.

python .ci/mutations.py [module ...], such as "evaluation", "evaluation/probes", "training/checkpoints"

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

# module below the package, line, what it becomes, which of the module's tests must fail (pytest's -k)
FAULTS = [
    ("evaluation/intervals", "[(1 - level) / 2, (1 + level) / 2]", "[(1 - level), level]", ""),
    ("evaluation/intervals", "rng.integers(0, len(members),", "rng.integers(0, len(members) - 1,", ""),
    ("evaluation/intervals", "if len(members) < n:", "if False:", ""),
    (
        "evaluation/reconstruction",
        "difference = (images - reconstructions)",
        "difference = (images + reconstructions)",
        "",
    ),
    ("evaluation/reconstruction", "10 * np.log10(data_range**2 / mse)", "10 * np.log10(mse / data_range**2)", ""),
    (
        "evaluation/reconstruction",
        '"mae_brain": _masked_mean(np.abs(error), inside)',
        '"mae_brain": _masked_mean(error, inside)',
        "",
    ),
    ("evaluation/reconstruction", "data_range=torch.tensor(data_range)", "data_range=torch.tensor(2 * data_range)", ""),
    ("evaluation/reconstruction", "centres = inside[window]", "centres = ~inside[window]", ""),
    ("evaluation/likelihood", "log_density + drawn.log_ratio", "log_density - drawn.log_ratio", ""),
    ("evaluation/likelihood", "- math.log(n_samples)", "", ""),
    ("evaluation/likelihood", "log_density - kl)", "log_density + kl)", ""),
    ("evaluation/likelihood", "(n_values - k) * math.log(s2)", "n_values * math.log(s2)", ""),
    (
        "evaluation/likelihood",
        "torch.logsumexp(drawn.log_density + drawn.log_ratio, dim=1)",
        "torch.logsumexp(drawn.log_density + drawn.log_ratio, dim=0)",
        "",
    ),
    (
        "evaluation/refinement",
        "self.image - restored)).double() - self.variance",
        "self.image - restored)).double() + self.variance",
        "",
    ),
    ("evaluation/refinement", "if new < energy", "if True", ""),
    (
        "evaluation/latent_activity",
        "mu**2 + np.exp(logvar) - 1.0 - logvar",
        "mu**2 + np.exp(logvar) - 1.0 + logvar",
        "",
    ),
    ("evaluation/latent_activity", "np.var(mu, axis=0)", "np.var(mu, axis=1)", ""),
    ("evaluation/aggregate_posterior", "log_conditional - log_joint)", "log_joint - log_conditional)", ""),
    ("evaluation/aggregate_posterior", "log_densities.sum(axis=2), axis=1)", "log_densities.sum(axis=2), axis=0)", ""),
    (
        "evaluation/aggregate_posterior",
        "log_joint - log_marginals.sum(axis=1)",
        "log_joint - log_marginals.mean(axis=1)",
        "",
    ),
    ("evaluation/disentanglement", "ranked[-1] - ranked[-2]", "ranked[-1] - ranked[0]", "mig or ideal or duplicated"),
    ("evaluation/disentanglement", "_gap(information) / entropy", "_gap(information)", "mig"),
    ("evaluation/disentanglement", "scaled.T @ target / len(target)) ** 2", "scaled.T @ target / len(target))", "sap"),
    ("evaluation/disentanglement", ".var(axis=0).argmin()", ".var(axis=0).argmax()", "factor_vae or ideal"),
    ("evaluation/known_factors", "np.arange(len(shuffled)) % N_FOLDS", "np.arange(len(shuffled)) * 0", ""),
    (
        "evaluation/known_factors",
        "2 * position < n_bins * edge, position // edge, (position - 1) // edge",
        "True, position // edge, 0",
        "",
    ),
    (
        "evaluation/importance",
        "importance.sum(axis=1) @ concentration(importance) / total",
        "concentration(importance).mean()",
        "",
    ),
    ("evaluation/importance", "/ math.log(n)", "", ""),
    ("evaluation/importance", "disentanglement_of(np.transpose(importance))", "disentanglement_of(importance)", ""),
    ("evaluation/disentanglement", "concentration(importance.T)", "concentration(importance)", "dci or factor"),
    ("evaluation/probes", "return float(1 - error /", "return float(1 + error /", "definitions or ideal"),
    (
        "evaluation/probes",
        "data.codes[~test], values[~test], data.codes[test]",
        "data.codes, values, data.codes[test]",
        "useless or pipeline",
    ),
    ("evaluation/probes", "dealt[numbers]", "dealt[rng.permutation(numbers)]", "subject or fold"),
    ("evaluation/probes", "null >= found.value - 1e-12", "null <= found.value", "ideal or useless"),
    (
        "evaluation/probes",
        "first[rng.permutation(len(first))][numbers]",
        "rng.permutation(len(numbers))",
        "permutations_swap",
    ),
    ("_checks", "value is None or bool(value != value)", "value is None", ""),
    ("evaluation/targets", "len(np.unique(values)) <= MAX_CLASSES", "len(np.unique(values)) >= MAX_CLASSES", ""),
    ("evaluation/residuals", 'scores if kind == "positive" else -scores', "scores", ""),
    ("evaluation/residuals", "n - 1 - above])", "above])", ""),
    ("evaluation/residuals", "iterations=erosion", "iterations=erosion + 1", ""),
    ("evaluation/residuals", "np.ones((3, 3, 3))", "None", ""),
    ("evaluation/anomaly", "2.0 * voxel_counts(found & lesions)", "voxel_counts(found & lesions)", ""),
    ("evaluation/anomaly", "average_precision_score(lesions, values)", "average_precision_score(lesions, -values)", ""),
    ("evaluation/anomaly", "(repaired - target) ** 2", "(repaired - diseased) ** 2", ""),
    ("evaluation/anomaly", "rankdata(values)[patients]", "rankdata(values)[~patients]", ""),
    ("evaluation/anomaly", "hits[ends] / (ends + 1)", "hits[ends] / (ends + 2)", ""),
    ("evaluation/normative", "np.sqrt(variance[active] + posterior_variance)", "np.sqrt(variance[active])", ""),
    ("evaluation/normative", "2 * stdtr(degrees, -np.abs(statistic))", "2 * stdtr(degrees, np.abs(statistic))", ""),
    ("evaluation/normative", "(healthy >= score[:, None])", "(healthy <= score[:, None])", ""),
    ("evaluation/normative", "row[chosen] * chosen.sum()", "row[chosen]", ""),
    ("evaluation/adjusted_scores", "/ (1 - leverage)", "", ""),
    ("evaluation/adjusted_scores", "/ np.exp(new @ scale)", "* np.exp(new @ scale)", ""),
    ("evaluation/adjusted_scores", "(reference >= adjusted[:, None])", "(reference <= adjusted[:, None])", ""),
    ("evaluation/residual_deviation", "quantile)) / typical if", "quantile)) if", ""),
    ("evaluation/residual_deviation", "squares - away**2 * (n / (n - 1))", "squares", ""),
    ("evaluation/residual_deviation", "np.quantile(np.abs(z), quantile)", "np.quantile(z, quantile)", ""),
    ("evaluation/calibration", "beyond = values <= limit", "beyond = values < limit", ""),
    ("evaluation/calibration", "n, k, n_reference + 1 - k)", "n, k, n_reference - k)", ""),
    ("evaluation/calibration", "return int((ranks <= limit).sum())", "return int((ranks < limit).sum())", ""),
    ("data/tables/covariate_coding", "block[average] = 0.0", "pass", ""),
    ("data/tables/covariate_coding", "row[places] = 0.0", "pass", ""),
    ("data/tables/covariate_coding", "for level in sorted(levels) if level not in known", "for level in levels", ""),
    ("evaluation/reliability", "(scans_per_subject - 1) * within", "scans_per_subject * within", ""),
    ("evaluation/reliability", "np.square(self.scans).sum() / n", "len(self.scans)", ""),
    ("evaluation/reliability", "/ (self.scans.sum() - len(self.scans))", "/ self.scans.sum()", ""),
    ("evaluation/reliability", "distances[row] = np.inf", "pass", ""),
    ("evaluation/reliability", "scaled / scaled.std(axis=0)", "scaled", ""),
    ("evaluation/mmd", "within_x + within_y - 2 * between", "within_x + within_y - between", "mmd"),
    ("evaluation/mmd", "(1 + as_far) / (1 + n_permutations)", "as_far / n_permutations", ""),
    ("evaluation/ms_ssim", "weights = np.array(MS_SSIM_WEIGHTS[:n_scales])", "weights = np.ones(n_scales)", ""),
    ("evaluation/latent_mixture", "np.exp(0.5 * logvar) * rng", "0 * rng", "mixture"),
    ("evaluation/latent_mixture", "noise[rows] @ root.T", "noise[rows] @ root", "codes or sample or mixture"),
    ("evaluation/ms_ssim", "numbers - j * (j - 1) // 2", "numbers - j * (j - 1)", "pairs or ssim"),
    # trust: what keeps files whole, resumed runs equal, rows in order, and code out
    ("saving/atomic_files", "os.replace(temporary, target)", "os.link(temporary, target)", ""),
    ("saving/atomic_files", "temporary.unlink(missing_ok=True)\n            raise", "raise", ""),
    ("saving/atomic_files", "if free < n_bytes", "if free < 0", ""),
    ("saving/atomic_files", 'return "\'" + value', "return value", ""),
    ("training/checkpoints", "os.replace(temporary, self.path)", "os.link(temporary, self.path)", ""),
    ("training/checkpoints", "trainer.is_last_batch or ", "", ""),
    ("training/checkpoints", "done % trainer.accumulate_grad_batches != 0", "False", ""),
    (
        "training/checkpoints",
        "self._batches, self._global_batch = done,",
        "self._batches, self._global_batch = done + 1,",
        "",
    ),
    ("training/checkpoints", "position.epochs, position.batches * loader.batch_size", "position.epochs, 0", ""),
    ("training/checkpoints", "position.batches and position.global_batch !=", "False and position.global_batch !=", ""),
    ("training/preemption", "super().__init__(128 + number)", "super().__init__(0)", ""),
    ("data/sampling", "own[self._left_out :], 0", "own[self._left_out :], self._left_out", ""),
    ("data/sampling", "padded[self.rank :: self.num_replicas]", "padded[self.rank * self.num_samples :]", ""),
    (
        "training/callbacks",
        'self._sums, self._batches = dict(unfinished["sums"])',
        "self._sums, self._batches = {}",
        "",
    ),
    ("training/divergence", "bool(torch.isfinite(value).all())", "True", ""),
    ("training/divergence", "if kl < COLLAPSED_KL", "if kl < 0", ""),
    ("saving/safe_loading", "weights_only=True)", "weights_only=False)", ""),
    ("workflows/provenance", "file.seek(max(SAMPLE_BYTES, size - SAMPLE_BYTES))", "file.seek(size)", ""),
    ("workflows/provenance", "plain[name] = False", "pass", ""),
    ("workflows/resumption", "any(re.fullmatch(pattern, name)", "any(re.match(pattern, name)", ""),
    ("workflows/resumption", "own = _looked_up(config, own[1:])", "pass", ""),
    ("workflows/resumption", "else _looked_up(own, name) for each", "else ABSENT for each", ""),
    ("workflows/run_checks", "before != after and name not in FREE", "before != after and name in FREE", ""),
    ("workflows/preprocessing_description", "and _is_disabled(parser, step_place, step)", "and False", ""),
    ("workflows/preprocessing_description", "if is_random(target)", "if False", ""),
    (
        "workflows/trained_model",
        "split_digest(read_split(path)) != known",
        "split_digest(read_split(path)) == known",
        "",
    ),
    ("workflows/model_description", "if code is not None", "if False", ""),
    ("workflows/model_description", 'os.path.basename(str(record["image"]))', 'str(record["image"])', ""),
    ("workflows/model_evaluation/report", "return html.escape(make_visible(text))", "return str(text)", ""),
]


def survives(copy: Path, module: str, line: str, fault: str, tests: str) -> bool:
    """Put one fault in a copy, run the module's tests, take it out again; whether they all passed."""
    path = copy / "monai_betavae" / f"{module}.py"
    folder, name = Path(module).parent, Path(module).name
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
        str("tests" / folder / f"test_{name.lstrip('_')}.py"),
    ]
    done = subprocess.run([*command, "-k", tests] if tests else command, cwd=copy, capture_output=True, text=True)
    path.write_text(text, encoding="utf-8")
    if done.returncode not in (0, 1):  # no test chosen, or pytest itself failed
        raise SystemExit(f"{module}, {fault!r}: pytest ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return done.returncode == 0


def main(modules: list[str]) -> None:
    """Try all faults, or those of some modules."""
    chosen = [fault for fault in FAULTS if not modules or {fault[0], *map(str, Path(fault[0]).parents)} & set(modules)]
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
