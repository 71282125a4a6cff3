"""Arguments are taken or refused with name, accepted values and what came."""

import math

import numpy as np
import pytest

from monai_betavae._checks import check_choice, check_integer, check_real, check_seed, check_spatial_shape


def test_good_values():
    assert check_integer("n", np.int64(3), 1) == 3
    assert check_real("x", np.float32(0.5), 0, 1) == 0.5
    assert check_choice("kind", "a", "ab") == "a"
    assert check_spatial_shape("shape", [4, np.int32(5)]) == (4, 5)
    assert check_seed("seed", None) is None
    assert check_seed("seed", 2**32 - 1) == 2**32 - 1


@pytest.mark.parametrize("value", [0, 1.0, "1", True, None])
def test_bad_integers(value):
    with pytest.raises(ValueError, match="`n` must be an integer >= 1, got "):
        check_integer("n", value, 1)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "0", True, None])
def test_bad_reals(value):
    with pytest.raises(ValueError, match="`x` must be a finite number >= 0 and <= 1, got "):
        check_real("x", value, 0, 1)


def test_exclusive_minimum():
    with pytest.raises(ValueError, match="`x` must be a finite number > 0, got 0"):
        check_real("x", 0, 0, exclusive=True)


@pytest.mark.parametrize("value", [(3,), (1, 2, 3, 4), "33", 3, (3, 0), (3, 2.0), None])
def test_bad_shapes(value):
    with pytest.raises(ValueError, match="`shape` must be two or three positive integers"):
        check_spatial_shape("shape", value)


@pytest.mark.parametrize("value", [-1, 2**32, 0.5, "0"])
def test_bad_seeds(value):
    with pytest.raises(ValueError, match="`seed` must be None or an integer"):
        check_seed("seed", value)


def test_a_number_beyond_all_floats_is_no_finite_number():
    with pytest.raises(ValueError, match="`x` must be a finite number, got 1000"):
        check_real("x", 10**400)


def test_maximum_of_an_integer():
    assert check_integer("n", 3, 1, maximum=3) == 3
    with pytest.raises(ValueError, match="`n` must be an integer from 1 to 3, got 4"):
        check_integer("n", 4, 1, maximum=3)


def test_an_image_of_more_voxels_than_any_has():
    assert check_spatial_shape("shape", (2**16, 2**15)) == (2**16, 2**15)
    with pytest.raises(ValueError, match=r"`shape` must have at most 2147483648 voxels, got \(65536, 65536\)"):
        check_spatial_shape("shape", (2**16, 2**16))
