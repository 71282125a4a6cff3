"""A conditional model in the bundle: evaluation and inference of subjects with a level that training had none of."""

import json

import numpy as np
import pandas as pd
import pytest
from bundle_runs import evaluated, latents, tiny_cohort, train

# MONAI's warning of expressions in configs, and Lightning's advice on speed
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_level_that_training_had_none_of_is_one_that_the_user_says(tmp_path):
    folder = tmp_path / "run"
    train(folder, tiny_cohort(tmp_path / "cohort"), covariates=["sex"])
    held_out = json.loads((folder / "split.json").read_text())["test"]

    def table(sex):
        rows = [{"image": record["image"], "subject": record["subject"], "sex": sex} for record in held_out]
        pd.DataFrame(rows).to_csv(tmp_path / f"{sex}.csv", index=False)
        return str(tmp_path / f"{sex}.csv")

    with pytest.raises(ValueError, match="known values of 'sex'"):
        evaluated(folder, dataset_dir=table("X"))
    unseen = {"sex": {"X": "F"}}
    as_f, as_m = (evaluated(folder, dataset_dir=table(sex)) for sex in "FM")
    found = evaluated(folder, dataset_dir=table("X"), unseen=unseen)
    assert found["conditional_on"] == ["sex"]
    for part in ("reconstruction", "likelihood"):
        assert found[part] == as_f[part]
        assert found[part] != as_m[part]
    codes = latents(folder, dataset_dir=table("X"), unseen=unseen)
    np.testing.assert_allclose(codes, latents(folder, dataset_dir=table("F")), atol=1e-6)
