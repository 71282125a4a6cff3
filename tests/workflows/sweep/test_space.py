import pytest

from monai_betavae.workflows.sweep.space import check_space, grid_of, name_of_setting


def test_a_grid_has_every_combination_once():
    grid = grid_of({"beta": [1, 4], "latent_dim": [8, 16, 32]})
    assert len(grid) == 6
    assert grid[0] == {"beta": 1, "latent_dim": 8}
    assert len({tuple(setting.items()) for setting in grid}) == 6


def test_names_are_good_for_folders_and_differ():
    settings = [
        {"beta": 1.0},
        {"beta": 10.0},
        {"loss#_target_": "a.FreeBitsLoss"},
        {"loss#_target_": "b.FreeBitsLoss"},
        {"channels": [4, 8]},
        {"channels": [48]},
        {"name": "../up"},
        {"name": "x" * 300},
    ]
    names = [name_of_setting(setting) for setting in settings]
    assert len(set(names)) == len(names)
    assert all("/" not in name and len(name) < 100 and not name.startswith(".") for name in names)
    assert names[:2] == ["beta=1.0", "beta=10.0"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "lists of values by id"),
        ([1, 2], "lists of values by id"),
        ({"beta": 4.0}, "got 4.0 for 'beta'"),
        ({"beta": []}, "got \\[\\] for 'beta'"),
        ({"beta": "1,2"}, "for 'beta'"),
        ({"beta": [1, 1]}, "each value once"),
        ({"seed": [1, 2]}, "must not hold 'seed'"),
        ({"beta": {"low": 1, "high": 4}}, "for 'beta'"),
    ],
)
def test_wrong_grids_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        check_space(space, ranges=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low": 4, "high": 1}, "high"),
        ({"low": 1}, "'low' and 'high'"),
        ({"low": 0, "high": 1, "log": True}, "larger than 0"),
        ({"low": 0, "high": 1, "step": 1}, "'low' and 'high'"),
    ],
)
def test_wrong_ranges_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        check_space({"beta": values}, ranges=True)
    assert check_space({"beta": {"low": 1, "high": 4}}, ranges=True)
