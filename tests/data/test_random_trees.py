"""Folders with random naming schemes: the true subjects, or a refusal, and never others."""

import random
import re
import tempfile
from pathlib import Path

import pytest
from file_trees import is_true_partition, touch
from hypothesis import HealthCheck, given, settings
from random_trees import PEOPLE, SESSIONS, random_tree, trees

from monai_betavae.data.discovery.bids_entities import refuse_several
from monai_betavae.data.discovery.sources import discover
from monai_betavae.data.identity.bids_names import in_natural_order
from monai_betavae.data.identity.path_records import path_records


def found_on_disk(tree):
    """Return the subject of each file by discovery, ``None`` if it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        touch(folder, *tree.files)
        try:
            records = discover(folder)
        except ValueError:
            return None
        return {Path(record["image"]).relative_to(folder).as_posix(): record["subject"] for record in records}


def found_in_paths(tree):
    """Return the same without a disk: what discovery does with the files of a folder that isn't BIDS."""
    problems = []
    try:
        records = path_records(in_natural_order(f"/data/{file}" for file in tree.files), "/data")
    except ValueError:
        return None
    refuse_several(records, problems)
    return None if problems else {record["image"][len("/data/") :]: record["subject"] for record in records}


def check(tree, found):
    """Check what was found, and return whether anything was."""
    if found is None:
        return False
    assert is_true_partition(found, tree.files), found
    # of a BIDS folder one kind is taken, by its suffix
    assert not (tree.several_kinds and len(found) == len(tree.files)), f"all kinds are taken: {found}"
    return True


@pytest.mark.slow
def test_random_trees_give_their_subjects_or_a_refusal():
    accepted = []

    @settings(
        max_examples=2000, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(trees())
    def the_true_subjects_or_a_refusal(tree):
        accepted.append(check(tree, found_on_disk(tree)))

    the_true_subjects_or_a_refusal()
    assert len(accepted) >= 2000
    assert sum(accepted) > len(accepted) / 4, "a rule that refuses everything is never wrong"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_trees_of_a_plain_generator_give_their_subjects_or_a_refusal(seed):
    # more diverse than what hypothesis draws, which likes small numbers and repeats itself
    generator = random.Random(seed)
    accepted = []
    for _ in range(2000):
        number = generator.getrandbits(40)
        tree = random_tree(random.Random(number))
        try:
            accepted.append(check(tree, found_in_paths(tree)))
        except AssertionError as error:
            raise AssertionError(f"random_tree(random.Random({number})): {error}") from None
    assert sum(accepted) > len(accepted) / 4


def test_both_ways_to_look_at_a_tree_agree():
    generator = random.Random(1)
    n_compared = 0
    while n_compared < 40:
        tree = random_tree(generator)
        # folders that are BIDS are read by their own rules
        if not any(re.match(r"sub-[^/]*/(ses-[^/]*/)?anat/", file) for file in tree.files):
            assert found_on_disk(tree) == found_in_paths(tree)
            n_compared += 1


def test_the_trees_are_what_they_should_be():
    generator = random.Random(0)
    found = [random_tree(generator) for _ in range(500)]
    assert all(tree.n_people > 1 for tree in found)
    assert 50 < sum(tree.several_kinds for tree in found) < 250
    assert sum(len(tree.files) > tree.n_people for tree in found) > 150, "several volumes of one person"
    assert sum(any(file.count("/") != next(iter(tree.files)).count("/") for file in tree.files) for tree in found) > 5
    for tree in found:
        lower = [file.casefold() for file in tree.files]
        assert len(set(lower)) == len(lower), "a disk without upper and lower case"
        assert not any(other.startswith(f"{file}/") for file in lower for other in lower)


@pytest.mark.parametrize("style", PEOPLE)
def test_people_have_names_of_their_own(style):
    for seed in range(20):
        generator = random.Random(seed)
        count = generator.randint(2, 12)
        groups = [generator.choice("AB") for _ in range(count)]
        names = PEOPLE[style](generator, count, groups)
        whose = list(zip(names, groups, strict=True)) if style == "by group" else names
        assert len(set(whose)) == count


@pytest.mark.parametrize("style", SESSIONS)
def test_sessions_have_names_of_their_own(style):
    assert len({SESSIONS[style](i) for i in range(5)}) == 5
