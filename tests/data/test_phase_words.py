"""Names of files and series as hospitals write them, and the phase they speak of."""

import pytest

from jaxdet.data import phase_words


@pytest.mark.parametrize(
    ("names", "phase"),
    [
        ("nc NC pre Pre plain native non-contrast NON_CONTRAST unenhanced sans_injection 平扫",
         "precontrast"),
        ("art A ap arterial late_arterial early-arterial Arteriell ArterialPhase 35s 动脉期 art1",
         "arterial"),
        ("pvp P pv portal portal_venous PortalVenous venous portalvenös Ven_70s 门静脉期",
         "portal"),
        ("delay D delayed equilibrium late 5min 5_min 180s Spätphase tardive 延迟期", "delayed"),
    ],
)  # fmt: skip
def test_words_of_many_hospitals(names, phase):
    for name in names.split():
        assert phase_words.phase_of(name) == phase, name
        assert phase_words.phase_of(f"Abd_{name}_1.5mm B30f") == phase, name


@pytest.mark.parametrize(
    "name", ["", "abdomen 1.0 B30f", "partial", "paper", "depart", "1.5mm", "THINS", "art pvp"]
)
def test_words_that_name_no_phase(name):
    assert phase_words.phase_of(name) is None


def test_p_is_plain_beside_c1():
    table = phase_words.table_for(["007_P", "007_C1"])
    assert [phase_words.phase_of(f"007_{n}", table) for n in ("P", "C1", "C2", "C3")] == [
        "precontrast",
        "arterial",
        "portal",
        "delayed",
    ]
    assert phase_words.phase_of("007_P", phase_words.table_for(["007_P", "007_A"])) == "portal"


def test_masks_and_scouts():
    for name in ("mask_pvp", "liver_mask_pvp", "TumorSeg", "case-lesion", "liver_pvp", "NIFTI/GT"):
        assert phase_words.is_mask(name), name
    for name in ("pvp", "liver_ct_pvp", "segment8x", "Liver Volume/art"):
        assert not phase_words.is_mask(name), name
    assert phase_words.is_liver("liver_mask") and not phase_words.is_liver("liver_tumor_mask")
    assert phase_words.is_scout("Topogram 0.6") and phase_words.is_scout("PreMonitoring")
    assert not phase_words.is_scout("Abd art 1.0")
