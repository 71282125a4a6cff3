import numpy as np
import pytest

from monai_betavae.workflows.sweep.comparison import choose, compare, doubts


def score(error, elbo=-10.0, codes=None, kl=2.0):
    codes = np.random.default_rng(0).normal(size=(12, 2)) if codes is None else codes
    return {
        "error": error,
        "elbo": elbo,
        "kl": kl,
        "active_units": 2,
        "codes": codes.tolist(),
        "kl_per_dimension": [1.0, 1.0],
    }


def test_rows_are_means_over_seeds():
    rows = compare([{"beta": 1}, {"beta": 4}], [[score(2.0), score(4.0)], [score(8.0), score(8.0)]], mean_image=10.0)
    assert [row["beta"] for row in rows] == [1, 4]
    assert [row["error"] for row in rows] == [3.0, 8.0]
    assert rows[0]["error_sd"] == pytest.approx(2**0.5)
    assert [row["error_ratio"] for row in rows] == [0.3, 0.8]
    assert rows[0]["udr"] > 0.5  # the same codes
    assert compare([{}], [[score(1.0)]], None)[0]["udr"] is None
    assert compare([{}], [[score(1.0)]], None)[0]["error_ratio"] is None


def test_the_choice_follows_the_criterion():
    noise = [np.random.default_rng(seed).normal(size=(200, 2)) for seed in range(2)]
    rows = compare(
        [{"beta": 1}, {"beta": 4}, {"beta": 16}],
        [
            [score(2.0, -30.0, noise[0]), score(2.0, -30.0, noise[1])],
            [score(3.0, -10.0, noise[0]), score(3.0, -10.0, noise[1])],
            [score(4.0, -20.0, noise[0]), score(4.0, -20.0, noise[0])],
        ],
        None,
    )
    assert [choose(rows, criterion) for criterion in ("error", "elbo", "udr")] == [0, 1, 2]
    with pytest.raises(ValueError, match="`choose_by`"):
        choose(rows, "probes")  # by labels, which a sweep doesn't see
    with pytest.raises(ValueError, match="for one seed"):
        choose(compare([{}], [[score(1.0)]], None), "udr")


def test_a_choice_in_the_middle_and_ahead_is_beyond_doubt():
    rows = [{"beta": beta, "kind": "a", "elbo": elbo, "elbo_sd": 1.0} for beta, elbo in ((1, -9), (2, -5), (3, -9))]
    assert doubts(rows, 1, "elbo", ["beta", "kind"]) == []
    rows[2]["elbo"] = -5.5
    (doubt,) = doubts(rows, 1, "elbo", ["beta", "kind"])
    assert doubt.startswith("1 other setting is within")
    assert doubts(rows[1:], 1, "elbo", ["beta"])[0] == "beta 3 is the highest of its values: higher ones may be better."


def test_one_seed_and_one_value_give_no_doubt():
    assert doubts([{"beta": 1.0, "elbo": -5.0, "elbo_sd": None}], 0, "elbo", ["beta"]) == []
