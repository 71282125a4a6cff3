import numpy as np
import pytest

from monai_betavae.data.simulation.cortex import sample_coarse, sample_columns, sample_template


def at(*positions):
    return np.array(positions, np.float32).T


def test_depth_grows_from_the_outline_to_the_inside(folded_anatomy):
    # from the side of the head into the right hemisphere
    line = at(*((x, -20, 20) for x in range(90, 30, -2)))
    depth = sample_columns(folded_anatomy, line).depth
    assert depth[0] < 0 < depth[-1]
    inside = np.flatnonzero(depth > 0)[0]
    # 2 mm of depth for 2 mm of way, since the outline is about perpendicular to the line
    np.testing.assert_allclose(np.diff(depth[inside : inside + 8]), 2, atol=0.8)


def test_a_column_leads_straight_to_the_outline(folded_anatomy):
    line = at(*((x, -20, 20) for x in range(50, 62, 2)))
    columns = sample_columns(folded_anatomy, line)
    away = np.linalg.norm(columns.column - line, axis=0)
    np.testing.assert_allclose(away, columns.depth, atol=2.5)
    # and stays where it is along the way
    assert np.ptp(columns.column, axis=1).max() < 5
    # to the left: inwards on the right side
    assert (columns.inward[0] < -0.8).all()
    np.testing.assert_allclose(np.linalg.norm(columns.inward, axis=0), 1, atol=0.1)


def test_hemispheres_are_apart(folded_anatomy):
    columns = sample_columns(folded_anatomy, at((-6, 20, 40), (0, 20, 40), (6, 20, 40)))
    assert columns.depth[1] < 0.5
    assert columns.depth[0] > 2
    assert columns.depth[2] > 2


def test_cerebellum_brainstem_and_ventricles_are_not_folded(folded_anatomy):
    stays = at((20, -62, -40), (0, -28, -40), (12, -10, 22))
    np.testing.assert_allclose(sample_columns(folded_anatomy, stays).unfolded, 1, atol=0.05)
    cortex = at((55, -20, 20), (-40, 40, 10), (30, -80, 10))
    np.testing.assert_allclose(sample_columns(folded_anatomy, cortex).unfolded, 0, atol=0.05)


def test_deep_grey_matter_is_that_of_the_nuclei(folded_anatomy):
    putamen, white, cortex = at((26, 2, 2), (-26, 2, 2)), at((26, -30, 30)), at((62, -20, 20))
    assert (sample_template(folded_anatomy, putamen)["deep"] > 0.4).all()
    assert sample_template(folded_anatomy, white)["deep"].max() < 0.1
    assert sample_template(folded_anatomy, cortex)["deep"].max() < 0.1


def test_thickness_is_plausible_where_there_is_cortex(folded_anatomy):
    columns = folded_anatomy.columns
    cortex = (columns[..., 0] > 0) & (columns[..., 0] < 6) & (columns[..., 9] < 0.1)
    assert 1.8 < columns[..., 8][cortex].mean() < 3


@pytest.mark.parametrize("source", ["fsaverage", "mni152"])
def test_sheets_are_thin_and_inside_the_hemispheres(folded_anatomy, source):
    sulci = folded_anatomy.sulci[source]
    sheet = sulci.distance == 0
    millilitres = sheet.sum() / 1000
    # a few square decimetres of sulci (two banks each), about 1 mm thick
    assert 10 < millilitres < 120
    position = np.argwhere(sheet)[::50].T + folded_anatomy.template.origin[:, None]
    depth = sample_columns(folded_anatomy, position.astype(np.float32)).depth
    assert (depth > -1.5).mean() > 0.99
    # each voxel is within 1 mm of at most a few sheets: the thickness is that of one or two voxels
    inner = sheet[1:-1, 1:-1, 1:-1]
    full = sum(np.roll(sheet, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (-1, 1)) == 6
    assert (full & inner).sum() / inner.sum() < 0.1


def test_central_sulcus_is_in_both_sources(folded_anatomy):
    # the hand knob of the precentral gyrus bounds the central sulcus, at about (±38, -24, 56) in MNI coordinates
    for sulci in folded_anatomy.sulci.values():
        for side in (-1, 1):
            index = tuple((np.array([38 * side, -24, 56]) - folded_anatomy.template.origin).astype(int))
            block = tuple(slice(i - 6, i + 7) for i in index)
            assert sulci.distance[block].min() == 0


def test_margin_encloses_the_hemispheres(folded_anatomy):
    line = at(*((x, -20, 20) for x in range(-80, 82, 2)))
    margin = sample_coarse(folded_anatomy, folded_anatomy.margin[..., None], line)[0]
    depth = sample_columns(folded_anatomy, line).depth
    assert (margin[depth > 1] > 0).all()
    assert margin[0] < 0
    assert margin[-1] < 0
    assert np.abs(folded_anatomy.surface_sites[:, 0]).max() > 50
    surface = sample_coarse(folded_anatomy, folded_anatomy.margin[..., None], folded_anatomy.surface_sites.T)[0]
    np.testing.assert_allclose(surface, 0, atol=1)
