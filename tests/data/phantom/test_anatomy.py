"""Bodies have the sizes of the fact sheet, organs lie in place and apart, any points will do."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage

from jaxdet.data.phantom import anatomy, shapes

STEP = 7.0
LINES = [np.arange(a, b, STEP, dtype=np.float32) for a, b in anatomy.LIVER_BOX_MM]
GRID = tuple(p.ravel() for p in np.meshgrid(*LINES, indexing="ij"))
WIDE = tuple(
    p.ravel()
    for p in np.meshgrid(
        *[np.arange(-m, m, 8.0, dtype=np.float32) for m in (176, 136, 112)], indexing="ij"
    )
)


def bodies(count: int, cirrhosis: float, seed: int = 40) -> list[anatomy.Body]:
    return [anatomy.draw(np.random.default_rng(seed + k), cirrhosis) for k in range(count)]


@pytest.fixture(scope="module")
def healthy() -> list[anatomy.Body]:
    return bodies(20, 0.0)


@pytest.fixture(scope="module")
def sick() -> list[anatomy.Body]:
    return bodies(12, 1.0)


def volume_ml(body: anatomy.Body) -> float:
    return np.count_nonzero(anatomy.liver(body, GRID) < 0) * STEP**3 / 1000


def a_slice(size: int = 96, z: float = 6.0) -> shapes.Points:
    line = np.linspace(-180, 180, size, dtype=np.float32)
    return line[None, :], line[:, None], z


def bent(points: shapes.Points, amount: float, seed: int = 0) -> shapes.Points:
    """Three full arrays, displaced smoothly."""
    rng = np.random.default_rng(seed)
    full = np.broadcast_arrays(*(np.asarray(p, np.float32) for p in points))
    waves = [scipy.ndimage.gaussian_filter(rng.normal(size=full[0].shape), 9.0) for _ in full]
    return tuple(
        (p + amount * w / w.std()).astype(np.float32) for p, w in zip(full, waves, strict=True)
    )


def test_same_seed_same_body():
    a, b = (anatomy.draw(np.random.default_rng(5), 0.4) for _ in range(2))
    for field in dataclasses.fields(anatomy.Body):
        one, other = (getattr(body, field.name) for body in (a, b))
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[k], other[k]) for k in one)
        else:
            assert np.array_equal(one, other)


def test_width_depth_and_fat():
    sizes = [anatomy.sizes_mm(np.random.default_rng(k)) for k in range(400)]
    lr, ap = (np.array([s[name] for s in sizes]) for name in ("lr_mm", "ap_mm"))
    assert lr.mean() == pytest.approx(330, abs=6) and lr.std() == pytest.approx(28, abs=4)
    assert ap.mean() == pytest.approx(245, abs=6) and ap.std() == pytest.approx(25, abs=5)
    assert (ap / lr).min() > 0.70 and (ap / lr).max() < 0.80
    assert np.corrcoef(lr, ap)[0, 1] > 0.75
    fat = np.array([[s["fat_mm"], s["front_fat_mm"]] for s in sizes])
    assert fat.min() >= 8 and fat.max() <= 24
    assert (fat[:, 1] > fat[:, 0]).mean() > 0.95  # thicker in front


def test_skin_is_as_wide_and_deep_as_said(healthy):
    points = a_slice(721)
    for body in healthy[:4]:
        rows, columns = np.nonzero(anatomy.skin(body, points) < 0)
        assert np.ptp(columns) * 0.5 == pytest.approx(body.lr_mm, abs=3)
        assert np.ptp(rows) * 0.5 == pytest.approx(body.ap_mm, abs=4)
        assert 62 <= body.ap_mm / 2 - body.canal_y_mm <= 75


def test_layers_of_the_wall_lie_in_each_other(healthy):
    points = a_slice()
    for body in healthy[:6]:
        skin, flesh = anatomy.skin(body, points), anatomy.flesh(body, points)
        wall = anatomy.wall(body, points)
        assert (skin[flesh < 0] < -6).all() and (flesh[wall < 0] < -3).all()
        assert (anatomy.erectors(body, points)[wall < 0] > 0).all()
        assert (anatomy.liver(body, points)[wall > 0] > 0).all()


def test_eight_to_eleven_ribs_in_every_slice(healthy):
    for body in healthy:
        for z in range(-70, 71, 7):
            ribs = np.array(anatomy.ribs(body, float(z)))
            assert 8 <= len(ribs) <= 11
            assert 3 < (ribs[:, 0] > 0).sum() < 7
            where = np.float32(ribs[:, 0]), np.float32(ribs[:, 1]), np.zeros(len(ribs), np.float32)
            assert (anatomy.wall(body, where) > 2).all() and (anatomy.flesh(body, where) < -2).all()


def test_liver_volume_and_largest_slice(healthy, sick):
    volumes = [volume_ml(body) for body in healthy]
    assert np.mean(volumes) == pytest.approx(1300, abs=110) and 120 < np.std(volumes) < 300
    assert 0.7 < np.mean([volume_ml(body) for body in sick]) / 1300 < 0.93
    areas = []
    for body in healthy:
        inside = (anatomy.liver(body, GRID) < 0).reshape([len(line) for line in LINES])
        areas.append(inside.sum(axis=(0, 1)).max() * STEP**2 / 100)
        edges = inside[[0, -1]].any(), inside[:, [0, -1]].any(), inside[:, :, [0, -1]].any()
        assert not any(edges)  # LIVER_BOX_MM holds it
    assert 145 < np.mean(areas) < 195


def test_shares_of_the_couinaud_segments(healthy):
    shares = []
    for body in healthy:
        inside = anatomy.liver(body, GRID) < 0
        segment = anatomy.segment(body, tuple(p[inside] for p in GRID))
        assert segment.dtype == np.int8
        shares.append(np.bincount(segment, minlength=9)[1:] / inside.sum())
    mean = np.mean(shares, axis=0)
    assert 0.70 <= mean[4:].sum() <= 0.76
    assert 0.22 <= mean[7] <= 0.32
    assert mean[7] == mean.max()
    assert 0.01 < mean[0] < 0.05 and mean[1] < 0.1 and mean[2] < 0.1
    assert (mean > 0.01).all()


def test_segments_lie_where_couinaud_has_them(healthy):
    for body in healthy[:8]:
        inside = anatomy.liver(body, GRID) < 0
        points = np.stack(GRID, axis=1)[inside]
        segment = anatomy.segment(body, tuple(points.T))
        centre = {k: points[segment == k].mean(axis=0) for k in range(1, 9)}
        for upper, lower in ((8, 5), (7, 6), (2, 3)):
            assert centre[upper][2] > centre[lower][2] + 15
        assert centre[7][1] > centre[8][1] + 10 and centre[6][1] > centre[5][1] + 10
        assert centre[8][0] < centre[4][0] < centre[3][0]


def solids(body: anatomy.Body) -> dict[str, np.ndarray]:
    liver = anatomy.liver(body, WIDE)
    names = ("left_kidney", "right_kidney", "gallbladder", "aorta", "cava", "vertebra")
    found = {name: anatomy.organ(body, name, WIDE) for name in names}
    found |= {"liver": liver, "spleen": anatomy.spleen(body, WIDE)}
    found |= {"stomach": anatomy.stomach(body, WIDE, liver)}
    found |= {"pancreas": anatomy.pancreas(body, WIDE), "lungs": anatomy.lungs(body, WIDE)}
    found |= {"heart": anatomy.organ(body, "heart", WIDE, power=2.2)}
    loops = [anatomy.loop(body, k, WIDE, liver) for k in range(0, len(body.bowel), 3)]
    return found | {"bowel": shapes.union(*loops), "outside": -anatomy.wall(body, WIDE)}


def test_no_organ_lies_more_than_a_few_mm_in_another(healthy, sick):
    for body in (*healthy[:4], *sick[:2]):
        found = list(solids(body).items())
        for k, (name, f) in enumerate(found):
            for other, g in found[:k]:
                depth = -float(np.maximum(f, g).min())
                assert depth < 6.0, (name, other, depth)


def test_organs_lie_in_place(healthy):
    for body in healthy:
        aorta, cava, vertebra = (body.places[n] for n in ("aorta", "cava", "vertebra"))
        assert 17 <= 2 * aorta[1][0] <= 26
        assert aorta[0][0] > 5 and aorta[0][1] < vertebra[0][1] - 20  # to the left, before it
        assert 25 <= -cava[0][0] <= 35
        spleen = np.stack(WIDE)[:, anatomy.spleen(body, WIDE) < 0].mean(axis=1)
        assert spleen[0] > 60 and spleen[1] > body.canal_y_mm - 70
        liver = np.stack(WIDE)[:, anatomy.liver(body, WIDE) < 0].mean(axis=1)
        assert liver[0] < -35
        assert body.places["right_kidney"][0][2] < body.places["left_kidney"][0][2]
        assert pytest.approx(2 * vertebra[1][0], rel=0.12) == 42


def test_sizes_of_spleen_and_gallbladder(healthy, sick):
    def volumes(group, name):
        solid = {"spleen": anatomy.spleen}.get(name)
        fields = [solid(b, WIDE) if solid else anatomy.organ(b, name, WIDE) for b in group]
        return np.array([np.count_nonzero(f < 0) * 8.0**3 / 1000 for f in fields])

    well = volumes(healthy, "spleen")
    assert well.mean() == pytest.approx(195, abs=45) and 30 < well.std() < 120
    assert 1.4 < volumes(sick, "spleen").mean() / well.mean() < 2.6
    bile = volumes(healthy, "gallbladder")
    assert bile.min() > 17 and bile.max() < 48


def test_signs_of_cirrhosis(healthy, sick):
    well, ill = healthy[0], sick[0]
    parts = {
        name: np.prod(ill.places[name][1]) / np.prod(well.places[name][1]) for name in ill.places
    }
    assert parts["caudate"] > parts["left_lobe"] > parts["right_lobe"]
    assert parts["porta"] > 1.5
    assert well.nodules_mm == 0 < ill.nodules_mm
    assert all(not body.ascites_mm for body in bodies(4, 0.5))
    wet = [body for body in sick if body.ascites_mm]
    assert 1 <= len(wet) <= 9
    points = a_slice()
    liver = anatomy.liver(wet[0], points)
    fluid = (anatomy.ascites(wet[0], points, liver) < 0) & (liver > 0)
    assert fluid.sum() > 50 and (anatomy.wall(wet[0], points)[fluid] < 0).all()
    assert not (anatomy.ascites(well, points, anatomy.liver(well, points)) < 0).any()


def test_the_nodular_surface_is_finer_than_the_liver():
    body = bodies(1, 1.0)[0]
    smooth = dataclasses.replace(body, nodules_mm=0.0)
    points = a_slice(361)
    differ = anatomy.liver(body, points) - anatomy.liver(smooth, points)
    near = np.abs(anatomy.liver(smooth, points)) < 3
    assert 0.2 < differ[near].std() < 2.0


@pytest.mark.parametrize(
    "solid",
    [
        anatomy.skin,
        anatomy.flesh,
        anatomy.wall,
        anatomy.lungs,
        anatomy.liver,
        anatomy.spleen,
        anatomy.stomach,
        anatomy.pancreas,
        anatomy.diaphragm,
        anatomy.limits,
        anatomy.crura,
        anatomy.segment,
        anatomy.roughness,
    ],
)
def test_a_slice_three_arrays_and_a_list_agree(solid):
    body = bodies(1, 0.8)[0]
    points = a_slice()
    full = bent(points, 0.0)
    listed = tuple(p.ravel() for p in full)
    wanted = solid(body, points)
    assert wanted.dtype in (np.float32, np.int8)
    shown = np.broadcast_to(wanted, full[0].shape)
    assert np.abs(shown - solid(body, full)).max() < 2e-3
    apart = np.abs(shown.ravel() - solid(body, listed))
    # In a slice holes of the liver are cut out around themselves only.
    assert apart[np.abs(shown.ravel()) < anatomy.CUT_MM / 2].max() < 2e-3


@pytest.mark.parametrize("stretch", [0.5, 1.0, 4.0])
def test_roughness_of_displaced_points_is_trilinear(stretch):
    body = bodies(1, 0.0)[0]
    moved = bent(a_slice(), 9.0)
    at = [p * stretch / anatomy.ROUGH_MM for p in reversed(moved)]
    wanted = scipy.ndimage.map_coordinates(body.rough, at, order=1, mode="grid-wrap")
    assert np.abs(anatomy.roughness(body, moved, stretch) - wanted).max() < 0.03
    far = bent(a_slice(), 400.0)  # so many layers are done point by point
    at = [p * stretch / anatomy.ROUGH_MM for p in reversed(far)]
    wanted = scipy.ndimage.map_coordinates(body.rough, at, order=1, mode="grid-wrap")
    assert np.abs(anatomy.roughness(body, far, stretch) - wanted).max() < 0.03


def test_kidneys_have_cortex_medulla_and_sinus(healthy):
    (_, _, z), _ = healthy[0].places["left_kidney"]
    cortex, medulla, sinus = anatomy.kidney(healthy[0], "left_kidney", a_slice(z=z))
    assert (cortex[medulla < 0] < 0).mean() > 0.99 and (cortex[sinus < 0] < 1.01).all()
    assert 0 < (sinus < 0).sum() < (medulla < 0).sum() < (cortex < 0).sum()


@pytest.mark.parametrize("power", [2.0, 2.6])
def test_ellipsoids_measure_mm_at_their_surface(power):
    away = np.float32([-0.5, 0.0, 0.5, 1.0])
    zero = np.zeros_like(away)
    semi = (30.0, 20.0, 60.0)
    for axis in range(3):
        points = [zero + 3.0] * 3
        points[axis] = away + semi[axis] + 3.0
        f = shapes.ellipsoid(tuple(points), (3.0, 3.0, 3.0), semi, power)
        assert f == pytest.approx(away, abs=0.03)
    centre = shapes.ellipsoid((zero, zero, zero), (0.0, 0.0, 0.0), semi, power)
    assert centre == pytest.approx(-20 * np.ones(4), rel=0.01)


def test_smooth_union_and_intersection():
    a, b = np.float32([-3, 0, 0, 5, 40]), np.float32([4, 0, 2, 5, 2])
    joined, shared = shapes.smooth_min(a, b, 4.0), shapes.smooth_max(a, b, 4.0)
    assert joined == pytest.approx(np.minimum(a, b) - [0, 1, 0.25, 1, 0])
    assert shared == pytest.approx(-shapes.smooth_min(-a, -b, 4.0))
    assert np.array_equal(shapes.union(a, b), np.minimum(a, b))
    assert np.array_equal(shapes.common(a, b), np.maximum(a, b))


def test_windows_hold_all_that_is_near():
    low, high = np.array([-20.0, 10.0, 0.0]), np.array([30.0, 60.0, 12.0])
    for points in (a_slice(), bent(a_slice(), 6.0)):
        window, close = shapes.near(points, low, high)
        x, y, z = np.broadcast_arrays(*points)
        there = (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])
        there &= (z >= low[2]) & (z <= high[2])
        outside = there.copy()
        outside[window] = False
        assert there.any() and not outside.any()
        assert np.broadcast(*close).shape == x[window].shape
        assert x[window].size < x.size / 4
    assert shapes.near(a_slice(z=20.0), low, high) is None
    assert shapes.near(a_slice(), low + 400, high + 400) is None
    listed = tuple(np.zeros(5, np.float32) for _ in range(3))
    assert shapes.near(listed, low, high) == ((...,), listed)
