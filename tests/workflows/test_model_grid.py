"""The affine of a model's grid."""

import numpy as np

from monai_betavae.workflows.model_grid import centred_affine, common_affine


def test_the_centre_of_a_centred_grid_is_the_origin():
    affine = centred_affine((5, 8, 11), (1.0, 2.0, 3.0))
    centre = affine @ np.array([2.0, 3.5, 5.0, 1.0])
    np.testing.assert_allclose(centre, [0, 0, 0, 1])
    assert np.linalg.norm(affine[:3, :3], axis=0).tolist() == [1.0, 2.0, 3.0]
    assert centred_affine((3, 3, 3), None)[0].tolist() == [1.0, 0.0, 0.0, -1.0]


def test_a_common_affine_tolerates_rounding_only():
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    near, far = affine.copy(), affine.copy()
    near[0, 3], far[0, 3] = 0.001, 0.5
    assert common_affine([affine, near], (4, 4, 4), 2.0).tolist() == affine.tolist()
    assert common_affine([affine, far], (4, 4, 4), 2.0).tolist() == centred_affine((4, 4, 4), 2.0).tolist()
    assert common_affine([], (4, 4, 4), 2.0).tolist() == centred_affine((4, 4, 4), 2.0).tolist()
