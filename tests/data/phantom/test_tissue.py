"""Every patient keeps the orders that CT shows, and many of them have the table's means."""

import numpy as np
import pytest
import scipy.stats

from jaxdet.data.phantom import tissue
from jaxdet.types import PHASES

MANY = {"sltd": 2000, "multiphase": 800}  # patients


@pytest.fixture(scope="module")
def drawn() -> dict[str, dict[str, np.ndarray]]:
    """Kind -> tissue -> [patients, phases]."""
    found = {}
    for kind in tissue.DISEASE:
        rng = np.random.default_rng(5)
        patients = [tissue.draw(rng, kind) for _ in range(MANY[kind])]
        found[kind] = {
            name: np.array([[hu[phase][name] for phase in PHASES] for hu in patients])
            for name in tissue.HU
        }
    return found


@pytest.fixture
def hu() -> tissue.PhaseHu:
    return tissue.draw(np.random.default_rng(1), "multiphase", 0.8)


def test_rows_have_a_source_and_numbers_keep_the_liver_last():
    for name, row in tissue.HU.items():
        assert row.source and len(row.mean_hu) == len(row.sd_hu) == len(PHASES), name
        assert all(-1000 <= v <= 1000 for v in row.mean_hu) and min(row.sd_hu) >= 0
    inside = {"liver", "portal_vein", "hepatic_vein", "artery", "cyst", "haemangioma", "tumour"}
    inside |= {"focal_fat", "sparing", "necrosis"}
    least = tissue.NUMBER["liver"]
    assert {name for name, number in tissue.NUMBER.items() if number >= least} == inside
    assert tissue.NUMBER["air"] == 0 and len(set(tissue.NUMBER.values())) == len(tissue.HU) < 256


def test_patients_have_the_means_of_the_table(drawn):
    for name, row in tissue.HU.items():
        values = drawn["multiphase"][name]
        off = np.abs(values.mean(axis=0) - row.mean_hu)
        assert (off <= 0.35 * np.maximum(row.sd_hu, 6.0)).all(), name
        assert (values.std(axis=0) <= 1.4 * np.maximum(row.sd_hu, 6.0)).all(), name


def test_livers_of_the_single_phase_set(drawn):
    portal = drawn["sltd"]["liver"][:, 2]
    assert 96 < portal.mean() < 104 and 12 < portal.std() < 21
    assert portal.min() >= 70 and portal.max() <= 122
    white = scipy.stats.norm.sf(125, portal, 17).mean()  # of W150/L50, with noise of 17 HU
    assert 0.03 < white < 0.15


@pytest.mark.parametrize("kind", tissue.DISEASE)
def test_orders_hold_in_every_patient(drawn, kind):
    table = drawn[kind]
    pre, arterial, portal, delayed = (table["aorta"][:, k] for k in range(4))
    assert (arterial > portal).all() and (portal > delayed).all() and (delayed > pre).all()
    pre, arterial, portal, delayed = (table["liver"][:, k] for k in range(4))
    assert (portal > delayed).all() and (delayed > arterial).all() and (arterial > pre).all()
    over = table["spleen"] - table["liver"]
    assert over[:, 1].min() >= 40 and over[:, 1].max() <= 75
    assert over[:, 2].min() >= 5 and over[:, 2].max() <= 25
    assert table["pancreas"][:, 1].min() >= 100 and table["pancreas"][:, 1].max() <= 145
    veins = table["hepatic_vein"] - table["liver"]
    assert (veins[:, 1] <= 10).mean() > 0.6
    assert veins[:, 2].min() > 10 and (table["portal_vein"] - table["liver"])[:, 2].min() > 20


def test_organs_enhance_together_and_a_late_phase_parts_veins_from_the_aorta(drawn):
    def r(a, b, phase):
        return np.corrcoef(drawn["multiphase"][a][:, phase], drawn["multiphase"][b][:, phase])[0, 1]

    assert r("aorta", "kidney", 2) == pytest.approx(0.6, abs=0.08)
    assert r("portal_vein", "kidney", 2) == pytest.approx(0.6, abs=0.08)
    assert r("liver", "kidney", 2) > 0.35
    assert r("aorta", "portal_vein", 1) < r("aorta", "portal_vein", 2) - 0.1
    assert abs(r("muscle", "kidney", 2)) < 0.1


def test_what_takes_up_no_contrast_keeps_its_offset(drawn):
    for name in ("fat", "muscle", "gas", "bile", "lung", "fluid"):
        apart = drawn["sltd"][name] - np.array(tissue.HU[name].mean_hu)
        assert np.allclose(apart, apart[:, :1])


def test_cirrhosis_has_the_shares_of_its_kind():
    for kind, shares in tissue.DISEASE.items():
        rng = np.random.default_rng(3)
        degrees = np.array([tissue.cirrhosis(rng, kind) for _ in range(2000)])
        assert degrees.min() >= 0 and degrees.max() <= 1
        found = [(degrees < 0.15).mean(), ((degrees > 0.15) & (degrees < 0.55)).mean()]
        assert found == pytest.approx(shares[:2], abs=0.035)


def test_a_diseased_liver_takes_up_less():
    def portal(degree):
        rng = np.random.default_rng(4)
        return np.mean(
            [tissue.draw(rng, "multiphase", degree)["portal"]["liver"] for _ in range(200)]
        )

    assert portal(0.0) - portal(0.9) == pytest.approx(15, abs=5)


def test_the_seed_makes_the_patient():
    first, again, other = (tissue.draw(np.random.default_rng(s), "sltd") for s in (1, 1, 2))
    assert first == again != other


def test_carcinomas_are_typical(drawn):
    rng, rows = np.random.default_rng(0), []
    table = drawn["multiphase"]
    for i in range(MANY["multiphase"]):
        hu = {p: {name: table[name][i, k] for name in table} for k, p in enumerate(PHASES)}
        found = tissue.hcc(rng, hu, 43.0)
        own = hu["precontrast"]["liver"] + found["precontrast"].inside_hu
        rows.append([*(found[p].inside_hu for p in PHASES), hu["precontrast"]["liver"], own])
    pre, arterial, portal, delayed, liver, own = np.array(rows).T
    assert arterial.min() >= 10 and portal.max() <= -4 and delayed.max() <= -8
    assert pre.mean() == pytest.approx(-8, abs=1) and pre.std() == pytest.approx(8, abs=1)
    assert arterial.mean() == pytest.approx(33, abs=2)  # 30 +- 17 without its atypical end
    assert portal.mean() == pytest.approx(-21, abs=2) and delayed.mean() == pytest.approx(
        -30, abs=2
    )
    assert np.corrcoef(liver, own)[0, 1] == pytest.approx(0.7, abs=0.06)
    assert 0.3 < np.corrcoef(portal, delayed)[0, 1] < 0.65


def test_capsules_by_size(hu):
    for diameter, share in ((12.0, 0.25), (35.0, 0.60), (80.0, 0.75)):
        rng = np.random.default_rng(6)
        found = [tissue.hcc(rng, hu, diameter) for _ in range(600)]
        with_it = [f for f in found if f["delayed"].rim_share]
        assert len(with_it) / 600 == pytest.approx(share, abs=0.06)
        assert all(0.6 <= f["delayed"].rim_share <= 1 for f in with_it)
        assert np.mean([f["delayed"].rim_hu for f in with_it]) == pytest.approx(20, abs=3)
        bare = [f for f in found if not f["delayed"].rim_share]
        assert all(f[p].rim_hu == f[p].inside_hu for f in bare for p in PHASES)
        corona = np.mean([f["portal"].corona_hu > 0 for f in found])
        assert corona == pytest.approx(0.15, abs=0.05)
        assert all(f[p].necrosis_hu == hu[p]["necrosis"] for f in found for p in PHASES)


def test_small_tumours_have_their_shares(hu):
    rng = np.random.default_rng(7)
    found = [tissue.small_tumour(rng, hu, 20.0)["portal"] for _ in range(2000)]
    inside = np.array([c.inside_hu for c in found])
    iso = np.array([c.rim_share > 0 or c.texture > 1 for c in found])
    dark, bright = (inside < 0) & ~iso, (inside > 0) & ~iso
    assert dark.mean() == pytest.approx(0.85, abs=0.03)
    assert iso.mean() == pytest.approx(0.07, abs=0.02)
    assert bright.mean() == pytest.approx(0.08, abs=0.02)
    assert inside[dark].mean() == pytest.approx(-41, abs=2)
    assert inside[dark].max() <= -14 and inside.min() >= -75
    assert np.abs(inside[iso]).min() >= 5 and np.abs(inside[iso]).max() <= 12
    assert (inside + hu["portal"]["liver"]).min() >= 11


def test_small_tumours_below_a_centimetre_show_less(hu):
    large, small = (
        tissue.small_tumour(np.random.default_rng(8), hu, d)["portal"].inside_hu
        for d in (10.0, 9.9)
    )
    assert small == pytest.approx(0.85 * large)


@pytest.mark.parametrize("name", tissue.BENIGN)
def test_benign_lesions_have_all_phases(hu, name):
    first, again = (tissue.BENIGN[name](np.random.default_rng(9), hu, 8.0) for _ in range(2))
    assert first == again and tuple(first) == PHASES
    assert all(np.isfinite(c.inside_hu) and c.rim_hu == c.inside_hu for c in first.values())


def test_benign_lesions_behave(hu):
    rng = np.random.default_rng(10)
    large = tissue.cyst(rng, hu, 20.0)["portal"].inside_hu + hu["portal"]["liver"]
    small = tissue.cyst(rng, hu, 5.0)["portal"].inside_hu + hu["portal"]["liver"]
    assert large == pytest.approx(hu["portal"]["cyst"]) and large < small < large + 15
    blood = tissue.haemangioma(rng, hu, 40.0)
    middle = [blood[phase].unfilled for phase in PHASES]
    assert middle[0] == 0 and middle[1] > middle[2] > middle[3] >= 0
    assert blood["arterial"].inside_hu > 60 and blood["delayed"].inside_hu > 0
    spot = tissue.perfusion(rng, hu, 10.0)
    assert spot["arterial"].inside_hu > 14 and abs(spot["delayed"].inside_hu) < 1e-6
    assert all(c.inside_hu < 0 for c in tissue.focal_fat(rng, hu, 10.0).values())
    assert all(c.inside_hu > 0 for c in tissue.sparing(rng, hu, 10.0).values())
