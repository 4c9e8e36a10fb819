"""Breathing can be undone, spares spine and wall, and moves livers as far apart as in paper 2."""

import dataclasses

import numpy as np
import pytest

from jaxdet.data.phantom import anatomy, motion
from jaxdet.types import PHASES

LINE = np.linspace(-185, 185, 48, dtype=np.float32)
SLICE = (LINE[None, :], LINE[:, None], 12.0)
BREATHED = ("precontrast", "arterial", "delayed")


@pytest.fixture(scope="module")
def body() -> anatomy.Body:
    return anatomy.draw(np.random.default_rng(3), 0.5)


def drawn(seed: int = 0, strength: float = 1.0) -> dict[str, motion.Motion]:
    return motion.draw(np.random.default_rng(seed), strength)


def only(**fields) -> motion.Motion:
    """A motion of nothing but what is given."""
    return dataclasses.replace(drawn(0, 0.0)["arterial"], **fields)


def in_liver(body: anatomy.Body, count: int = 4000) -> tuple[np.ndarray, ...]:
    low, high = np.array(anatomy.LIVER_BOX_MM).T
    points = np.random.default_rng(1).uniform(low, high, (count, 3)).astype(np.float32)
    return tuple(points[anatomy.liver(body, tuple(points.T)) < -5].T)


def full(points) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(a, np.float32) for a in np.broadcast_arrays(*points))


def test_the_portal_phase_does_not_move(body):
    found = drawn()
    assert tuple(found) == PHASES
    for still in (found["portal"], *drawn(0, 0.0).values()):
        pulled = motion.pull(still, body, SLICE)
        assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(pulled, full(SLICE), strict=True))
        assert not motion.displacement_mm(still, body, SLICE).any()
    moved = motion.pull(found["arterial"], body, SLICE)
    assert max(np.abs(a - b).max() for a, b in zip(moved, full(SLICE), strict=True)) > 2


def test_a_slice_is_pulled_as_its_points(body):
    found = drawn()["delayed"]
    pulled = motion.pull(found, body, SLICE)
    assert all(p.shape == (48, 48) and p.dtype == np.float32 for p in pulled)
    flat = motion.pull(found, body, tuple(p.ravel() for p in full(SLICE)))
    for a, b in zip(pulled, flat, strict=True):
        assert np.allclose(a.ravel(), b, atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_displacement_undoes_the_pull(body, seed):
    for phase in BREATHED:
        moved = drawn(seed)[phase]
        away = motion.displacement_mm(moved, body, SLICE)
        assert away.shape == (48, 48, 3) and away.dtype == np.float32
        seen = tuple(p + away[..., k] for k, p in enumerate(full(SLICE)))
        back = motion.pull(moved, body, seen)
        off = max(np.abs(a - b).max() for a, b in zip(back, full(SLICE), strict=True))
        assert off < 0.011


def test_tissue_does_not_fold(body):
    x, y, z = full(SLICE)
    step = np.float32(0.5)
    for seed in range(5):
        for moved in (drawn(seed)[phase] for phase in BREATHED):
            columns = []
            for axis in np.eye(3, dtype=np.float32) * step:
                ends = [
                    np.stack(
                        motion.pull(
                            moved,
                            body,
                            tuple(p + s * a for p, a in zip((x, y, z), axis, strict=True)),
                        )
                    )
                    for s in (1, -1)
                ]
                columns.append((ends[0] - ends[1]) / (2 * step))
            jacobian = np.stack(columns, axis=-1).transpose(1, 2, 0, 3)
            assert np.linalg.det(jacobian).min() > 0.02


def test_spine_and_wall_move_with_the_body_only(body):
    (cx, cy, _), _ = body.places["vertebra"]
    turn = np.linspace(0.3, 5.9, 40, dtype=np.float32)
    skin = (170 * np.sin(turn), -126 * np.cos(turn), np.zeros_like(turn))
    spine = tuple(np.array([v], np.float32) for v in (cx, cy + 5, 20.0))
    for seed in range(5):
        moved = drawn(seed)["arterial"]
        for points in (skin, spine):
            pulled = motion.pull(moved, body, points)
            static = motion.pull_static(moved, points)
            assert all(np.abs(a - b).max() < 0.6 for a, b in zip(pulled, static, strict=True))


def test_static_coordinates_keep_their_shapes_and_order():
    x, y, z = motion.pull_static(drawn()["delayed"], SLICE)
    assert x.shape == (1, 48) and y.shape == (48, 1) and z == 12.0
    assert x.dtype == y.dtype == np.float32
    assert (np.diff(x[0]) > 0).all() and (np.diff(y[:, 0]) > 0).all()
    belly = only(wall_mm=2.0)
    _, y, _ = motion.pull_static(belly, (0.0, np.array([-110.0, 40.0], np.float32), 0.0))
    assert np.allclose(y, [-108.0, 40.0])  # the front moves, the back does not


def test_a_shift_is_a_shift_amid_the_liver(body):
    points = (np.array([-75.0, -60.0], np.float32), np.array([-15.0, 5.0], np.float32), 10.0)
    moved = only(shift_mm=np.array([3.0, -2.0, 5.0]))
    pulled = motion.pull(moved, body, points)
    apart = [a - b for a, b in zip(pulled, full(points), strict=True)]
    assert np.allclose(np.stack(apart), np.array([[3], [-2], [5]]), atol=0.25)
    away = motion.displacement_mm(moved, body, points)
    assert np.allclose(away, [-3, 2, -5], atol=0.3)


def test_a_turn_is_about_the_liver(body):
    angle = 0.05
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    moved = only(matrix=turn - np.eye(3))
    centre = np.array(motion.LIVER_CENTRE_MM, np.float32)
    at = centre + np.array([[0, 0, 0], [12, 0, 0]], np.float32)
    pulled = np.stack(motion.pull(moved, body, tuple(at.T)), axis=1)
    assert np.allclose(pulled[0], centre, atol=1e-4)
    assert np.allclose(pulled[1] - centre, [12 * np.cos(angle), 12 * np.sin(angle), 0], atol=0.06)


def test_motions_have_their_deviations():
    found = [drawn(seed)[phase] for seed in range(20) for phase in BREATHED]
    shift = np.array([m.shift_mm for m in found])
    # Cut at 2.2 SD.
    assert shift.std(axis=0) == pytest.approx(
        0.96 * motion.STRENGTH * np.array(motion.SHIFT_MM), rel=0.25
    )
    warp = np.stack([m.warp_mm for m in found[:12]])
    assert warp.std() == pytest.approx(motion.STRENGTH * motion.WARP_MM, rel=0.1)
    two = warp[:, :, :, :-2] * warp[:, :, :, 2:]  # 16 mm apart along x
    assert two.mean() / (warp**2).mean() == pytest.approx(np.exp(-0.25), abs=0.06)
    half = [drawn(0, 0.5)[p].shift_mm / drawn(0)[p].shift_mm for p in BREATHED]
    assert np.allclose(half, 0.5)


def test_the_seed_makes_the_motions():
    first, again, other = drawn(1), drawn(1), drawn(2)
    for phase in BREATHED:
        assert np.array_equal(first[phase].warp_mm, again[phase].warp_mm)
        assert not np.array_equal(first[phase].shift_mm, other[phase].shift_mm)
    assert not np.array_equal(first["arterial"].shift_mm, first["delayed"].shift_mm)


def test_folding_motions_are_refused(body):
    warp = drawn(0, 12.0)["arterial"]
    with pytest.raises(RuntimeError, match="folds at"):
        motion.displacement_mm(warp, body, SLICE)


def test_livers_lie_apart_as_in_paper_2():
    # A quick look with loose bounds; scripts/reproduce/motion.py measures it.
    line = np.arange(-150, 100, 2.5, dtype=np.float32)
    dice, in_plane = [], []
    for seed in range(8):
        body = anatomy.draw(np.random.default_rng(seed), 0.5)
        for moved in (drawn(seed)[phase] for phase in BREATHED):
            for z in (-35.0, 0.0, 35.0):
                points = (line[None, :], line[:, None], z)
                fixed = anatomy.liver(body, points) < 0
                other = anatomy.liver(body, motion.pull(moved, body, points)) < 0
                if fixed.sum() * 2.5**2 > 800:
                    dice.append(2 * (fixed & other).sum() / (fixed.sum() + other.sum()))
            away = motion.displacement_mm(moved, body, in_liver(body, 500))
            in_plane.append(np.hypot(away[:, 0], away[:, 1]))
    assert 0.85 < np.mean(dice) < 0.95
    assert 2.5 < np.median(np.concatenate(in_plane)) < 8
