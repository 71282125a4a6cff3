"""The tables and descriptions of a simulated cohort: participants, sessions, sites, datalist, README."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monai_betavae.data.simulation import cohort_texts as texts
from monai_betavae.data.simulation.scanners import Scanner

Row = dict[str, Any]

_DERIVATIVES = {
    "healthy": "Simulated brains: subjects with a lesion, before the lesion",
    "lesions": "Simulated brains: lesion masks",
    "unaffected": "Simulated brains: patients without the disease",
    "disease": "Simulated brains: what the disease changed",
}


def write_participants(folder: Path, rows: Sequence[Row], columns: Iterable[str]) -> None:
    """Write participants.tsv."""
    _write_table(folder / "participants.tsv", ["participant_id", *columns], rows)


def write_sessions(folder: Path, name: str, sessions: Sequence[Row]) -> None:
    """Write the table of one subject's sessions."""
    _write_table(folder / name / f"{name}_sessions.tsv", ["session_id", *texts.SESSION_COLUMNS], sessions)


def write_sites(folder: Path, scanners: Mapping[str, Scanner]) -> None:
    """Write sites.tsv and its description."""
    rows = [
        {"site": site} | {key: round(value, 6) if isinstance(value, float) else value for key, value in knobs.items()}
        for site, knobs in ((site, asdict(scanner)) for site, scanner in scanners.items())
    ]
    _write_table(folder / "sites.tsv", ["site", *texts.SITE_COLUMNS], rows)
    write_json(folder / "sites.json", texts.SITE_COLUMNS)


def write_datalist(
    folder: Path,
    rows: Sequence[Row],
    sections: Mapping[str, Sequence[int]],
    sessions: Mapping[str, Sequence[Row]],
    others: Sequence[str] = (),
) -> None:
    """Write the MONAI datalist.

    Args:
        folder: folder of the cohort.
        rows: the subjects' rows of participants.tsv.
        sections: numbers of the rows of each section.
        sessions: rows of the sessions' tables by subject; empty for a cohort without sessions.
        others: suffixes of further images of each scan, which are also the keys of their paths.
    """

    def records(row: Row) -> list[Row]:
        name = row["participant_id"]
        covariates = {column: value for column, value in row.items() if column not in ("participant_id", "split")}
        scans = []
        for session in sessions.get(name, [{}]):
            label = session.get("session_id", "")
            scan = {column: value for column, value in session.items() if column != "session_id"}
            named = {"session": label} if label else {}
            images = {suffix: image_path(name, label, suffix) for suffix in others}
            scans.append({"image": image_path(name, label), **images, "subject": name, **named, **covariates, **scan})
        return scans

    datalist = {
        section: [record for member in members for record in records(rows[member])]
        for section, members in sections.items()
    }
    write_json(folder / "dataset.json", datalist)


def image_path(name: str, session: str = "", ending: str = "T1w") -> str:
    """Return the path of a subject's image from the folder of the cohort or of a derivative."""
    stem = "_".join(part for part in (name, session, ending) if part)
    return "/".join(part for part in (name, session, "anat", f"{stem}.nii.gz") if part)


def write_descriptions(
    folder: Path, columns: Mapping[str, Mapping[str, Any]], arguments: Mapping[str, Any], *, folded: bool
) -> None:
    """Write the files that describe the folder to readers and to BIDS tools.

    Args:
        folder: folder of the cohort, with everything else in it.
        columns: descriptions of the columns of participants.tsv.
        arguments: the arguments that made the cohort.
        folded: whether the brains are folded.
    """
    # looked up, not imported: the package is above this module, and imports flow downwards
    version = sys.modules["monai_betavae"].__version__
    write_json(folder / "participants.json", columns)
    based_on = "the MNI152 2009a template" + (" and fsaverage5" if folded else "")
    source = {
        "Name": "monai_betavae.data.simulate_cohort",
        "Version": version,
        "Description": f"Simulated from {based_on} with " + json.dumps(arguments),
    }
    places = [(folder, "Simulated brains with known truth", "raw")]
    places += [(folder / "derivatives" / kind, name, "derivative") for kind, name in _DERIVATIVES.items()]
    for path, name, kind in places:
        # without lesions and patients there are no derivatives
        if path.is_dir():
            description = {"Name": name, "BIDSVersion": "1.10.0", "DatasetType": kind, "GeneratedBy": [source]}
            write_json(path / "dataset_description.json", description | {"License": "see NOTICE"})
    lines = [f"- {name}: {value}" for name, value in arguments.items()]
    readme = (texts.FOLDED_README if folded else texts.README).format(version=version, arguments="\n".join(lines))
    for argument, text in (
        ("n_sessions", texts.SESSIONS_README),
        ("site_effects", texts.SITES_README),
        ("disease_fraction", texts.DISEASE_README),
        ("suffixes", texts.CONTRASTS_README),
    ):
        readme += text if argument in arguments else ""
    notice = texts.NOTICE + (texts.FOLDED_NOTICE if folded else "")
    (folder / "README").write_text(readme, encoding="utf-8")
    (folder / "NOTICE").write_text(notice, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
