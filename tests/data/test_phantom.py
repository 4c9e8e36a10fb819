"""The built-in CT: truth fits the pixels, tissues have their HU, everything comes from the seed."""

import numpy as np
import pytest

from jaxdet.config import Data
from jaxdet.data import phantom
from jaxdet.data.phantom import anatomy, patients, render, scanner, shapes, slices, tissue, vessels

SIDE = 192


def config(**fields) -> Data:
    return Data(**({"image_size": SIDE, "channels": 1, "phantom_patients": 3} | fields))


@pytest.fixture(scope="module")
def many():
    return phantom.records(config(phantom_patients=50, seed=7))


def test_same_seed_same_pixels_in_any_order():
    names, first, read = phantom.records(config())
    forwards = [read(i) for i in range(len(first))]
    patients.patient.cache_clear()
    _, again, read = phantom.records(config())
    assert names == ("tumour",) and len(first) == 12
    for i in reversed(range(len(first))):  # each alone, the last first
        patients.patient.cache_clear()
        assert np.array_equal(read(i), forwards[i])
        assert np.array_equal(first[i].boxes_xyxy, again[i].boxes_xyxy)
        assert first[i].name == again[i].name


def test_seeds_and_patients_differ():
    def made(seed, number):
        return render.hounsfield(patients.patient(seed, number), 30, 64)

    assert np.abs(made(0, 0) - made(1, 0)).mean() > 20
    assert np.abs(made(0, 0) - made(0, 1)).mean() > 20


def test_more_patients_or_slices_leave_the_others():
    _, few, _ = phantom.records(config(phantom_patients=2, phantom_slices=2))
    _, more, _ = phantom.records(config(phantom_patients=3, phantom_slices=5))
    assert {r.name for r in few} <= {r.name for r in more}
    assert len({r.name for r in more}) == len(more) == 15
    assert len({r.patient for r in more}) == 3


def test_boxes_are_tight_to_the_pixels_of_the_tumours():
    _, found, _ = phantom.records(config())
    seen = 0
    for record in found:
        number, z = (int(record.name.split()[k]) for k in (2, 4))
        assert record.name == f"phantom patient {number} slice {z}"
        _, tissues = render.tissues(patients.patient(0, number), z, SIDE)
        drawn = tissues == tissue.NUMBER["tumour"]
        left = drawn.copy()
        for (x0, y0, x1, y1), area in zip(record.boxes_xyxy.astype(int), record.area, strict=True):
            inside = drawn[y0:y1, x0:x1]
            edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
            assert all(edge.any() for edge in edges)
            assert min(x1 - x0, y1 - y0) >= 3 and inside.sum() >= area > 0
            left[y0:y1, x0:x1] = False
            seen += 1
        assert not left.any()  # no tumour without a box
    assert seen > 5


def test_tumours_lie_in_the_liver_and_apart():
    for number in range(4):
        patient = patients.patient(2, number)
        for z in range(4, 60, 5):
            canvas = render._canvas(patient, z, SIDE)
            liver = anatomy.liver(patient.body, canvas.points) < 0
            masks = render.tumours(patient, z, SIDE)
            assert all((liver | ~mask).all() for mask in masks)
            assert not masks or np.sum(masks, axis=0).max() == 1


def test_tissues_have_the_hu_of_the_table(many):
    rows = {name: [] for name in tissue.PORTAL_HU}
    for number in range(9):
        patient = patients.patient(7, number)
        for z in (20, 42):
            hu = render.hounsfield(patient, z, SIDE)
            _, tissues = render.tissues(patient, z, SIDE)
            for name, values in rows.items():
                where = tissues == tissue.NUMBER[name]
                where[1:-1, 1:-1] &= where[:-2, 1:-1] & where[2:, 1:-1]
                where[1:-1, 1:-1] &= where[1:-1, :-2] & where[1:-1, 2:]
                if where.sum() > 20:
                    values.append(np.median(hu[where]))
    for name in ("muscle", "fat", "liver", "spleen", "kidney", "aorta", "cava", "lung", "fluid"):
        mean, deviation, source = tissue.PORTAL_HU[name]
        assert source and len(rows[name]) >= 5, name
        assert abs(np.mean(rows[name]) - mean) < max(deviation, 6.0), name
    assert np.min(rows["liver"]) > 62 and np.max(rows["liver"]) < 130
    assert np.mean(rows["tumour"]) < np.mean(rows["liver"]) - 15
    assert np.max(rows["air"]) < -950


def test_numbers_and_sizes_of_tumours(many):
    _, found, _ = many
    counts = np.array([len(r.labels) for r in found])
    assert 0.10 < np.mean(counts == 0) < 0.28  # about 1 in 6
    assert counts.max() <= 6 and 1.25 < counts[counts > 0].mean() < 1.7
    boxes = np.concatenate([r.boxes_xyxy for r in found])
    sides_mm = (boxes[:, 2:] - boxes[:, :2]) * scanner.FIELD_MM / SIDE
    assert sides_mm.min() >= 4.0 and sides_mm.max() <= 52.0
    assert 12 < np.median(sides_mm.max(axis=1)) < 26
    assert boxes.min() >= 0 and boxes.max() <= SIDE


def test_record_types(many):
    _, found, _ = many
    for record in found:
        m = len(record.labels)
        assert record.boxes_xyxy.shape == (m, 4) and record.boxes_xyxy.dtype == np.float32
        assert record.labels.dtype == np.int32 and not record.labels.any()
        assert record.crowd.shape == (m,) and record.crowd.dtype == bool
        assert record.area.shape == (m,) and record.area.dtype == np.float32


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_channels_are_neighbouring_slices(channels):
    _, found, read = phantom.records(
        config(channels=channels, image_size=64, phantom_patients=1, phantom_slices=1)
    )
    z = int(found[0].name.split()[-1])
    image = read(0)
    assert image.shape == (64, 64, channels) and image.dtype == np.float32
    patient = patients.patient(0, 0)
    for c in range(channels):
        wanted = render.hounsfield(patient, z - channels // 2 + c, 64)
        assert np.array_equal(image[..., c], wanted)


def test_slices_beyond_the_ends_repeat_the_end():
    patient = patients.patient(0, 0)
    ends = (render.hounsfield(patient, z, 48) for z in (-3, 0))
    assert np.array_equal(*ends)


def test_noise_has_its_deviation_and_neighbour_correlation():
    maps = [scanner.noise((0, 0, z), 10.0, 512)[156:356, 156:356] for z in (5, 6, 9)]
    # At 0.7 mm a pixel nearly the whole band fits.
    assert np.std(maps[0]) == pytest.approx(9.0, abs=1.0)
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] == pytest.approx(0.51, abs=0.06)
    assert abs(np.corrcoef(maps[0].ravel(), maps[2].ravel())[0, 1]) < 0.05
    coarse = scanner.noise((0, 0, 5), 10.0, 128)[39:89, 39:89]
    assert np.std(coarse) < 0.7 * np.std(maps[0])


def test_roughness_of_a_slice_is_that_of_its_points():
    body = patients.patient(0, 0).body
    x, y = np.arange(-20, 20, 3.3, np.float32), np.arange(-30, 9, 2.7, np.float32)
    plane = anatomy.roughness(body, (x[None, :], y[:, None], 4.4), 2.0)
    yy, xx = np.meshgrid(y, x, indexing="ij")
    points = anatomy.roughness(body, (xx, yy, np.full_like(xx, 4.4)), 2.0)
    assert np.allclose(plane, points, atol=1e-4)


def test_tree_reaches_every_point_and_thins():
    ends = np.random.default_rng(0).uniform(-50, 50, (40, 3)).astype(np.float32)
    tree = vessels.grow(np.zeros(3, np.float32), ends, 6.0)
    tips = {tuple(segment[3:6]) for segment in tree}
    assert {tuple(end) for end in ends} <= tips and len(tree) == 79
    for segment in tree:  # Murray: r^g is conserved where a branch parts
        children = tree[(tree[:, :3] == segment[3:6]).all(axis=1)]
        if len(children):
            assert np.sum(children[:, 6] ** 2.7) == pytest.approx(segment[6] ** 2.7, rel=1e-3)
    assert vessels.grow(np.zeros(3, np.float32), ends[:0], 6.0).shape == (0, 7)


def test_solids_against_their_volumes():
    axis = np.arange(-30, 30, 1.0, np.float32)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    ball = shapes.ellipsoid((x, y, z), (0.5, 0, 0), (20, 15, 10)) < 0
    assert ball.sum() == pytest.approx(4 / 3 * np.pi * 20 * 15 * 10, rel=0.02)
    a, b = np.array([-10.0, 0.3, 0.2]), np.array([10.0, 0.3, 0.2])
    rod = shapes.tube((x, y, z), a, b, 8.0) < 0
    assert rod.sum() == pytest.approx(np.pi * 64 * 20 + 4 / 3 * np.pi * 512, rel=0.02)
    assert np.allclose(shapes.smooth_min(np.ones(2), np.full(2, 40.0), 10.0), 1)


def test_tight_box():
    mask = np.zeros((9, 12), bool)
    mask[2:5, 3:10] = True
    assert slices.tight_box(mask) == (3, 2, 10, 5)


@pytest.mark.parametrize("fields", [{"phantom_patients": 0}, {"phantom_slices": 99}])
def test_wrong_counts_are_named(fields):
    with pytest.raises(ValueError, match=r"data\.phantom_slices 1 to 52; got"):
        phantom.records(config(**fields))
