"""The rule that infers subjects from paths alone, or refuses ambiguous paths and lists the possible readings.

The rule, which docs/identity.md explains: the subject is the one part of the paths that differs between files, apart
from parts whose names mark them as sessions, repeats or groups. If two differing parts don't determine one another,
either could be the subject, and the rule doesn't guess.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from .path_fields import Field, Identity, UnknownIdentityError, normal_text, partition
from .path_words import (
    COUNTED_GROUP_WORDS,
    DECISIVE_WORDS,
    GROUP_WORDS,
    GROUPS,
    KINDS,
    MAPS,
    RUN_WORDS,
    SESSION_WORDS,
    SESSIONS,
    SPLITS,
    SPM_PREFIX,
    SUBJECT_WORDS,
    atoms_of,
    chunks_of,
    is_date,
)
from .public_cohorts import cohort_subjects
from .readings import channel_readings, depth_readings, kind_readings, prefix_readings, subject_readings
from .subject_patterns import listed

_T1_NAMES = frozenset(["t1", "t1w", "t1n", "mprage"])  # several names for one kind of image
_MAX_KINDS = 8
_MIN_HEAD_LENGTH = 3  # letters of the first word in a name made of two words
_MAX_COUNT_LENGTH = 3  # digits of a number that may count the examinations of a day


def identities(paths: Sequence[str]) -> list[Identity]:
    r"""Return the identities of files, inferred from their paths below the given folder.

    Args:
        paths: relative paths with ``/``, without file extensions, each once.

    Returns:
        one identity per path.

    Raises:
        UnknownIdentityError: if the paths are ambiguous.

    Example:
        >>> for identity in identities(["anna/anna_visit1", "anna/anna_visit2", "ben/ben_visit1"]):
        ...     print(identity.subject, identity.entries)
        anna {'session': 'visit1'}
        anna {'session': 'visit2'}
        ben {'session': 'visit1'}
        >>> try:
        ...     identities(["A/1/T1", "A/2/T1", "B/3/T1"])
        ... except UnknownIdentityError as error:
        ...     print(*error.readings, sep="\n")
        --subject_from "{subject}/*/T1"  2 subjects: A, B
        --subject_from "*/{subject}/T1"  3 subjects: 1, 2, 3
    """
    if len(paths) == 1:
        return [Identity(PurePosixPath(paths[0]).name, {})]
    levels = [path.split("/") for path in paths]
    known = cohort_subjects(paths)
    if known is not None:
        refuse_kinds(paths)
        found = [Identity(subject, {"session": session} if session else {}) for subject, session in known]
    elif len({len(parts) for parts in levels}) == 1:
        found = _by_fields(paths, levels)
    else:
        found = _by_unique_parts(paths, levels)
    refuse_twins([identity.subject for identity in found])
    return found


def refuse_twins(subjects: Iterable[str]) -> None:
    """Refuse subjects whose names differ only in case, separators or leading zeros.

    Raises:
        UnknownIdentityError: if there are such pairs; the message lists them.
    """
    by_normal: dict[str, str] = {}
    twins = []
    for subject in dict.fromkeys(subjects):
        other = by_normal.setdefault(normal_id(subject), subject)
        if other != subject:
            twins.append(f"{other!r} and {subject!r}")
    if twins:
        raise UnknownIdentityError(f"have names that could be one subject's or two subjects': {listed(twins)}")


def normal_id(text: str) -> str:
    """Normalise the parts of an identifier that people write differently: case, separators, leading zeros, ``sub-``.

    Example:
        >>> normal_id("sub-001"), normal_id("1"), normal_id("A_01") == normal_id("a1")
        ('1', '1', True)
        >>> normal_id("1-23") == normal_id("12-3")
        False
    """
    text = re.sub(r"^sub(ject)?(?=[\W_]|\d)", "", text.casefold().strip())
    text = re.sub(r"[\W_]+", "-", text).strip("-")
    text = re.sub(r"(?<!\d)-|-(?!\d)", "", text)  # kept between two numbers, where it separates them
    return re.sub(r"(?<!\d)0+(?=\d)", "", text) or text


def refuse_kinds(paths: Sequence[str]) -> None:
    """Refuse files if some of their names denote another kind of image, or a map.

    Raises:
        UnknownIdentityError: if there are several kinds; the message lists them with their counts.
    """
    words = [{chunk.casefold() for chunk in chunks_of(path)} & (KINDS | MAPS) for path in paths]
    others = [each - _T1_NAMES for each in words]
    common = set.intersection(*others)
    # a single letter is more likely part of a series' name: MPR-R
    if any(len(word) > 1 for each in others for word in each - common):
        counts = Counter("_".join(sorted(each - common)) or "no such word" for each in words)
        raise _kinds_error(counts, kind_readings(paths, _spellings(paths, KINDS | MAPS)))


def _spellings(paths: Iterable[str], words: frozenset[str]) -> list[str]:
    """Return the spellings of words in paths."""
    return sorted({chunk for path in paths for chunk in chunks_of(path) if chunk.casefold() in words})


# ---- paths of one depth ----


def _by_fields(paths: Sequence[str], levels: Sequence[Sequence[str]]) -> list[Identity]:
    fields, doubts = _fields(levels)
    kinds = [field for field in fields if field.role == "kind"]
    if kinds:
        texts = list(dict.fromkeys(kinds[0].texts))
        words = [*(texts if len(texts) <= _MAX_KINDS else []), *_spellings(paths, KINDS | MAPS)]
        readings = kind_readings(paths, words)
        if all(re.fullmatch(r"[Tt]\d", text) for text in texts):  # these may be time points
            visits = [replace(field, role="session") if field is kinds[0] else field for field in fields]
            readings += [line for line in subject_readings(paths, levels, visits) if "{session}" in line]
        raise _kinds_error(_kinds_of(kinds[0].texts), readings)
    if doubts:
        raise _doubt(paths, levels, fields, doubts[0])
    subject = _subject_field(paths, levels, fields)
    _refuse_numbers_of_the_day(paths, levels, fields, subject)
    named = {role: [field for field in fields if field.role == role] for role in ("session", "run", "group", "split")}
    labels = _labels(levels, subject, fields)
    identities = []
    for index, label in enumerate(labels):
        entries = {}
        for role, of_role in named.items():
            texts = [
                field.word * (field.word in SESSION_WORDS | RUN_WORDS and field.texts[index].isdigit())
                + field.texts[index]
                for field in of_role
            ]
            if texts:
                text = "_".join(dict.fromkeys(texts))
                entries[role] = SPLITS.get(text.casefold(), text) if role == "split" else text
        identities.append(Identity(label, entries))
    return identities


def _fields(levels: Sequence[Sequence[str]]) -> tuple[list[Field], list[str]]:
    """Return the differing parts of the paths, without copies, and reasons why a part can't identify subjects."""
    fields: list[Field] = []
    doubts: list[str] = []
    for level in range(len(levels[0])):
        names = [parts[level] for parts in levels]
        if _is_one(names):
            continue
        chunks = [chunks_of(name) for name in names]
        role = _role_of_texts(names)
        if role != "unknown" or len({len(each) for each in chunks}) > 1 or not chunks[0]:
            if role == "unknown":
                doubts += _doubts(names)
                role = "kind" if _has_uneven_kinds(chunks) else role
            fields.append(Field(level, None, None, tuple(names), "", role))
            continue
        for number in range(len(chunks[0])):
            before = {each[number - 1] for each in chunks} if number else set()
            word = atoms_of(next(iter(before)))[-1].casefold() if len(before) == 1 else ""
            fields += _chunk_fields(level, number, [each[number] for each in chunks], word, doubts)
    return _without_copies(fields), doubts


def _chunk_fields(level: int, number: int, texts: list[str], word: str, doubts: list[str]) -> list[Field]:
    if _is_one(texts):
        return []
    role = _role_of_texts(texts)
    atoms = [atoms_of(text) for text in texts]
    if role != "unknown":
        return [Field(level, number, None, tuple(texts), word, role)]
    if all(re.fullmatch(r"[\d.]+", text) and "." in text for text in texts):
        doubts += _doubts_of_uids(texts)
    shapes = {tuple(atom.isdigit() for atom in each) for each in atoms}
    if len(shapes) > 1:
        if not _are_hashes(texts, atoms):
            doubts += _doubts(texts)
        return [Field(level, number, None, tuple(texts), word, role)]
    fields = []
    for index in range(len(atoms[0])):
        column = [each[index] for each in atoms]
        if not _is_one(column):
            before = {each[index - 1].casefold() for each in atoms} if index else {word}
            own_word = next(iter(before)) if len(before) == 1 else ""
            role = _role_of_texts(column, whole=len(atoms[0]) == 1)
            if role == "unknown":
                role = _role_of_word(own_word, column)
            if role == "unknown":
                doubts += _doubts_of_words(column)
            fields.append(Field(level, number, index, tuple(column), own_word, role))
    return fields


def _role_of_texts(texts: Sequence[str], whole: bool = True) -> str:
    """Return the role of a part of the paths according to its texts, or "unknown"."""
    folded = {text.casefold() for text in texts}
    if folded <= GROUPS and not folded <= KINDS:  # "pd" is a kind of image, but a group among controls
        return "group"
    # a single "seg" among whole names makes the part a kind; "pd" among initials doesn't
    if _has_kind(folded) if whole else folded <= KINDS | MAPS:
        return "kind"
    if all(is_date(text) for text in folded) or _are_sessions(folded):
        return "session"
    return "split" if folded <= set(SPLITS) else "unknown"


def _role_of_word(word: str, texts: Sequence[str]) -> str:
    """Return the role of a part of the paths according to the word before it, or "unknown"."""
    # a number or letter follows these words; in visit_anna and study_anna the word is a prefix of all names
    counted = all(re.fullmatch(r"\d{1,4}|\w|[IVX]+", text) for text in texts)
    if word in SUBJECT_WORDS:
        return "subject"
    if word in GROUP_WORDS or (counted and word in COUNTED_GROUP_WORDS):
        return "group"
    if counted and word in SESSION_WORDS:
        return "session"
    return "run" if counted and word in RUN_WORDS else "unknown"


def _is_one(texts: Iterable[str]) -> bool:
    """Return whether texts are equal, or denote one kind of image in several spellings: ``T1w`` and ``T1W``."""
    distinct = set(texts)
    return len(distinct) == 1 or (len({text.casefold() for text in distinct}) == 1 and _has_kind(distinct))


def _has_kind(texts: Iterable[str]) -> bool:
    return any(text.casefold() in KINDS or text.casefold() in MAPS for text in texts)


def _has_uneven_kinds(chunks: Sequence[Sequence[str]]) -> bool:
    """Return whether some names contain a word for a kind of image or map that others lack."""
    words = [{chunk.casefold() for chunk in each} & (KINDS | MAPS) for each in chunks]
    return any(each != words[0] for each in words)


def _are_sessions(texts: Iterable[str]) -> bool:
    """Return whether all texts name sessions: ``visit2``, ``baseline``, and, together with such names, ``m06``."""
    texts = set(texts)
    sure = {text for text in texts if text in SESSIONS or _is_counted(text, SESSION_WORDS)}
    return bool(sure) and all(text in sure or is_date(text) or re.fullmatch(r"m\d{1,3}", text) for text in texts)


def _is_counted(text: str, words: frozenset[str]) -> bool:
    atoms = [atom for chunk in chunks_of(text) for atom in atoms_of(chunk)]
    return len(atoms) == 2 and atoms[0] in words and re.fullmatch(r"\d{1,4}", atoms[1]) is not None


def _doubts(texts: Sequence[str]) -> list[str]:
    """Return why names of different forms can't identify subjects: some share parts, or have no part of their own."""
    distinct = {normal_text(text): text for text in sorted(texts)}
    atoms = {
        text: {normal_text(atom) for chunk in chunks_of(original) for atom in atoms_of(chunk)}
        for text, original in distinct.items()
    }
    counts = Counter(atom for each in atoms.values() for atom in each)
    for text, own in atoms.items():
        shared = [atom for atom in own if 1 < counts[atom] < len(distinct)]
        if shared or not any(counts[atom] == 1 for atom in own):
            others = [each for each in distinct if each != text]
            other = next((each for each in others if set(shared or own) & atoms[each]), others[0] if others else text)
            names = f"{distinct[text]!r} and {distinct[other]!r}"
            return [f"have names that could be one subject's or two subjects': {names}"]
    return []


def _doubts_of_uids(texts: Sequence[str]) -> list[str]:
    """Return why DICOM UIDs can't identify subjects: some belong to the same examination."""
    parents: dict[str, str] = {}
    distinct = dict.fromkeys(texts)
    pairs = [(parents.setdefault(text.rpartition(".")[0], text), text) for text in distinct]
    same = [pair for pair in pairs if len(set(pair)) == 2]
    if same and len(parents) > 1:
        return [f"have names that could be one subject's or two subjects': {same[0][0]!r} and {same[0][1]!r}"]
    return []


def _doubts_of_words(texts: Sequence[str]) -> list[str]:
    """Return why words can't identify subjects: they are compounds, ``annaearly``, ``annalate`` and ``benlate``."""
    words = sorted({text for text in texts if not text.isdigit()})
    backwards = sorted(word[::-1] for word in words)
    pair = _made_of_two(words) or tuple(word[::-1] for word in _made_of_two(backwards))
    return [f"have names that could be one subject's or two subjects': {pair[0]!r} and {pair[1]!r}"] if pair else []


def _made_of_two(words: Sequence[str]) -> tuple[str, ...]:
    """Return two words with the same beginning if their endings also occur after another beginning."""
    for cut in range(1, min(map(len, words), default=0)):
        heads = {word[:cut] for word in words}
        tails = {word[cut:] for word in words}
        if len(heads) > 1 and len(tails) > 1 and len(heads) * len(tails) == len(words):  # all combinations occur
            return words[0], words[1]
    endings: dict[str, set[str]] = defaultdict(set)
    for word in words:
        for cut in range(_MIN_HEAD_LENGTH, len(word) + 1):
            endings[word[:cut]].add(word[cut:])
    several: dict[str, list[str]] = defaultdict(list)
    for head, tails in endings.items():
        if len(tails) > 1:
            for tail in tails:
                several[tail].append(head)
    for word in words:
        for cut in range(_MIN_HEAD_LENGTH, len(word)):
            head, tail = word[:cut], word[cut:]
            for other in several.get(tail, []):
                if other.startswith(head) or head.startswith(other):
                    continue
                others = endings[other]
                # both beginnings share two endings, or one that is long enough
                both = len(others & endings[head]) > 1 or min(map(len, {*others, tail})) >= _MIN_HEAD_LENGTH
                # and not by chance: at least half of the words have these endings
                if both and sum(each.endswith(tuple(others)) for each in words) * 2 >= len(words):
                    first, second = sorted(others, key=lambda each: (each != tail, each))[:2]
                    return (other + first, other + second)
    return ()


def _are_hashes(texts: Sequence[str], atoms: Sequence[Sequence[str]]) -> bool:
    """Return whether texts are random hexadecimal identifiers of one length, such as ``a8f3e10c``."""
    distinct = sorted(set(texts))
    same_length = len({len(text) for text in distinct}) == 1 and len(distinct[0]) >= 8
    # random identifiers mix letters and digits; only one in forty has digits only
    mixed = sum(map(len, atoms)) / len(atoms) >= 2.5
    if not same_length or not mixed or not all(re.fullmatch("[0-9a-fA-F]+", text) for text in distinct):
        return False
    # equal beginnings or ends, or letters in the same places, aren't random: the texts may be compounds
    alike = max(6, len(distinct[0]) - 6)
    beginnings, ends = {text[:alike] for text in distinct}, {text[-alike:] for text in distinct}
    places = {tuple(sign.isdigit() for sign in text) for text in distinct}
    return len(beginnings) == len(ends) == len(distinct) and len(places) * 2 > min(len(distinct), 16)


def _without_copies(fields: Sequence[Field]) -> list[Field]:
    """Return fields without those that repeat another's texts, such as a folder's name in its files' names."""
    kept: dict[tuple[str, ...], Field] = {}
    for field in fields:
        texts = tuple(normal_text(text) for text in field.texts)
        other = kept.setdefault(texts, field)
        # "rep_127/127": a number that also occurs without the word "rep" may be more than a repeat
        if field.role in ("unknown", "subject") and other.role not in ("unknown", "subject"):
            kept[texts] = field
    return list(kept.values())


def _subject_field(paths: Sequence[str], levels: Sequence[Sequence[str]], fields: Sequence[Field]) -> Field:
    """Return the one part of the paths that identifies the subjects."""
    called = [field for field in fields if field.role == "subject"]
    unknown = [field for field in fields if field.role == "unknown"]
    # "case 1" or "patient 1" next to a person's name may number the scans; "subject 1" doesn't
    decisive = called and all(field.word in DECISIVE_WORDS for field in called)
    candidates = called if decisive else called + unknown
    if not candidates:
        roles = sorted({field.role for field in fields})
        raise UnknownIdentityError(f"differ in {' and '.join(roles)} only", subject_readings(paths, levels, fields))
    partitions = {field.groups for field in candidates}
    if len(partitions) > 1:
        raise _doubt(
            paths, levels, fields, f"differ in {len(partitions)} parts of their paths, and each could be the subject"
        )
    subject = candidates[0]
    others = [field for field in fields if field.role in ("unknown", "group", "split", "subject")]
    for other in others:
        within: dict[int, dict[str, None]] = defaultdict(dict)
        for group, text in zip(subject.groups, other.texts, strict=True):
            within[group][text] = None
        several = next((group for group in within if len({normal_text(t) for t in within[group]}) > 1), None)
        if several is not None:
            name = subject.texts[subject.groups.index(several)]
            raise _doubt(
                paths, levels, fields, f"have {name!r} with {listed(sorted(within[several]))}: one subject, or several"
            )
    # prefer a name that contains nothing else
    same = [field for field in candidates if field.groups == subject.groups]
    clean = [field for field in same if all(f.level != field.level or f.groups == field.groups for f in fields)]
    return (clean or same)[0]


def _refuse_numbers_of_the_day(
    paths: Sequence[str], levels: Sequence[Sequence[str]], fields: Sequence[Field], subject: Field
) -> None:
    """Refuse short numbers that restart on every date, as scanners count: ``2019-01-31/01``, ``2019-02-01/01``."""
    place = (subject.level, subject.chunk or 0)
    days = [f for f in fields if (f.level, f.chunk or 0) < place and f.role == "session" and all(map(is_date, f.texts))]
    counted = all(text.isdigit() and len(text) <= _MAX_COUNT_LENGTH for text in subject.texts)
    if days and counted and len(set(zip(days[0].groups, subject.groups, strict=True))) > len(set(subject.groups)):
        raise _doubt(paths, levels, fields, "have the same numbers on several days: one subject, or several")


def _labels(levels: Sequence[Sequence[str]], subject: Field, fields: Sequence[Field]) -> list[str]:
    """Return the subjects' names: the name of the folder or file, or the part of it that isn't a session or repeat."""
    others = [
        field
        for field in fields
        if field.level == subject.level and (field.groups != subject.groups or field.role in ("session", "run"))
    ]
    names = [parts[subject.level] for parts in levels]
    if not others or subject.chunk is None:
        return names
    labels = [chunks_of(name)[subject.chunk] for name in names]
    if subject.atom is not None and any(field.chunk == subject.chunk for field in others):
        atoms = [atoms_of(text) for text in labels]
        before = [each[subject.atom - 1] if subject.atom else "" for each in atoms]
        labels = [word * word.isalpha() + text for word, text in zip(before, subject.texts, strict=True)]
        if partition([normal_text(label) for label in labels]) != subject.groups:
            labels = list(subject.texts)  # the word before it names a session, as in pre01 and post01
    begun = subject.word not in SUBJECT_WORDS or all(text.casefold().startswith(subject.word) for text in labels)
    return labels if begun else [subject.word + text for text in labels]


# ---- paths of several depths ----


def _by_unique_parts(paths: Sequence[str], levels: Sequence[Sequence[str]]) -> list[Identity]:
    """Return identities of paths that don't align, each from the first part that is unique to its path."""
    atoms = [[{normal_text(a) for c in chunks_of(part) for a in atoms_of(c)} for part in parts] for parts in levels]
    counts = Counter(atom for each in atoms for atom in set().union(*each))
    words = [{chunk.casefold() for chunk in chunks_of(path)} for path in paths]
    marked = Counter(word for each in words for word in each if word in KINDS | MAPS | SESSIONS or is_date(word))
    if any(count < len(paths) for count in marked.values()):
        raise UnknownIdentityError("lie at different depths, and differ in kind or session", depth_readings(paths))
    subjects = []
    for path, parts, each in zip(paths, levels, atoms, strict=True):
        unique = [level for level, own in enumerate(each) if any(counts[atom] == 1 for atom in own)]
        if not unique or any(1 < counts[atom] < len(paths) for own in each for atom in own):
            raise UnknownIdentityError(f"lie at different depths, such as {path!r}", depth_readings(paths))
        subjects.append(parts[unique[0]])
    return [Identity(subject, {}) for subject in subjects]


# ---- refusals ----


def _doubt(
    paths: Sequence[str], levels: Sequence[Sequence[str]], fields: Sequence[Field], reason: str
) -> UnknownIdentityError:
    """Return the refusal for a reason, or a better one if channels or prefixes show several kinds of images."""
    for field in fields:
        if field.role == "unknown":
            channels = _channels(field, levels, fields)
            if channels:
                return _kinds_error(Counter(channels), channel_readings(paths, sorted(set(channels))))
            prefixes = _prefixes(field.texts) if field.chunk in (None, 0) else []
            if prefixes:
                counts = Counter(prefix or "no prefix" for prefix in prefixes)
                return _kinds_error(counts, prefix_readings(paths, field.level, [p for p in counts if p in prefixes]))
    return UnknownIdentityError(reason, subject_readings(paths, levels, fields))


def _channels(field: Field, levels: Sequence[Sequence[str]], fields: Sequence[Field]) -> list[str]:
    """Return the numbers of nnU-Net channels, such as ``_0000`` and ``_0001`` at the end of each case's names."""
    last = field.level == len(levels[0]) - 1 and all(
        parts[-1].endswith(f"_{text}") for parts, text in zip(levels, field.texts, strict=True)
    )
    if last and "0000" in field.texts and all(re.fullmatch(r"000\d", text) for text in field.texts):
        cases = {tuple(f.groups[i] for f in fields if f is not field) for i in range(len(field.texts))}
        return list(field.texts) if 1 < len(cases) < len(field.texts) else []
    return []


def _prefixes(texts: Sequence[str]) -> list[str]:
    """Return the prefixes by which SPM or CAT12 names several images of one scan, "" for none."""
    found = {text: SPM_PREFIX.match(text) for text in texts}
    tails = Counter(text[match.end() :] for text, match in found.items() if match)
    prefixes = {}
    for text, match in found.items():
        tail = text[match.end() :] if match else ""
        # "m" and "r" also begin ordinary names: the rest must occur with another prefix, or without one
        is_prefix = tail and (tail in found or tails[tail] > 1)
        prefixes[text] = match[0] if match and is_prefix else ""
    with_prefix = sum(bool(prefix) for prefix in prefixes.values())
    several = len(set(prefixes.values())) > 1 and with_prefix * 2 >= len(prefixes)
    return [prefixes[text] for text in texts] if several else []


def _kinds_of(texts: Sequence[str]) -> Counter[str]:
    """Return the kinds of images that texts name, with counts; other texts count as "others" if there are many."""
    counts: Counter[str] = Counter()
    for text in texts:
        words = [chunk.casefold() for chunk in chunks_of(text) if chunk.casefold() in KINDS | MAPS]
        counts["_".join(words) or text.casefold()] += 1
    if len(counts) <= _MAX_KINDS:
        return counts
    known = Counter({text: n for text, n in counts.items() if set(text.split("_")) <= KINDS | MAPS})
    return known | Counter({"others": counts.total() - known.total()})


def _kinds_error(kinds: Counter[str], readings: Iterable[str] = ()) -> UnknownIdentityError:
    counts = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))
    return UnknownIdentityError(f"are of several kinds, of which one must be chosen: {counts}", readings)
