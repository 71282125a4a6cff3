"""What an importance matrix says: by hand, at its ends, and refused."""

import math

import numpy as np
import pytest

from monai_betavae.evaluation.importance import completeness_of, disentanglement_of


def test_dci_s_formulas_on_a_matrix_by_hand():
    importance = np.array([[3.0, 1.0], [0.0, 4.0], [0.0, 0.0]])
    h = -0.75 * math.log2(0.75) - 0.25 * math.log2(0.25)
    assert disentanglement_of(importance) == pytest.approx((4 * (1 - h) + 4 * 1) / 8)
    h3 = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8)) / math.log(3)
    assert completeness_of(importance) == pytest.approx((3 * 1 + 5 * (1 - h3)) / 8)


def test_dci_s_formulas_at_their_ends():
    assert disentanglement_of(np.eye(4)) == completeness_of(np.eye(4)) == 1
    assert disentanglement_of(np.ones((5, 3))) == pytest.approx(0, abs=1e-12)
    assert completeness_of(np.ones((5, 3))) == pytest.approx(0, abs=1e-12)
    assert disentanglement_of(np.zeros((5, 3))) == completeness_of(np.zeros((5, 3))) == 0
    doubled = np.vstack([np.eye(3), np.eye(3)])
    assert disentanglement_of(doubled) == 1
    assert completeness_of(doubled) == pytest.approx(1 - math.log(2) / math.log(6))
    one_code_for_all = np.array([[1.0, 1, 1], [0, 0, 0]])
    assert disentanglement_of(one_code_for_all) == pytest.approx(0, abs=1e-12)
    assert completeness_of(one_code_for_all) == 1


def test_dci_s_formulas_ignore_scale_and_order():
    importance = np.random.default_rng(9).exponential(size=(6, 4))
    for formula in (disentanglement_of, completeness_of):
        assert 0 < formula(importance) < 1
        assert formula(7 * importance[[3, 0, 5, 1, 2, 4]][:, [2, 0, 3, 1]]) == pytest.approx(formula(importance))
    assert completeness_of(importance.T) == pytest.approx(disentanglement_of(importance))


@pytest.mark.parametrize("formula", [disentanglement_of, completeness_of])
@pytest.mark.parametrize("importance", [np.ones(3), np.ones((3, 1)), np.ones((1, 3)), -np.eye(2), np.eye(2) * np.nan])
def test_importance_matrices_that_are_none(formula, importance):
    with pytest.raises(ValueError, match="`importance` must"):
        formula(importance)
