"""What was planted is found, in each form that it may have in a file; what isn't there is not."""

import json
import unicodedata
import zipfile

import pytest
import torch

from monai_betavae._texts import markdown_text
from monai_betavae.workflows.personal_data import check_no_personal_data, find_personal_data, personal_data_of

RECORDS = [
    {"image": "/study/Jane_Doe/scan.nii.gz", "subject": "Jane_Doe", "lesion_mask": "/masks/x1.nii.gz", "age": 61},
    {"image": "/study/sub-Zoë/scan.nii.gz", "subject": "sub-Zoë", "age": 55},
    {"image": "/study/100423/scan.nii.gz", "subject": "100423", "age": 70},
    {"image": "/study/7/scan.nii.gz", "subject": "7", "age": 70},
]
KNOWN = personal_data_of(RECORDS, home="/home/jroe", user="jroe")


def found_in(path, **options):
    return find_personal_data(path, KNOWN, **options)


def test_what_is_searched():
    assert KNOWN["Jane_Doe"] == KNOWN["Zoë"] == KNOWN["sub-Zoë"] == KNOWN["100423"] == "name of a subject"
    assert KNOWN["/study/Jane_Doe"] == KNOWN["/study"] == KNOWN["/masks"] == "folder of volumes"
    assert KNOWN["/masks/x1.nii.gz"] == "path of a volume"
    assert KNOWN["/home/jroe"] == "home folder of the user"
    assert KNOWN["jroe"] == "name of the user"
    # a name that is everywhere by chance, and a folder of all subjects
    assert "7" not in KNOWN
    assert "sub-7" in KNOWN
    assert "study" not in KNOWN


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("made by Jane_Doe.", "Jane_Doe"),
        ("JANE_DOE", "Jane_Doe"),
        (f"| site: {markdown_text('Jane_Doe')} | 6 |", "Jane_Doe"),
        ("Jane&#95;Doe", "Jane_Doe"),
        (unicodedata.normalize("NFD", "with Zoë"), "Zoë"),
        ("id 100423, twice", "100423"),
        ("sub-7_T1w", "sub-7"),
        ("in /home/jroe/data", "/home/jroe"),
        (markdown_text("/study/Jane_Doe"), "/study/Jane_Doe"),
        ("see scan.nii.gz", "scan.nii.gz"),
    ],
)
def test_found_in_texts(tmp_path, text, name):
    path = tmp_path / "README.md"
    path.write_text(text, encoding="utf-8")
    assert any(finding.endswith(repr(name)) for finding in found_in(path))


@pytest.mark.parametrize(
    "text",
    ["Jane Doe", "Jane_Does", "7 subjects, 0.7", "0.100423", "1004230", "jroes", "a study", "/studying", "Zoëlla"],
)
def test_not_found_where_it_is_another_word(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text, encoding="utf-8")
    assert found_in(path) == []


@pytest.mark.parametrize("place", ["key", "value", "nested"])
def test_found_in_json_which_escapes_it(tmp_path, place):
    path = tmp_path / "model.json"
    content = {"key": {"Zoë": 1}, "value": {"a": "Zoë"}, "nested": {"a": [{"b": ["x", "Zoë"]}]}}[place]
    path.write_text(json.dumps(content))
    assert "Zoë" not in path.read_text()
    assert found_in(path) == ["name of a subject 'sub-Zoë'"] or found_in(path) == ["name of a subject 'Zoë'"]


def planted_weights(path, where, name):
    """Write weights with a name somewhere in them."""
    weights = {"layer.weight": torch.randn(64, 64, generator=torch.Generator().manual_seed(0))}
    if where == "key":
        weights[f"layer.{name}"] = torch.zeros(1)
    if where == "value":
        weights["note"] = f"of {name}"
    if where == "tensor":
        letters = torch.tensor(list(f"   {name}   ".encode()), dtype=torch.uint8)
        weights["bytes"] = letters
    torch.save(weights, path)
    if where in ("record", "comment"):
        with zipfile.ZipFile(path, "a") as archive:
            if where == "record":
                archive.writestr(f"archive/extra/{name}", b"")
            else:
                archive.comment = name.encode()
    return path


@pytest.mark.parametrize("where", ["key", "value", "tensor", "record", "comment"])
@pytest.mark.parametrize("name", ["Jane_Doe", "/study/100423/scan.nii.gz", "/home/jroe"])
def test_found_in_weights(tmp_path, where, name):
    path = planted_weights(tmp_path / "model.pt", where, name)
    assert any(finding.endswith(repr(name)) for finding in found_in(path))


def test_short_names_are_found_beside_the_tensors_and_not_in_their_numbers(tmp_path):
    known = {"abc": "name of a subject"}
    letters = torch.tensor(list(b"\0abc\0"), dtype=torch.uint8)
    torch.save({"bytes": letters}, tmp_path / "model.pt")
    assert find_personal_data(tmp_path / "model.pt", known) == []
    torch.save({"abc": letters}, tmp_path / "model.pt")
    assert find_personal_data(tmp_path / "model.pt", known) == ["name of a subject 'abc'"]


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"\x80\x02weights")
    with pytest.raises(ValueError, match=r"model\.pt must be a torch file as training writes it"):
        found_in(tmp_path / "model.pt")


def test_what_the_package_says_itself_is_no_finding(tmp_path):
    own, made = tmp_path / "own.json", tmp_path / "made.json"
    own.write_text(json.dumps({"a": "in Jane_Doe's way"}))
    made.write_text(json.dumps({"a": "in Jane_Doe's way"}))
    assert found_in(made, known_file=own) == []
    made.write_text(json.dumps({"a": "in Jane_Doe's way", "b": "Jane_Doe"}))
    assert found_in(made, known_file=own) == ["name of a subject 'Jane_Doe'"]


def test_the_refusal_names_file_and_finding(tmp_path):
    path = tmp_path / "card"
    path.write_text("Jane_Doe and jroe")
    with pytest.raises(
        ValueError, match=r"README\.md must hold no personal data, got the name of a subject 'Jane_Doe', the"
    ):
        check_no_personal_data({"README.md": path}, KNOWN, {})
    with pytest.raises(ValueError, match="got the name of the user 'jroe'; nothing was pushed"):
        check_no_personal_data({"README.md": path}, KNOWN, {}, allow=["jane_doe"])
    check_no_personal_data({"README.md": path}, KNOWN, {}, allow=["Jane_Doe", "jroe"])
