"""Trees obey Murray, fill the liver, stay in it and apart, and a slice shows as many as a CT."""

import itertools

import cv2
import numpy as np
import pytest

from jaxdet.data.phantom import anatomy, shapes, vessels

NAMES = ("portal_vein", "hepatic_vein", "artery")
LINE = np.arange(-165, 80, 0.8, dtype=np.float32)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[anatomy.Body, dict[str, np.ndarray]]]:
    found = []
    for k in range(5):
        body = anatomy.draw(np.random.default_rng(60 + k), 0.0)
        found.append((body, vessels.draw(np.random.default_rng(k), body, 0.0)))
    return found


def along(tree: np.ndarray, count: int = 5) -> np.ndarray:
    """Points on every piece, [count, S, 3]."""
    steps = np.linspace(0, 1, count, dtype=np.float32)[:, None, None]
    return tree[:, :3] + steps * (tree[:, 3:6] - tree[:, :3])


def forks(tree: np.ndarray) -> list[tuple[float, list[float]]]:
    """(radius of the piece that ends, radii of those that start there) at every such place."""
    starting: dict[bytes, list[float]] = {}
    for piece in tree:
        starting.setdefault(piece[:3].tobytes(), []).append(float(piece[6]))
    return [(float(p[6]), starting[p[3:6].tobytes()]) for p in tree if p[3:6].tobytes() in starting]


@pytest.mark.parametrize("uneven", [False, True])
def test_murray_holds_exactly_at_every_fork(uneven):
    ends = np.random.default_rng(0).uniform(-50, 50, (200, 3)).astype(np.float32)
    rng = np.random.default_rng(1) if uneven else None
    tree = vessels.grow(np.float32([-60, 0, 0]), ends, 4.0, rng)
    assert len(tree) == 2 * len(ends) - 1 and tree.dtype == np.float32
    found = forks(tree)
    assert len(found) == len(ends) - 1
    for parent, children in found:
        assert len(children) == 2
        assert sum(r**2.7 for r in children) == pytest.approx(parent**2.7, rel=1e-4)
    assert tree[0, 6] == pytest.approx(4.0) and np.array_equal(tree[0, :3], [-60, 0, 0])


def test_every_end_is_reached_once():
    ends = np.random.default_rng(2).uniform(-50, 50, (64, 3)).astype(np.float32)
    tree = vessels.grow(np.zeros(3, np.float32), ends, 3.0)
    starts = {p[:3].tobytes() for p in tree}
    reached = sorted(p[3:6].tobytes() for p in tree if p[3:6].tobytes() not in starts)
    assert reached == sorted(e.tobytes() for e in ends)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_ends(count):
    ends = np.ones((count, 3), np.float32) * np.arange(1, count + 1)[:, None]
    tree = vessels.grow(np.zeros(3, np.float32), ends.astype(np.float32), 2.0)
    assert tree.shape == ((0, 1, 3)[count], 7)


def test_same_seed_same_trees(drawn):
    body, trees = drawn[0]
    again = vessels.draw(np.random.default_rng(0), body, 0.0)
    assert set(again) == set(trees) == set(NAMES)
    assert all(np.array_equal(again[name], trees[name]) for name in NAMES)
    assert all(trees[name].dtype == np.float32 for name in NAMES)


def test_diameters_of_the_large_vessels(drawn):
    for body, trees in drawn:
        portal, hepatic = trees["portal_vein"], trees["hepatic_vein"]
        assert 6.0 <= portal[:, 6].max() <= 7.7
        porta = np.array(body.places["porta"][0])
        near = np.linalg.norm(portal[:, :3] - porta, axis=1) < 15
        right = portal[near & (portal[:, 6] < 5)][:, 6].max()
        assert 3.8 <= right <= 4.8
        inlet = hepatic[np.linalg.norm(hepatic[:, :3] - hepatic[0, :3], axis=1) < 0.1]
        assert len(inlet) == 3 and inlet[:, 6].min() > 3.0 and inlet[:, 6].max() < 5.8
        assert min(portal[:, 6].min(), hepatic[:, 6].min()) > 0.49  # 1 mm of diameter


def test_hepatic_veins_enter_the_cava_under_the_dome(drawn):
    for body, trees in drawn:
        tree = trees["hepatic_vein"]
        inlet = tree[:1, :3]
        assert anatomy.organ(body, "cava", tuple(np.float32(inlet).T))[0] < 0
        top = tree[:, [2, 5]].max()
        assert inlet[0, 2] < top + 8 and top - inlet[0, 2] < 15


def test_hepatic_veins_are_thin_in_cirrhosis():
    body = anatomy.draw(np.random.default_rng(60), 1.0)
    tree = vessels.draw(np.random.default_rng(0), body, 1.0)["hepatic_vein"]
    assert 4.2 < 2 * tree[:, 6].max() < 5.8


def test_vessels_leave_the_liver_at_hilum_and_cava_only(drawn):
    for body, trees in drawn:
        porta = np.array(body.places["porta"][0])
        inside = trees["portal_vein"][:, 6] < vessels.HILAR_MM
        for tree, root, reach in (
            (trees["portal_vein"][inside], porta, 48.0),
            (trees["hepatic_vein"], trees["hepatic_vein"][0, :3], vessels.ENTRY_MM + 6),
        ):
            points = along(tree).reshape(-1, 3)
            far = np.linalg.norm(points - root, axis=1) > reach
            out = anatomy.liver(body, tuple(np.float32(points[far]).T)) > 0.3
            assert out.mean() < 0.002, (out.mean(), points[far][out][:4])


def test_every_segment_is_served(drawn):
    for body, trees in drawn:
        for name in ("portal_vein", "hepatic_vein"):
            fine = trees[name][trees[name][:, 6] < 1.0]
            served = np.bincount(anatomy.segment(body, tuple(fine[:, 3:6].T)), minlength=9)
            assert served[4:].min() > 15
            assert served[2] + served[3] > 15


def test_portal_and_hepatic_branches_keep_apart(drawn):
    closest = []
    for _, trees in drawn:
        a, b = (trees[n][trees[n][:, 6] > 1.5] for n in ("portal_vein", "hepatic_vein"))
        one, other = along(a).reshape(-1, 3), along(b).reshape(-1, 3)
        closest.append(np.linalg.norm(one[:, None] - other, axis=-1).min())
    assert np.median(closest) > 4.0 and min(closest) > 1.0


def test_as_many_sections_as_in_a_ct(drawn):
    counts = []
    for body, trees in drawn:
        for z in (4.0, 14.0):
            points = (LINE[None, :], LINE[:, None], z)
            liver = anatomy.liver(body, points)
            for name in ("portal_vein", "hepatic_vein"):
                mask = (vessels.distances(trees[name], points) < 0) & (liver < 0)
                _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
                counts.append((stats[1:, cv2.CC_STAT_AREA] * 0.8**2 > np.pi).sum())
    per_slice = np.array(counts).reshape(-1, 2).sum(axis=1)
    assert 25 <= per_slice.mean() <= 60


def test_arteries_go_with_the_portal_vein(drawn):
    for body, trees in drawn:
        artery, portal = trees["artery"], trees["portal_vein"]
        within = anatomy.liver(body, tuple(artery[:, 3:6].T)) < -5
        assert within.sum() > 50 and artery[within, 6].max() < 2
        away = np.linalg.norm(artery[within, None, 3:6] - portal[:, 3:6], axis=-1).min(axis=1)
        assert np.percentile(away, 95) < 8
        start = np.stack([artery[:, k] for k in range(3)])
        assert (anatomy.organ(body, "aorta", tuple(start)) < 1).any()


@pytest.mark.parametrize("amount", [0.0, 6.0])
def test_distances_equal_the_nearest_tube(drawn, amount):
    _, trees = drawn[0]
    tree = trees["portal_vein"]
    line = np.arange(-120, 60, 2.5, dtype=np.float32)
    points = (line[None, :], line[:, None], 3.0)
    if amount:
        full = np.broadcast_arrays(*(np.asarray(p, np.float32) for p in points))
        ripple = amount * np.sin(full[0] / 17 + full[1] / 23)
        points = tuple((p + ripple).astype(np.float32) for p in full)
    found = vessels.distances(tree, points, 2.0)
    wanted = shapes.union(*(shapes.tube(points, p[:3], p[3:6], float(p[6])) for p in tree))
    near = wanted < 2.0
    assert near.sum() > 100 and found.dtype == np.float32
    assert found[near] == pytest.approx(wanted[near], abs=1e-3)
    assert (found[~near] >= 2.0 - 1e-3).all()


def test_crossing_takes_what_touches_the_heights():
    tree = np.float32([[0, 0, 0, 0, 0, 10, 1], [0, 0, 20, 5, 0, 20, 2], [0, 0, 40, 0, 0, 30, 1]])
    for (low, high, reach), wanted in (
        ((5.0, 5.0, 0.0), [0]),
        ((12.0, 17.0, 0.0), []),
        ((12.0, 17.0, 2.0), [0, 1]),
        ((-3.0, -2.0, 0.5), []),
        ((11.0, 29.0, 0.0), [0, 1, 2]),
    ):
        found = vessels.crossing(tree, low, high, reach)
        assert np.array_equal(found, tree[wanted])
    assert vessels.crossing(tree[:0], 0.0, 1.0).shape == (0, 7)
    assert (vessels.distances(tree[:0], (LINE[None], LINE[:, None], 0.0)) == 1000).all()


def test_pieces_join_end_to_end(drawn):
    for _, trees in drawn:
        for name in ("portal_vein", "hepatic_vein"):
            tree = trees[name]
            ends = {p[3:6].tobytes() for p in tree}
            loose = {p[:3].tobytes() for p in tree} - ends
            assert len(loose) <= (5 if name == "portal_vein" else 1)
            lengths = np.linalg.norm(tree[:, 3:6] - tree[:, :3], axis=1)
            assert lengths.max() < 80


def test_trees_of_two_seeds_differ(drawn):
    body, _ = drawn[0]
    a, b = (vessels.draw(np.random.default_rng(k), body, 0.0)["hepatic_vein"] for k in (7, 8))
    for one, other in itertools.pairwise((a, b)):
        assert one.shape != other.shape or not np.allclose(one, other)
