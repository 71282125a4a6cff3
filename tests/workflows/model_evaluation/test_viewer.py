"""The viewer's data: what a page holds is what was decoded, within a byte; names harm nothing; the page stays small."""

import base64
import dataclasses
import hashlib
import json
import re

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from subjects_of_numbers import subjects
from viewer_pages import HOSTILE, LATENTS, balls, data_of, deforming_model, linear_model, made, nobody, page_of

from monai_betavae.evaluation.latent_activity import kl_per_dimension
from monai_betavae.networks.latent_model import decode_array
from monai_betavae.workflows.model_evaluation.report import Report
from monai_betavae.workflows.model_evaluation.viewer import part as viewer
from monai_betavae.workflows.model_evaluation.viewer.planes import Range, plane_sizes, planes_through, unpacked
from monai_betavae.workflows.model_evaluation.viewer.sliders import STEPS, added, decode_sliders, error_of_sums
from monai_betavae.workflows.model_evaluation.viewer.template_decoder import template_entry


@pytest.fixture(scope="module")
def built():
    held_out = balls()
    part, network, restored, z = made(held_out)
    page = page_of(part)
    return held_out, part, network, restored, z, page, data_of(page)


def test_a_plane_is_drawn_from_its_top():
    volume = np.arange(24.0).reshape(2, 3, 4)
    sagittal, coronal, axial = np.split(planes_through(volume[None], (1, 2, 3))[0], [12, 20])
    np.testing.assert_array_equal(sagittal.reshape(4, 3)[-1], volume[1, :, 0])
    np.testing.assert_array_equal(sagittal.reshape(4, 3)[0], volume[1, :, 3])
    np.testing.assert_array_equal(coronal.reshape(4, 2)[0], volume[:, 2, 3])
    np.testing.assert_array_equal(axial.reshape(3, 2)[0], volume[:, 2, 3])
    assert plane_sizes(volume.shape) == [(3, 4), (2, 4), (2, 3)]


def test_averaged_voxels():
    volume = np.zeros((4, 5, 6))
    volume[2, 4, 5] = 4.0
    sagittal = planes_through(volume[None], (2, 4, 5), factor=2)[0][:6].reshape(3, 2)
    # the fifth column is left over, and the top right block holds the voxel no more
    assert sagittal.tolist() == [[0, 0], [0, 0], [0, 0]]
    volume[2, 3, 5] = 4.0
    assert planes_through(volume[None], (2, 4, 5), factor=2)[0][:6].reshape(3, 2).tolist() == [[0, 1], [0, 0], [0, 0]]


def test_sliders_hold_what_was_decoded(built):
    held_out, _, network, _, _, _, data = built
    given = data["sliders"]["frames"]
    kl = kl_per_dimension(held_out.mu, held_out.logvar)
    assert [each["latent"] for each in given["latents"]] == np.argsort(kl)[::-1].tolist()
    stored = Range(*given["stored"])
    for each in given["latents"]:
        codes = np.zeros((len(STEPS), LATENTS), np.float32)
        codes[:, each["latent"]] = given["steps"]
        expected = planes_through(decode_array(network, codes)[:, 0], data["sliders"]["centre"])
        shown = unpacked(each["frames"], stored).reshape(expected.shape)
        assert np.abs(shown - expected).max() <= 0.501 * stored.step


def test_differences_of_a_linear_decoder_add_up(built):
    _, _, network, _, _, _, data = built
    assert data["sliders"]["frames"]["errorOfTwo"] < 1e-3 > data["sliders"]["frames"]["errorOfAll"]
    found = decode_sliders(network, [0, 2])
    values = np.array([[1.1, -2.9], [3.0, 3.0], [-3.0, 0.0]])
    codes = np.zeros((3, LATENTS), np.float32)
    codes[:, [0, 2]] = values
    expected = planes_through(decode_array(network, codes)[:, 0], found.centre)
    np.testing.assert_allclose(added(found.planes, values), expected, atol=1e-4)


def test_the_error_of_sums_is_that_of_a_decoder_that_multiplies(monkeypatch):
    def multiplied(_network, codes, _device="cpu"):
        codes = np.asarray(codes, np.float64)
        return (codes[:, 0] * codes[:, 1])[:, None, None, None, None] * np.ones((1, 1, 2, 2, 2))

    monkeypatch.setattr("monai_betavae.workflows.model_evaluation.viewer.sliders.decode_array", multiplied)
    monkeypatch.setattr("monai_betavae.workflows.model_evaluation.viewer.sliders.latent_dim_of", lambda _: 3)
    # the product of two latents is zero where one of them moves alone: all of the change is missed
    assert error_of_sums(None, decode_sliders(None, [0, 1]), 2) == pytest.approx(1)
    lone = decode_sliders(None, [2])
    assert error_of_sums(None, lone, 2) is None
    assert error_of_sums(None, lone, 1) == 0


def decoded_from(entry, code):
    """The volume that an entry's decoder gives, by SciPy's interpolation."""
    shape, controls = entry["shape"], entry["controls"]
    low, high = entry["stored"]
    mean = np.frombuffer(base64.b64decode(entry["mean"]), "<u2").reshape(shape) / 65535 * (high - low) + low
    inside = np.unpackbits(np.frombuffer(base64.b64decode(entry["inside"]), np.uint8), bitorder="little")
    inside = inside[: mean.size].reshape(shape).astype(bool)
    changed, field = mean.copy(), np.zeros((3, *controls))
    for each in entry["latents"]:
        changed[inside] += code[each["latent"]] * unpacked(each["component"], Range(*each["extent"]))
        moves = np.frombuffer(base64.b64decode(each["displacement"]), "<f4").reshape(field.shape)
        field += code[each["latent"]] * moves
    places = np.argwhere(inside).T.astype(float)
    corner, box = np.array(entry["corner"])[:, None], np.array(entry["box"])[:, None]
    at = (places - corner) / (box - 1) * (np.array(controls)[:, None] - 1)
    moved = places + np.stack([map_coordinates(each, at, order=1, mode="nearest") for each in field])
    volume = mean.copy()
    volume[inside] = map_coordinates(changed, moved, order=1, mode="nearest")
    return volume


def test_a_deforming_template_is_held_whole():
    held_out = balls()
    network = deforming_model(held_out)
    part, *_ = made(held_out, network=network)
    given = data_of(page_of(part))["sliders"]
    assert "frames" not in given
    assert part.scores["decoded_in_page"]
    code = np.array([1.7, -2.6, 0.9], np.float32)
    expected = decode_array(network, code[None])[0, 0]
    assert np.abs(expected - network.decoder.output_mean[0].numpy()).max() > 0.2
    half_bytes = sum(abs(code[each["latent"]]) * each["extent"][1] / 255 for each in given["template"]["latents"])
    assert np.abs(decoded_from(given["template"], code) - expected).max() <= half_bytes + 1e-4


def test_a_decoder_that_is_too_large_or_of_another_kind_stays_out():
    held_out = balls(6)
    network = deforming_model(held_out)
    entry = template_entry(network, [2, 0, 1])
    assert [each["latent"] for each in entry["latents"]] == [2, 0, 1]
    assert len(json.dumps(entry)) < 60_000
    assert template_entry(network, [2, 0, 1], max_bytes=8_000) is None
    assert template_entry(linear_model(held_out), [0, 1, 2]) is None
    with torch.no_grad():
        network.decoder.template.components[0, 0, 0] = np.nan
    assert template_entry(network, [2, 0, 1]) is None


def test_subjects_have_their_pictures(built):
    held_out, _, _, restored, z, _, data = built
    assert [layer["name"] for layer in data["layers"]] == ["image", "reconstruction", "residual", "deviation"]
    ranges = [Range(*layer["stored"]) for layer in data["layers"]]
    for row, subject in enumerate(data["subjects"]):
        volumes = [held_out.images[row, 0], restored[row, 0], held_out.images[row, 0] - restored[row, 0], z[row]]
        assert len(subject["views"]) == 2
        for view in subject["views"]:
            centre = [round(place / 3) for place in view["at"]]
            for volume, text, stored in zip(volumes, view["layers"], ranges, strict=True):
                expected = np.clip(planes_through(volume[None], centre)[0], stored.low, stored.high)
                assert np.abs(unpacked(text, stored) - expected).max() <= 0.501 * stored.step
        largest = [round(place / 3) for place in subject["views"][1]["at"]]
        assert abs(z[row][tuple(largest)]) == np.abs(z[row]).max()


def test_subjects_have_their_codes_and_values(built):
    held_out, _, _, _, _, _, data = built
    assert [column["name"] for column in data["columns"]] == ["age", "sex", "summed squared error"]
    assert [column["kind"] for column in data["columns"]] == ["quantity", "category", "quantity"]
    assert data["columns"][1]["levels"] == ["F", "M"]
    order = [each["latent"] for each in data["dimensions"]]
    for row, subject in enumerate(data["subjects"]):
        np.testing.assert_allclose(subject["code"], held_out.mu[row, order], atol=5.1e-4)
        assert subject["values"][:2] == [20.5 + row, None if row == 5 else "FM"[row % 2]]
    assert data["subjects"][1]["name"] == HOSTILE


def test_without_a_norm_there_is_no_deviation():
    part, _, _, _ = made(balls(4), with_norm=False)
    data = data_of(page_of(part))
    assert [layer["name"] for layer in data["layers"]] == ["image", "reconstruction", "residual"]
    assert {len(view["layers"]) for subject in data["subjects"] for view in subject["views"]} == {3}


def test_one_volume_and_one_latent():
    held_out = dataclasses.replace(subjects(1, latent_dim=1, side=8))
    held_out.records[0] = {"image": "a.nii"}
    part, _, _, _ = made(held_out, network=linear_model(subjects(6, side=8), latent_dim=1))
    data = data_of(page_of(part))
    assert [subject["name"] for subject in data["subjects"]] == ["volume 1"]
    assert data["sliders"]["frames"]["errorOfTwo"] is None
    assert part.scores["error_of_sums"][0] is None


def test_a_hostile_name_is_text(built):
    page = built[5]
    assert HOSTILE not in page
    assert "<img src=x" not in page
    # the page's own tags alone: the data's, and the script's
    assert re.findall(r"<script[^>]*>", page) == ['<script type="application/json" id="viewer-data">', "<script>"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", page)


def test_nothing_comes_from_elsewhere(built):
    page = built[5]
    # SVG's name is no address that a browser fetches
    assert set(re.findall(r"https?://[^\"']*", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\bfetch\(|XMLHttpRequest|import\(|@import|url\(", page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_a_script_that_would_end_itself():
    with pytest.raises(ValueError, match="`script` must not hold a tag"):
        Report("t").widget("", "", "'</SCRIPT>'", {})


@pytest.mark.parametrize("n_layers", [3, 4])
@pytest.mark.parametrize("n_subjects", [1, 30, 5000])
@pytest.mark.parametrize("shape", [(8, 10, 8), (64, 80, 64), (96, 112, 96), (192, 224, 192), (400, 400, 400)])
def test_a_plan_is_as_small_as_it_must_be(shape, n_subjects, n_layers):
    plan = viewer.plan_page(shape, 8, n_subjects, n_layers, viewer.MAX_BYTES)
    pixels = sum(width * height for width, height in plane_sizes(shape, plan.factor))
    pictures = 8 * len(STEPS) + plan.n_shown * plan.n_views * n_layers
    assert pictures * pixels * 4 / 3 <= viewer.MAX_BYTES
    assert 1 <= plan.n_shown <= min(n_subjects, viewer.MAX_SHOWN)
    if plan.n_shown < min(n_subjects, viewer.MAX_SHOWN):
        assert plan.n_views == 1
        assert (pictures + n_layers) * (pixels * 4 / 3 + 4) > viewer.MAX_BYTES
    if shape == (64, 80, 64):
        assert plan == (1, min(n_subjects, 60), 2)


def test_no_plan_for_no_room():
    with pytest.raises(ValueError, match="`available` must be enough bytes"):
        viewer.plan_page((8, 8, 8), 8, 4, 3, 10)


def test_what_does_not_fit_is_left_out_and_said(monkeypatch):
    held_out = balls(30)
    monkeypatch.setattr(viewer, "MAX_BYTES", 140_000)
    monkeypatch.setattr(viewer, "MAX_SHOWN", 10)
    part, _, restored, z = made(held_out)
    page = page_of(part)
    data = data_of(page)
    shown = [row for row, subject in enumerate(data["subjects"]) if "views" in subject]
    assert 1 < len(shown) <= 10
    assert len(data["subjects"]) == 30
    assert f"{len(shown)} of 30 volumes have pictures" in page
    errors = ((held_out.images - restored) ** 2).sum(axis=(1, 2, 3, 4))
    assert {int(errors.argmax()), int(errors.argmin())} <= set(shown)
    assert np.abs(z).max(axis=(1, 2, 3)).argmax() in shown
    assert len(json.dumps(data)) <= 140_000


def test_a_default_run_fits(monkeypatch):
    """A page of the default grid, 30 subjects with a norm and 32 latents: under 8 of 15 MB."""
    rng = np.random.default_rng(0)
    shape, n = (64, 80, 64), 30
    volumes = rng.random((n, 1, *shape), dtype=np.float32)
    held_out = subjects(n, latent_dim=32, side=2)
    held_out = dataclasses.replace(held_out, images=volumes)

    def noise(_network, codes, _device="cpu"):
        return rng.random((len(codes), 1, *shape), dtype=np.float32)

    monkeypatch.setattr("monai_betavae.workflows.model_evaluation.viewer.sliders.decode_array", noise)
    monkeypatch.setattr("monai_betavae.workflows.model_evaluation.viewer.sliders.latent_dim_of", lambda _: 32)
    part = viewer.viewer_part(None, held_out, nobody(held_out), volumes * 0.9, {}, volumes[:, 0] * 4)
    page = page_of(part)
    data = data_of(page)
    assert len(data["sliders"]["frames"]["latents"]) == 8
    assert [len(subject["views"]) for subject in data["subjects"]] == [2] * n
    assert len(page) < 8_000_000
