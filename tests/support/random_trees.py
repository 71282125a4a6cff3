"""Random folder trees with random naming schemes, of which it is known whose each file is.

Left out are names from which nobody could tell it: digits glued to digits (``0931`` of person 093 in session 1), and
words glued to words (``annalate``) unless every person has every such word.
"""

from __future__ import annotations

import itertools
import random as randoms
import unicodedata
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hypothesis import strategies as st


class Tree(NamedTuple):
    """Files, from their paths to the number of the person whose they are."""

    files: dict[str, int]
    several_kinds: bool  # of image: then the files can't all be taken

    @property
    def n_people(self) -> int:
        return len(set(self.files.values()))


def trees() -> st.SearchStrategy[Tree]:
    """Trees that hypothesis can make smaller."""
    return st.randoms(use_true_random=False).map(random_tree)


FIRST = ["anna", "ben", "clara", "dora", "emil", "fay", "gil", "hans", "ida", "jo", "kai", "lea"]
LAST = ["smith", "jones", "meier", "novak", "rossi", "sato", "silva", "kim", "lopez", "ali", "berg", "cohen"]
FOREIGN = ["Łukasz", "Zoë", "Émile", "Ångström", "Jürgen", "Çağla", "李雷", "ムギ", "Иван", "Νίκη", "Ñandú", "Åsa"]


# ---- people ----


def _numbers(template: str, first: tuple[int, int] = (1, 130)) -> Callable[..., list[str]]:
    def names(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
        start = random.randint(*first)
        return [template.format(start + i) for i in range(count)]

    return names


def _prefixed(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    prefix = random.choice(
        ["P", "S", "s", "hippocampus_", "BRATS_", "case-", "v", "m", "T", "Subj", "vp", "NC", "pat", "Patient ", "x."]
    )
    width = random.choice([1, 2, 3])
    start = random.randint(1, 120)
    return [f"{prefix}{start + i:0{width}d}" for i in range(count)]


def _hashes(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    length = random.choice([6, 8, 10, 12])
    return _unique(count, lambda: "".join(random.choice("0123456789abcdef") for _ in range(length)))


def _uuids(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    return _unique(count, lambda: str(uuid.UUID(int=random.getrandbits(128), version=4)))


def _uids(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    return _unique(count, lambda: f"1.2.840.113619.{random.randint(1, 99)}.{random.randint(1, 9999)}")


def _by_group(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    """C01, C02, P01: the numbers begin anew in every group, or don't, with the group's letter or without."""
    restart, lettered = random.random() < 0.5, random.random() < 0.5
    numbers = dict.fromkeys(groups, 0)
    restart = restart and len(set(groups)) < len(groups)
    names = []
    for i in range(count):
        numbers[groups[i]] += 1
        number = numbers[groups[i]] if restart else i + 1
        names.append(f"{groups[i][0] if lettered else ''}{number:02d}")
    return names


def _letters(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    length = random.choice([1, 2, 3, 4])
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    # letters that are drawn one by one hold "PD" and "T" and all else
    names = _unique(count, lambda: "".join(random.choice(alphabet) for _ in range(length)))
    return names if random.random() < 0.5 else [name.lower() for name in names]


def _initials_and_numbers(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    letters = _letters(random, count, groups)
    return [f"{name}{random.randint(1, 99):02d}" for name in letters]


def _two_words(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    joint = random.choice(["_", "-", " ", ".", "", ", "])
    firsts, lasts = random.sample(FIRST, count), random.sample(LAST, count)
    if random.random() < 0.3:  # siblings
        lasts = [lasts[i // 2] for i in range(count)]
    return [f"{a.title()}{joint}{b.title()}" for a, b in zip(firsts, lasts, strict=True)]


def _twins(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    """P1 and P01 are two people here; perhaps they are one elsewhere."""
    kind = random.choice(["zeros", "case", "letter", "separator"])
    names = []
    for i in range(count):
        number, second = i // 2 + 1, i % 2
        name = {
            "zeros": f"P{number:02d}" if second else f"P{number}",
            "case": f"{'p' if second else 'P'}{number}x",
            "letter": f"{number:03d}{'ab'[second]}",
            "separator": f"P_{number}" if second else f"P{number}",
        }[kind]
        names.append(name)
    return names


def _exams(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    """A folder for each day, in which the exams are counted."""
    per_day = random.randint(2, 4)
    joint = random.choice(["/", "_"])
    return [f"2019-01-{1 + i // per_day:02d}{joint}{1 + i % per_day:02d}" for i in range(count)]


def _decomposed(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    return [unicodedata.normalize("NFD", name) for name in random.sample(FOREIGN, count)]


def _site_and_number(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    template = random.choice(["{}-{:03d}", "{:02d}-{:03d}", "S{}_{:04d}", "{}{}", "{:03d}_S_{:04d}", "{}.{}"])
    restart = random.random() < 0.5
    names = []
    for i in range(count):
        site = 1 + i % 3
        number = 1 + (i // 3 if restart else i)
        names.append(template.format(site, number))
    return names if len(set(names)) == count else [f"{1 + i % 3}-{i:03d}" for i in range(count)]


def _adni(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    return [f"{1 + i % 3:03d}_S_{4000 + i + random.randint(0, 9) * 20}" for i in range(count)]


def _ixi(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    return [f"IXI{12 + i:03d}-{['Guys', 'HH', 'IOP'][i % 3]}-{700 + i:04d}" for i in range(count)]


def _abide(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    return [f"{['Caltech', 'NYU', 'UM_1'][i % 3]}_005{1456 + i}" for i in range(count)]


def _bare(random: randoms.Random, count: int, groups: Sequence[str]) -> list[str]:
    return [f"{'abcdefghijkl'[i]}{random.choice(['', '1', '2', 'b'])}" for i in range(count)]


PEOPLE: dict[str, Callable[[randoms.Random, int, Sequence[str]], list[str]]] = {
    "numbers": _numbers("{}"),
    "padded": _numbers("{:03d}"),
    "long numbers": _numbers("{}", (100000, 1400000)),
    "prefixed": _prefixed,
    "prefixed again": _prefixed,
    "words": lambda random, count, groups: random.sample(FIRST, count),
    "capitals": lambda random, count, groups: [name.title() for name in random.sample(FIRST, count)],
    "foreign": lambda random, count, groups: random.sample(FOREIGN, count),
    "decomposed": _decomposed,
    "exams": _exams,
    "two words": _two_words,
    "hashes": _hashes,
    "uuids": _uuids,
    "uids": _uids,
    "adni": _adni,
    "ixi": _ixi,
    "oasis": lambda random, count, groups: [f"OAS{1 + count % 2}_{20 + i:04d}" for i in range(count)],
    "oasis 3": lambda random, count, groups: [f"OAS3{20 + i:04d}" for i in range(count)],
    "abide": _abide,
    "site and number": _site_and_number,
    "by group": _by_group,
    "sub": _numbers("sub-{:02d}"),
    "sub_": _numbers("sub_{:02d}"),
    "sub with words": lambda random, count, groups: [f"sub-{name}" for name in random.sample(FIRST, count)],
    "subject": _numbers("subject_{}"),
    "patient": _numbers("patient {:03d}"),
    "brackets": _numbers("scan ({})"),
    "letters": _letters,
    "initials": _initials_and_numbers,
    "twins": _twins,
    "siblings": lambda random, count, groups: [f"fam{3 + i // 2:02d}_{'AB'[i % 2]}" for i in range(count)],
    "bare": _bare,
}


def _unique(count: int, draw: Callable[[], str]) -> list[str]:
    names: dict[str, None] = {}
    for number in itertools.count():
        name = draw()
        # a source of randomness that hypothesis steers may give the same for ever
        names[name if number < 50 * count else f"{name}{number}"] = None
        if len(names) == count:
            return list(names)
    raise AssertionError


# ---- sessions, kinds, groups ----


SESSIONS: dict[str, Callable[[int], str]] = {
    "visit": lambda i: f"visit{i + 1}",
    "visit, padded": lambda i: f"visit_{i + 1:02d}",
    "Visit": lambda i: f"{'vV'[i % 2]}isit{i + 1}",
    "ses": lambda i: f"ses-{i + 1}",
    "date": lambda i: f"20{10 + i}0{3 + i}12",
    "isodate": lambda i: f"20{10 + i}-0{3 + i}-12",
    "date and time": lambda i: f"20{10 + i}-0{3 + i}-12_16_1{i}_47.0",
    "day first": lambda i: f"12-0{3 + i}-20{10 + i}",
    "year": lambda i: f"20{10 + 2 * i}",
    "letters": lambda i: "abcdef"[i],
    "capitals": lambda i: "ABCDEF"[i],
    "words": lambda i: ["early", "late", "last", "again", "more"][i],
    "numbers": lambda i: str(i + 1),
    "padded": lambda i: f"{i + 1:02d}",
    "months": lambda i: f"m{6 * i:02d}",
    "months, long": lambda i: f"month{6 * i}",
    "baseline and months": lambda i: f"m{6 * i:02d}" if i else "bl",
    "named": lambda i: ["baseline", "followup", "post", "retest", "third"][i],
    "pre and post": lambda i: ["pre", "post", "post2", "post3", "post4"][i],
    "unnamed first": lambda i: str(i + 1) if i else "",
    "unnamed first, word": lambda i: ["", "rescan", "again", "more", "last"][i],
    "scan": lambda i: f"scan{i + 1}",
    "v": lambda i: f"v{i + 1}",
    "tp": lambda i: f"tp{i + 1}",
    "T": lambda i: f"T{i + 1}",
    "MR": lambda i: f"MR{i + 1}",
    "d": lambda i: f"d{129 * i:04d}",
    "roman": lambda i: ["I", "II", "III", "IV", "V"][i],
    "ordinal": lambda i: ["1st", "2nd", "3rd", "4th", "5th"][i],
    "month": lambda i: ["jan", "feb", "mar", "apr", "may"][i],
    "copy": lambda i: f" ({i})" if i else "",
}

ONE_KIND = [*["T1", "T1w", "brain", "mprage", "image", "anat", "wm", "smwp1"], *[""] * 8]
SEVERAL_KINDS = [
    *[["t1", "t2"], ["T1", "seg"], ["image", "label"], ["c1", "c2"], ["mwp1", "mwp2"], ["T1w", "T2w"]],
    *[["brain", "mask"], ["flair", "t1ce", "t1", "t2"], ["raw", "norm"], ["anat", "func"], ["", "mask"], ["", "seg"]],
    *[["", "bet"], ["orig", "bfc"], ["L", "R"], ["lh", "rh"], ["magnitude", "phase"], ["scan", "atlas"], ["img", "GT"]],
    *[["0000", "0001"]],
]  # fmt: skip

GROUPS = [
    *[["AD", "CN", "MCI"], ["siteA", "siteB"], ["x", "y"], ["control", "patient"], ["g1", "g2", "g3"]],
    *[["train", "test"], ["good", "bad"], ["2019", "2020"], ["A", "B", "C"], ["young", "old"], ["3T", "15T"]],
    *[["north", "south"], ["1", "2"], ["site_1", "site_2"], ["HC", "SCZ"], ["male", "female"], ["Oslo", "Bergen"]],
    *[["cohort1", "cohort2"], ["PD", "HC"]],
]  # fmt: skip

TIDY_CONSTANTS = ["anat", "mri", "study7", "nifti"]
CONSTANTS = [*TIDY_CONSTANTS, "T1", "MNI152", "2023", "data", "raw", "study", "trial", "cohort", "subjects"]


# ---- paths ----


def random_tree(random: randoms.Random) -> Tree:
    """Return a random tree of two people or more."""
    while True:
        tree = _tree(random)
        if tree.n_people > 1:
            return tree


def _tree(random: randoms.Random) -> Tree:
    count = random.randint(2, 12)
    group_names = random.choice(GROUPS)
    groups = [random.choice(group_names) for _ in range(count)]
    names = PEOPLE[random.choice(list(PEOPLE))](random, count, groups)
    most = random.choice([1, 1, 1, 2, 3, 4])
    session = SESSIONS[random.choice(list(SESSIONS))]
    kinds = random.choice(SEVERAL_KINDS) if random.random() < 0.25 else [random.choice(ONE_KIND)]
    tidy = random.random() < 0.5
    stated = all(name.startswith("sub-") for name in names)  # the label is all that follows
    parts, joints = _tidy_scheme(random, most, kinds) if tidy else _scheme(random, most, kinds)
    if stated:
        joints = [joint or "_" for joint in joints]
    if len(set(names)) < count and "group" not in parts:  # numbers that begin anew in groups that nothing names
        parts, joints = ["group", *parts], ["/", *joints]
    constant = random.choice(TIDY_CONSTANTS if tidy else CONSTANTS)
    counter = itertools.count(random.randint(1, 50))
    complete = most > 1 and random.random() < 0.4
    shift = random.random() < 0.2 and not tidy  # sessions are numbered on from person to person
    folder_if_several = random.random() < 0.1 and not tidy
    unsteady = random.random() < 0.1 and not tidy
    files: dict[str, int] = {}
    lower: set[str] = set()
    for person in range(count):
        n_sessions = most if complete else random.randint(1, most)
        chosen = list(range(n_sessions)) if random.random() < 0.6 else random.sample(range(most), n_sessions)
        for i, kind in itertools.product(chosen, kinds):
            texts = {
                "person": names[person],
                "group": groups[person],
                "session": session((i + person) % 5 if shift else i),
                "kind": kind.upper() if unsteady and random.random() < 0.3 else kind,
                "constant": constant,
                "counter": f"{next(counter):04d}",
                "noise": f"{random.randint(0, 10**6):06d}",
            }
            path = _path(parts, joints, texts, glue_words=complete and not shift)
            if folder_if_several and n_sessions > 1:
                path = f"{names[person]}/{path}"
            key = path.casefold() + ".nii.gz"
            clash = any(other == key or other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in lower)
            if path and not clash:  # else a scheme that names two files alike
                lower.add(key)
                files[f"{path}.nii.gz"] = person
    return Tree(files, len(kinds) > 1 and len(files) > len(set(files.values())))


def _tidy_scheme(random: randoms.Random, most: int, kinds: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a scheme as many studies have it: folders from the group to the session, or one name of all."""
    parts = ["group"] * (random.random() < 0.2) + ["person"]
    parts += ["session"] * (most > 1) + ["constant"] * (random.random() < 0.2) + ["kind"] * any(kinds)
    if random.random() < 0.3:
        parts.insert(parts.index("person") + 1, "person")
    if random.random() < 0.1:  # by session, then by person
        parts.sort(key=lambda part: part != "session")
    joints = [random.choice(["/", "_"]) for _ in parts[1:]]
    return parts, joints


def _scheme(random: randoms.Random, most: int, kinds: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what a path is made of, and what stands between its parts."""
    parts = ["person"]
    parts += ["group"] * (random.random() < 0.4)
    parts += ["session"] * (most > 1 or random.random() < 0.4)
    parts += ["kind"] * any(kinds)
    parts += ["constant"] * (random.random() < 0.4)
    parts += ["counter"] * (random.random() < 0.1)
    parts += ["noise"] * (random.random() < 0.05)
    if random.random() < 0.5:
        random.shuffle(parts)
    elif "group" in parts:  # as most people do
        parts.remove("group")
        parts.insert(0, "group")
    if random.random() < 0.3:
        parts.append("person")
    joints = [random.choice(["/", "/", "/", "_", "_", "_", "-", "", ".", " "]) for _ in parts[1:]]
    return parts, joints


def _path(parts: Sequence[str], joints: Sequence[str], texts: dict[str, str], *, glue_words: bool) -> str:
    path = texts[parts[0]]
    for joint, part in zip(joints, parts[1:], strict=True):
        text = texts[part]
        between = path[-1:] + text[:1]
        words = len(between) == 2 and between.isalpha() and (between[1].islower() or between[0].isupper())
        if joint == "" and (between.isdigit() or (words and not glue_words)):
            joint = "_"
        path += joint + text
    return "/".join(piece.strip() for piece in path.split("/") if piece.strip("._- "))
