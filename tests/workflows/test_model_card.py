"""Model cards: numbers computed by hand, nobody to be found in them, names as text."""

import html.parser
import json

import numpy as np
import pytest
import yaml
from described_models import SHAPE, network_of, write_model
from markdown_it import MarkdownIt

from monai_betavae.workflows import write_model_card
from monai_betavae.workflows.model_card import CARD_FILE, demographics, file_sha256, model_card
from monai_betavae.workflows.model_description import read_description
from monai_betavae.workflows.records import write_split

DESCRIBED = {
    "network": {
        "builder": "build_network",
        "arguments": {"latent_dim": 3, "warm_start": "deformable", "channels": [4]},
    },
    "preprocessing": {"transforms": [{"name": "ReadVolumed", "arguments": {}}]},
    "likelihood": {"distribution": "laplace", "beta": 2.5},
    "objective": {"name": "beta-vae", "arguments": {}},
    "grid": {"spatial_shape": [8, 10, 12], "spacing": [3.0, 3.0, 4.0]},
    "trained_on": {"volumes": 12, "subjects": 12, "simulated": False},
}


def people(*rows, first=0):
    """Return a record for each row of covariates."""
    return [
        {"image": f"/data/secret-{first + n}.nii.gz", "subject": f"secret-{first + n}", **row}
        for n, row in enumerate(rows)
    ]


def split_of(training, validation=(), test=()):
    return {"training": training, "validation": list(validation), "test": list(test)}


def table_of(split, **options):
    return {row[0]: row[1:] for row in demographics(split, **options)}


# ---- whom it saw -----------------------------------------------------------------------------------------------------


def test_numbers_by_hand():
    ages = [31, 33, 38, 41, 44, 52, 57, 61, 66, 73, 78, 90]
    sexes = ["F"] * 7 + ["M"] * 5
    rows = [{"age": age, "sex": sex} for age, sex in zip(ages, sexes, strict=True)]
    table = table_of(split_of(people(*rows), people(*rows[:6]), people(*rows[:4])))
    assert table["subjects"] == table["volumes"] == ["12", "6", "4"]
    # by hand: the sum is 664; of the first six 239, with squares that sum to 9815
    assert sum(ages) == 664
    first_sd = ((9815 - 239**2 / 6) / 5) ** 0.5
    assert table["age, mean (standard deviation)"] == ["55.3 (18.9)", f"39.8 ({first_sd:.3g})", "–"]
    # the fifth lowest is 44, the fifth highest 61
    assert table["age, 5th lowest to 5th highest"] == ["40 to 65", "–", "–"]
    assert table["sex: F"] == ["7", "6", "–"]
    assert table["sex: M"] == ["5", "–", "–"]
    assert "sex: others and unknown together" not in table or table["sex: others and unknown together"][2] == "–"


def test_an_extreme_value_moves_no_limit():
    ages = [40 + n for n in range(20)]
    plain = table_of(split_of(people(*({"age": age} for age in ages))))
    extreme = table_of(split_of(people(*({"age": age} for age in [7, *ages[1:-1], 103]))))
    label = "age, 5th lowest to 5th highest"
    assert plain[label] == extreme[label] == ["40 to 55", "–", "–"]


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ({"A": 20, "B": 6, "C": 5}, {"A": "20", "B": "6", "C": "5"}),
        # a single small level would follow from the total: the next smallest goes with it
        ({"A": 20, "B": 6, "C": 3}, {"A": "20", "others and unknown together": "9"}),
        ({"A": 20, "B": 3, "C": 2}, {"A": "20", "others and unknown together": "5"}),
        ({"A": 20, "B": 1}, {"all levels together": "21"}),
        # someone without a value is a group, too
        ({"A": 20, "B": 7, None: 1}, {"A": "20", "others and unknown together": "8"}),
        ({"A": 20, None: 6}, {"A": "20", "others and unknown together": "6"}),
        ({"A": 20, float("nan"): 2}, {"all levels together": "22"}),
        ({"A": 4}, {"all levels together": "–"}),
        ({1.0: 5, 2: 8}, {"1": "5", "2": "8"}),
    ],
)
def test_small_groups_are_merged(counts, shown):
    rows = [{"site": level} for level, count in counts.items() for _ in range(count)]
    table = table_of(split_of(people(*rows)))
    assert {label: cells[0] for label, cells in table.items() if label.startswith("site")} == {
        f"site: {label}": count for label, count in shown.items()
    }


def test_no_number_nor_difference_tells_of_a_small_group():
    rng = np.random.default_rng(0)
    for _ in range(300):
        counts = rng.integers(0, 9, rng.integers(1, 6))
        n_unknown = int(rng.integers(0, 7))
        rows = [{"site": f"L{n}"} for n, count in enumerate(counts) for _ in range(count)] + [{}] * n_unknown
        cells = [row[1] for row in demographics(split_of(people(*rows))) if row[0].startswith("site")]
        numbers = [int(cell) for cell in cells if cell != "–"]
        assert all(number >= 5 for number in numbers)
        rest = len(rows) - sum(numbers)
        assert rest == 0 or (numbers == [] and (rest < 5 or counts.sum() == 0))


def test_a_subject_counts_once_and_other_columns_stay_out():
    visits = [
        {
            "image": f"{n}_{visit}.nii.gz",
            "subject": f"p{n}",
            "session": visit,
            "age": 60.0 + n,
            "Sex": "F",
            "mrn": n,
            "iq": n,
        }
        for n in range(6)
        for visit in ("a", "b")
    ]
    visits[0]["age"] = None  # the second visit knows it
    table = table_of(split_of(visits))
    assert table["subjects"][0] == "6"
    assert table["volumes"][0] == "12"
    assert table["Sex: F"][0] == "6"
    assert table["age, mean (standard deviation)"][0] == "62.5 (1.87)"
    assert not any("mrn" in label or "iq" in label for label in table)
    assert "iq, mean (standard deviation)" in table_of(split_of(visits), covariates=["iq"])


# ---- the card --------------------------------------------------------------------------------------------------------


class Shown(html.parser.HTMLParser):
    """The text and the tags of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = set(), {}, ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes.update(attributes)

    def handle_data(self, data):
        self.text += data


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://tracker.example/x.png)",
    "[click](javascript:alert(1))",
    "a|b|c",
    "`code`\n\n# heading",
    "---\nlicense: mit",
    "**bold** _it_ ~~no~~ &lt;b&gt; \\",
    "right\u202eleft",
]


@pytest.mark.parametrize("level", HOSTILE)
def test_names_are_text(level):
    rows = [{"site": level, "age": 50 + n} for n in range(6)]
    described = {**DESCRIBED, "covariates": {"covariates": [{"name": level, "kind": "category"}], "added": []}}
    card = model_card(described, split_of(people(*rows)))
    front = next(yaml.safe_load_all(card.split("\n---\n")[0]))
    assert front["license"] == "other"
    shown = Shown(MarkdownIt("commonmark").enable("table").render(card.split("\n---\n", 1)[1]))
    assert shown.tags <= set(
        ["h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "strong", "code", "pre"]
    )
    assert set(shown.attributes) <= {"class", "style"}
    row = next(line for line in card.splitlines() if line.startswith("| site: "))
    assert row.endswith(" | 6 | – | – |")
    assert "\u202e" not in card
    # what a reader sees begins as the name does
    visible = level.encode("unicode_escape").decode() if "\u202e" in level else " ".join(level.split())
    assert f"site: {visible[:20]}" in shown.text


def test_the_front_matter_is_what_hugging_face_reads():
    card = model_card({**DESCRIBED, "trained_on": {"simulated": True}}, split_of(people({}, {})))
    _, front, text = card.split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["library_name"] == "monai"
    assert found["license"] == "other"
    assert found["license_name"] == "not-chosen-yet"
    assert "simulated" in found["tags"]
    assert "# Beta-VAE for 3D brain MRI, trained on simulated brains" in text
    assert "simulated" not in model_card(DESCRIBED, split_of(people({}, {}))).casefold()


def test_scores_stand_beside_the_baselines():
    scores = {
        "n_held_out": 7, "sse_ratio": 0.25, "sse_ratio_pca": 0.4, "pca_components": 3, "elbo_nats": 12345.6,
        "kl_nats": 9.87, "active_units": 2, "latent_dim": 3,
        "intervals": {"sse_ratio": [0.2, 0.31], "sse_ratio_to_pca": [0.5, 0.75]},
    }  # fmt: skip
    evaluation = {
        "n_volumes": 9, "n_subjects": 8, "simulated": True,
        "reconstruction": {"sse_ratio": {"value": 0.27, "low": 0.21, "high": None},
                           "ssim_brain": {"value": 0.91, "low": 0.9, "high": 0.92}},
    }  # fmt: skip
    card = model_card(DESCRIBED, split_of(people({})), scores=scores, evaluation=evaluation, run={"seed": 4}, epochs=20)
    lines = card.splitlines()
    assert "| mean training image | 1 |  |" in lines
    assert "| this model | 0.25 | 0.2 to 0.31 |" in lines
    assert "| PCA, 3 components | 0.4 |  |" in lines
    assert "| this model, relative to PCA | 0.625 | 0.5 to 0.75 |" in lines
    assert "Exact ELBO 12346 nats, KL divergence 9.87 nats, 2 of 3 latents active." in lines
    assert "| summed squared error, relative to the mean training image's | 0.27 |  |" in lines
    assert "| SSIM in the brain | 0.91 | 0.9 to 0.92 |" in lines
    assert "**Only 7 held-out volumes: these scores say little.**" in lines
    many = model_card(DESCRIBED, split_of(people({})), scores={**scores, "n_held_out": 20, "best_epoch": 6}, epochs=20)
    assert "these scores say little" not in many
    assert "| Epochs | 20, weights of epoch 6 |" in many
    assert "9 simulated volumes of 8 subjects" in card
    for row in (
        "| Beta | 2.5 |",
        "| Grid | 8×10×12, 3 × 3 × 4 mm |",
        "| Likelihood | laplace |",
        "| Epochs | 20 |",
        "| Seed | 4 |",
    ):
        assert row in lines
    assert "No subject was held out" in model_card(DESCRIBED, split_of(people({})))


def test_too_few_subjects_for_the_components_are_told_of():
    few, enough = (split_of(people(*[{}] * n)) for n in (4, 5))  # three components span the images of four subjects
    assert "There are only 4 training subjects" in model_card(DESCRIBED, few)
    assert "There are only" not in model_card(DESCRIBED, enough)


# ---- the file --------------------------------------------------------------------------------------------------------


def test_it_is_written_from_what_a_training_left(tmp_path):
    models = write_model(tmp_path / "models", network_of(), SHAPE, 12.0)
    split = split_of(people({"age": 50}, {"age": 60}), (), people({}, first=5))
    output = tmp_path / "output"
    output.mkdir()
    with pytest.raises(ValueError, match=r"split\.json must be the split\.json of a training run"):
        write_model_card(models, output)
    write_split(split, output / "split.json")
    (output / "metrics.csv").write_text("epoch,train/loss\n0,2.0\n1,1.5\n")
    (output / "scores.json").write_text(json.dumps({"n_held_out": 1, "sse_ratio": 0.125}))
    card = write_model_card(models, output)
    assert card == models / CARD_FILE
    text = card.read_text(encoding="utf-8")
    assert text == model_card(
        read_description(models), split, scores={"n_held_out": 1, "sse_ratio": 0.125}, epochs=2,
        weights=file_sha256(models / "model.pt"),
    )  # fmt: skip
    assert "| this model | 0.125 |" in text
    assert "secret" not in text
    assert str(tmp_path) not in text
    # scores of a run before, which held out others
    (output / "scores.json").write_text(json.dumps({"n_held_out": 2, "sse_ratio": 0.125}))
    assert "0.125" not in write_model_card(models, output).read_text(encoding="utf-8")
    (output / "scores.json").write_text("[]")
    with pytest.raises(ValueError, match=r"scores\.json must be the scores\.json of a training or an evaluation: list"):
        write_model_card(models, output)
    assert sorted(path.name for path in models.iterdir()) == [CARD_FILE, "model.json", "model.pt"]
