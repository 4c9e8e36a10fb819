"""Distractors lie in the liver, away from lesions, where their kind belongs, and as often."""

import numpy as np
import pytest

from jaxdet.data.phantom import anatomy, distractors, lesions, tissue
from jaxdet.types import PHASES


@pytest.fixture(scope="module")
def healthy() -> anatomy.Body:
    return anatomy.draw(np.random.default_rng(2), 0.0)


@pytest.fixture(scope="module")
def sick() -> anatomy.Body:
    return anatomy.draw(np.random.default_rng(2), 1.0)


def many(body: anatomy.Body, kind: str, count: int, avoid: list | None = None) -> list[tuple]:
    return [
        distractors.draw(np.random.default_rng(k), body, kind, avoid or []) for k in range(count)
    ]


def depths(body: anatomy.Body, found) -> np.ndarray:
    centres = np.array([d.centre for d in found], np.float32)
    return -anatomy.liver(body, tuple(centres.T))


def test_same_seed_same_distractors(sick):
    a, b = (distractors.draw(np.random.default_rng(4), sick, "sltd", []) for _ in range(2))
    assert len(a) == len(b) > 10
    for one, other in zip(a, b, strict=True):
        assert one.tissue == other.tissue and one.seed == other.seed
        assert np.array_equal(one.centre, other.centre) and np.array_equal(one.waves, other.waves)


def test_shares_of_patients(healthy):
    drawn = many(healthy, "sltd", 120)
    for name, share in distractors.SHARES.items():
        seen = np.mean([any(d.tissue == name for d in found) for found in drawn])
        assert seen == pytest.approx(share, abs=0.075), name
    assert not any(d.tissue in ("perfusion", "nodule") for found in drawn for d in found)


def test_perfusion_only_with_phases_and_nodules_only_in_cirrhosis(healthy, sick):
    names = [d.tissue for found in many(healthy, "multiphase", 24) for d in found]
    assert 0.8 < names.count("perfusion") / 24 < 2.4 and "nodule" not in names
    names = [d.tissue for found in many(sick, "sltd", 3) for d in found]
    assert names.count("nodule") / 3 > 10 and "perfusion" not in names


def test_sizes(healthy, sick):
    for body in (healthy, sick):
        for found in many(body, "multiphase", 6):
            for d in found:
                low, high = distractors.DIAMETER_MM[d.tissue]
                assert low <= 2 * d.semi.max() * 1.0001 and 2 * d.semi.max() <= high * 1.0001
                assert d.centre.dtype == d.semi.dtype == d.waves.dtype == np.float32


def test_they_lie_in_the_liver_where_they_belong(healthy, sick):
    for body in (healthy, sick):
        found = [d for one in many(body, "multiphase", 16) for d in one]
        deep = depths(body, found)
        assert deep.min() > 0.9
        spots = np.array([d.tissue == "perfusion" for d in found])
        assert spots.any() and deep[spots].max() < 7.1  # on the capsule
        for d in found:
            if d.tissue in ("focal_fat", "sparing"):
                where = tuple(d.centre[:, None])
                beside = [anatomy.organ(body, n, where) for n in ("porta", "gallbladder")]
                beside.append(anatomy.falciform(body, where))
                assert np.min(beside) < d.semi.max() + 3


def test_they_keep_away_from_lesions_and_each_other(sick):
    avoid = [(np.float32([-70, -10, 0]), 40.0), (np.float32([-60, 20, 40]), 12.0)]
    for found in many(sick, "multiphase", 4, avoid):
        assert len(found) > 5
        for k, d in enumerate(found):
            for centre, radius in avoid:
                assert np.linalg.norm(d.centre - centre) > radius + float(d.semi.max())
            for other in found[:k]:
                away = np.linalg.norm(d.centre - other.centre)
                assert away > float(d.semi.max() + other.semi.max())


def test_no_room_no_distractor(sick):
    everywhere = [(np.zeros(3, np.float32), 400.0)]
    assert distractors.draw(np.random.default_rng(0), sick, "sltd", everywhere) == ()


def test_a_perfusion_spot_points_inwards(healthy):
    spots = [d for one in many(healthy, "multiphase", 14) for d in one if d.tissue == "perfusion"]
    assert len(spots) > 10
    right = 0
    for d in spots:
        inwards = d.waves[0, :3]
        step = np.stack([d.centre, d.centre + 3 * inwards])
        shallow, deep = -anatomy.liver(healthy, tuple(step.T))
        right += deep > shallow
        tips = np.float32([d.centre + s * d.semi * inwards for s in (1.2, -1.2)])
        towards, away = lesions.distance(distractors.as_lesion(d, hounsfields()), tuple(tips.T))
        assert towards < away
    assert right / len(spots) > 0.9


def hounsfields() -> dict:
    return tissue.draw(np.random.default_rng(0), "multiphase", 0.5)


def test_the_lesion_of_a_distractor(healthy, sick):
    hu = hounsfields()
    found = [d for body in (healthy, sick) for one in many(body, "multiphase", 8) for d in one]
    assert {d.tissue for d in found} >= {"focal_fat", "nodule", "perfusion"}
    for d in found[:60]:
        lesion, again = distractors.as_lesion(d, hu), distractors.as_lesion(d, hu)
        assert lesion.contrast == again.contrast and set(lesion.contrast) == set(PHASES)
        at = tuple(d.centre[:, None])
        assert lesions.distance(lesion, at)[0] < 0
        if d.tissue == "perfusion":
            rises = {phase: c.inside_hu for phase, c in lesion.contrast.items()}
            assert max(rises, key=rises.get) == "arterial" and rises["arterial"] > 10


@pytest.mark.parametrize("name", tissue.BENIGN)
def test_every_tissue_becomes_a_lesion(healthy, name):
    solid = distractors._solid(
        np.random.default_rng(1), healthy, name, 8.0, np.float32([-70, 0, 0])
    )
    lesion = distractors.as_lesion(solid, hounsfields())
    assert set(lesion.contrast) == set(PHASES)
    assert (lesion.contrast["portal"].inside_hu < -40) == (name == "cyst")


def test_sleeves_in_seven_of_ten(healthy, sick):
    widths = np.array(
        [distractors.sleeve_mm(np.random.default_rng(k), healthy) for k in range(400)]
    )
    assert (widths > 0).mean() == pytest.approx(0.7, abs=0.06)
    assert widths[widths > 0].min() >= 1.0 and widths.max() <= 2.0
    wide = [distractors.sleeve_mm(np.random.default_rng(k), sick) for k in range(400)]
    assert max(wide) > 2.2


def test_unknown_kind(healthy):
    with pytest.raises(ValueError, match=r"'multiphase', 'sltd'.*got 'mri'"):
        distractors.draw(np.random.default_rng(0), healthy, "mri", [])
