"""The two papers' sets: counts, sizes and phases as reported, all from (seed, number) alone."""

import numpy as np
import pytest
import scipy.stats

from jaxdet.data.phantom import anatomy, lesions, multiphase, patients, sets, sltd

PAPER1, PAPER2 = sets.SETS["sltd"]["paper"], sets.SETS["multiphase"]["paper"]


@pytest.fixture(scope="module")
def volumes():
    return [patients.patient(PAPER1, 5, number) for number in range(40)]


def test_slices_and_tumours_of_a_whole_set_are_the_papers():
    counts = [sltd.counts(3, number) for number in range(208)]
    flat = np.concatenate(counts)
    assert len(flat) == 452 and {len(c) for c in counts} == {2, 3}
    assert np.mean(flat) == pytest.approx(1.49, abs=0.005) and set(flat) == {1, 2, 3, 4}
    shares = np.bincount(flat, minlength=5)[1:] / 452
    assert shares == pytest.approx(sltd.COUNTS, abs=0.002)
    pairs = np.array([c[:2] for c in counts])
    assert np.corrcoef(pairs.T)[0, 1] > 0.2  # slices of a volume resemble each other
    again = [sltd.counts(3, 208 + number) for number in range(208)]
    assert again != counts and sum(map(sum, again)) == pytest.approx(flat.sum(), abs=1)


def test_planned_slices_show_what_was_planned(volumes):
    for p in volumes:
        shown = [sltd.showing(PAPER1, list(p.lesions), z) for z in p.slices]
        assert tuple(map(len, shown)) == sltd.counts(5, p.number)
        sides = [max(section) for sections in shown for section in sections]
        assert min(sides) >= 4.0 and max(sides) <= 50.0
        assert list(p.slices) == sorted(set(p.slices)) and 0 <= p.slices[0] <= p.slices[-1] < 200


def test_box_sizes_follow_the_fact_sheet(volumes):
    sides = [
        max(section)
        for p in volumes
        for z in p.slices
        for section in sltd.showing(PAPER1, list(p.lesions), z)
    ]
    rng = np.random.default_rng(0)
    diameter = 20.0 * np.exp(0.5 * rng.normal(size=200_000))
    box = diameter * np.sqrt(1 - rng.uniform(0.5, 1, 200_000) ** 2)
    target = box[(diameter >= 10) & (diameter <= 65) & (box >= 4) & (box <= 50)]
    assert scipy.stats.ks_2samp(sides, target).pvalue > 0.01
    assert 10 < np.median(sides) < 17


def test_largest_diameters_lie_in_the_papers_range(volumes):
    sizes = [lesions.diameter_mm(one) for p in volumes for one in p.lesions]
    assert min(sizes) >= 9.5 and max(sizes) <= 66.0


def test_four_phase_set_has_the_papers_sizes_and_annotated_phases():
    sizes = np.array([multiphase.diameter_mm(2, k) for k in range(280)])
    assert sizes.mean() == pytest.approx(43.0, abs=0.5)
    assert sizes.std() == pytest.approx(27.0, abs=1.0)
    assert 10.0 <= sizes.min() < 11.5 and 130 < sizes.max() <= 160
    phases = [multiphase.annotated(2, k) for k in range(280)]
    assert {name: phases.count(name) for name in set(phases)} == multiphase.ANNOTATED
    assert multiphase.diameter_mm(2, 281) != sizes[1]  # the next block is another one


def test_large_tumours_stay_whole_inside_wall_and_spine():
    for number in range(6):
        p = patients.patient(PAPER2, 0, number)
        main = p.lesions[0]
        assert lesions.diameter_mm(main) == pytest.approx(
            multiphase.diameter_mm(0, number), rel=0.03
        )
        depth = -float(anatomy.wall(p.body, tuple(main.centre[:, None]))[0])
        assert depth > 0  # the centre is inside the abdomen


def test_a_patient_depends_on_its_number_alone():
    patients.patient.cache_clear()
    first = patients.patient(PAPER1, 0, 3)
    patients.patient.cache_clear()
    for number in (5, 2):
        patients.patient(PAPER1, 0, number)
    again = patients.patient(PAPER1, 0, 3)
    assert again is not first and again.slices == first.slices
    for a, b in zip(first.lesions, again.lesions, strict=True):
        assert np.array_equal(a.centre, b.centre) and np.array_equal(a.waves, b.waves)
    assert first.hu == again.hu and first.scanner == again.scanner
    assert patients.patient(PAPER1, 1, 3).hu != first.hu
