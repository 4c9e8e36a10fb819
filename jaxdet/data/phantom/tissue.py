"""What is each tissue worth in Hounsfield units, phase by phase, at 120 kV?

Means and between-patient deviations are those of the project's fact sheet on abdominal CT, section
2; a row names its study where the sheet gives one, and says "estimate" where the sheet found none.
Times: precontrast, arterial about 38 s, portal 71 s, delayed 180-215 s after the injection began.
A lesion is told by its Contrast in each phase, against the liver of the same patient and phase.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from jaxdet.types import PHASES

Kind = Literal["sltd", "multiphase"]
PhaseHu = dict[str, dict[str, float]]  # phase -> tissue -> HU


class Row(NamedTuple):
    """One tissue, in the order of PHASES."""

    mean_hu: tuple[float, float, float, float]
    sd_hu: tuple[float, float, float, float]  # between patients
    source: str


def _row(mean_hu: tuple, sd_hu: tuple, source: str) -> Row:
    """A row from one value for all phases or from four."""
    four = [tuple(float(v) for v in (values * 4)[:4]) for values in (mean_hu, sd_hu)]
    return Row(four[0], four[1], source)


# The order numbers the tissues in a label map: from `liver` on they lie inside the liver.
HU: dict[str, Row] = {
    "air": _row((-1000,), (0,), "definition of HU"),
    "fat": _row((-104, -103, -102, -102), (6,), "estimate; band -190..-30 (TomoVision)"),
    "skin": _row((15, 17, 20, 20), (5,), "estimate, 0-30"),
    "muscle": _row((50, 54, 60, 60), (12,), "52 +- 7 usual, 26 measured in two old patients"),
    "visceral_fat": _row((-98, -97, -96, -96), (7,), "estimate; band -150..-50 (TomoVision)"),
    "lung": _row((-850,), (40,), "estimate for the lung base"),
    "heart": _row((42, 200, 160, 116), (6, 40, 22, 14), "estimate: mixed blood and muscle"),
    "bone": _row((600, 610, 615, 612), (90,), "cortex 800 +- 200, thinner than it is drawn"),
    "marrow": _row((150, 160, 168, 165), (40,), "trabecular 150 +- 50; portal +12 %"),
    "canal": _row((30,), (5,), "estimate"),
    "bowel": _row((42, 75, 85, 80), (6, 12, 12, 12), "estimate: wall 60-110 with contrast"),
    "fluid": _row((10,), (12,), "estimate: fluid of the bowel, water drunk"),
    "gas": _row((-950,), (30,), "estimate"),
    "pancreas": _row((42, 120, 96, 76), (8, 17, 15, 11), "128 +- 17 at 38 s (KoreaMed 1004370)"),
    "kidney": _row((33, 195, 185, 150), (5, 35, 30, 25), "estimate: cortex"),
    "medulla": _row((31, 75, 140, 155), (5, 18, 28, 28), "estimate"),
    "spleen": _row((49, 135, 122, 92), (6, 20, 16, 11), "liver +81..84 at 10-20 s (scilit 1b69)"),
    "aorta": _row((42, 305, 165, 116), (6, 50, 22, 14), "PubMed 17329690; portal, delayed est."),
    "cava": _row((41, 100, 140, 114), (6, 30, 22, 14), "41 and 96 +- 13 measured; else estimate"),
    "bile": _row((8,), (7,), "3 +- 11 measured"),
    "ascites": _row((8,), (3,), "estimate, 5-10"),
    "liver": _row((55, 76, 101, 90), (8, 12, 15, 12), "chronic; normal 58, 82, 116, 97"),
    "portal_vein": _row((42, 125, 176, 118), (6, 30, 22, 14), "late arterial 145 +- 20, 137 here"),
    "hepatic_vein": _row((42, 65, 160, 117), (6, 18, 25, 14), "arterial +24..51 (scilit 1b69)"),
    "artery": _row((42, 285, 160, 115), (6, 50, 22, 14), "estimate: a little below the aorta"),
    "focal_fat": _row((37, 60, 79, 68), (8, 12, 15, 12), "estimate: liver -18, portal -22"),
    "sparing": _row((67, 87, 113, 102), (8, 12, 15, 12), "estimate: liver +12 in a fatty liver"),
    "cyst": _row((5, 6, 8, 8), (6, 6, 7, 7), "estimate: water"),
    "haemangioma": _row((42, 240, 150, 115), (6, 40, 22, 14), "blood pool: its nodules, filled"),
    "necrosis": _row((28, 32, 33, 33), (8,), "estimate"),
    "tumour": _row((47, 106, 84, 63), (8, 17, 14, 13), "HCC; liver/HCC 1.21 (PubMed 23255745)"),
}
NUMBER = {tissue: number for number, tissue in enumerate(HU)}

SHARED = 0.6  # correlation between the enhancements of two tissues, from weight and heart
VESSELS = ("heart", "aorta", "cava", "portal_vein", "hepatic_vein", "haemangioma")  # all blood
ENHANCING = (*VESSELS, "bowel", "pancreas", "kidney", "medulla")  # the liver has its own rule
# What an arterial phase that is one SD (3 s) late changes, in SD of the tissue.
LATE = {"portal_vein": 0.5, "cava": 0.4, "aorta": -0.35, "heart": -0.3}
RELATIVE = {"artery": "aorta", "focal_fat": "liver", "sparing": "liver", "tumour": "liver"}

# Share of normal, mildly diseased and cirrhotic livers, and the degrees of each.
DISEASE: dict[Kind, tuple[float, float, float]] = {
    "sltd": (0.35, 0.30, 0.35),
    "multiphase": (0.15, 0.25, 0.60),
}
DEGREES = ((0.0, 0.1), (0.2, 0.5), (0.6, 1.0))
NORMAL_LIVER_HU = (58.0, 82.0, 116.0, 97.0)
SLTD_LIVER_HU = (98.0, 14.0)  # portal; W150/L50 would saturate brighter ones (facts 0.1)
SLTD_LIVER_RANGE_HU = (70.0, 122.0)
LIVER_RANGE_HU = (70.0, 150.0)


def cirrhosis(rng: np.random.Generator, kind: Kind) -> float:
    """How far a patient's liver is diseased: 0 normal, .2 to .5 mild, .6 to 1 cirrhotic."""
    low, high = DEGREES[int(rng.choice(3, p=DISEASE[kind]))]
    return float(rng.uniform(low, high))


def draw(rng: np.random.Generator, kind: Kind, degree: float | None = None) -> PhaseHu:
    """One patient's HU: phase -> tissue -> HU, four phases for either kind.

    `degree` is that of `cirrhosis`; None draws one. Organs enhance together (r = .6), a late
    arterial phase brightens veins and spleen and darkens the aorta, and the orders that every CT
    shows hold in every patient, within the bands of the facts, section 10: aorta arterial > portal
    > delayed > precontrast; liver portal > delayed > arterial > precontrast; spleen over liver by
    40 to 75 arterial and 5 to 25 portal; pancreas 100 to 145 arterial.
    """
    degree = cirrhosis(rng, kind) if degree is None else degree
    together, late = _normal(rng), _normal(rng)
    table = {name: _tissue(rng, name, together, late) for name in HU}
    table["liver"] = liver = _liver(rng, kind, degree, together, late)
    _spleen(rng, table, liver, late)
    _blood(rng, table, liver, late)
    pancreas, aorta = table["pancreas"], table["aorta"]
    pancreas[1] = np.clip(pancreas[1], 108, 138)
    aorta[1] = np.clip(aorta[1], 210, 440)
    for falling, least in ((pancreas, 6.0), (aorta, 15.0)):
        for k in (2, 3):
            falling[k] = np.clip(falling[k], falling[0] + 12 * (5 - k), falling[k - 1] - least)
    for name, by in RELATIVE.items():
        table[name] = table[by] + np.subtract(HU[name].mean_hu, HU[by].mean_hu)
    return {
        phase: {name: float(values[k]) for name, values in table.items()}
        for k, phase in enumerate(PHASES)
    }


def _normal(rng: np.random.Generator, most: float = 2.5) -> float:
    return float(np.clip(rng.normal(), -most, most))


def _tissue(rng: np.random.Generator, name: str, together: float, late: float) -> np.ndarray:
    """Four phases of one tissue by its row; what takes up no contrast is off by one number."""
    mean, deviation = np.array(HU[name].mean_hu), np.array(HU[name].sd_hu)
    own = _normal(rng)
    z = np.full(4, own)
    if name in ENHANCING:
        own = _normal(rng)
        for k in (1, 2, 3):
            timing = LATE.get(name, 0.0) if k == 1 else 0.0
            left = np.sqrt(1 - SHARED - timing**2)
            z[k] = SHARED**0.5 * together + timing * late + left * (0.8 * own + 0.6 * _normal(rng))
    return mean + deviation * z


def _liver(
    rng: np.random.Generator, kind: Kind, degree: float, together: float, late: float
) -> np.ndarray:
    """A liver fills by the portal vein: arterial and delayed are shares of the portal rise."""
    sick = min(1.0, degree / 0.3)  # the table's "chronic" row is reached in mild disease
    normal, chronic = np.array(NORMAL_LIVER_HU), np.array(HU["liver"].mean_hu)
    mean = normal + sick * (chronic - normal)
    portal, deviation = (mean[2], 15.0) if kind == "multiphase" else SLTD_LIVER_HU
    bare, rise = _normal(rng), SHARED**0.5 * together + (1 - SHARED) ** 0.5 * _normal(rng)
    # Of the portal variance a third is there before contrast (8-9 of 15 HU).
    portal = portal + deviation * (0.57 * bare + 0.82 * rise)
    limits = LIVER_RANGE_HU if kind == "multiphase" else SLTD_LIVER_RANGE_HU
    portal = float(np.clip(portal, *limits))
    before = float(np.clip(mean[0] + 8.0 * bare, portal - 85.0, portal - 24.0))
    arterial, delayed = ((mean[k] - mean[0]) / (mean[2] - mean[0]) for k in (1, 3))
    arterial = np.clip(arterial + 0.05 * late + 0.04 * _normal(rng), 0.22, 0.54)
    delayed = np.clip(delayed + 0.06 * _normal(rng), 0.66, 0.90)
    return before + (portal - before) * np.array([0.0, arterial, 1.0, delayed])


def _spleen(rng: np.random.Generator, table: dict, liver: np.ndarray, late: float) -> None:
    """Drawn as what it is over the liver, two HU inside the bands so that a measurement is too."""
    before = table["spleen"][0] - liver[0]
    own = np.array([_normal(rng) for _ in PHASES[1:]])
    over = [before, *(np.array([57.0 + 4.0 * late, 15.0, 0.0]) + own * (6.0, 5.0, 4.0))]
    table["spleen"] = liver + np.clip(over, (-18, 43, 7, -8), (2, 72, 23, 10))


def _blood(rng: np.random.Generator, table: dict, liver: np.ndarray, late: float) -> None:
    """One blood before contrast and one when it is mixed; veins of the liver against the liver."""
    before, mixed = table["aorta"][0], max(table["aorta"][3], liver[3] + 10.0)
    for name in VESSELS:
        offset = HU[name].mean_hu[3] - HU["aorta"].mean_hu[3]
        table[name][0] = before + 1.0 * _normal(rng)
        table[name][1] = max(table[name][1], before + 8.0)
        table[name][3] = max(mixed + offset + 3.0 * _normal(rng), liver[3] + 6.0)
    portal, hepatic = table["portal_vein"], table["hepatic_vein"]
    # Not yet filled in the late arterial phase: as the liver or darker, now and then brighter.
    hepatic[1] = np.clip(liver[1] - 11.0 + 13.0 * _normal(rng) + 6.0 * late, before, liver[1] + 40)
    portal[2], hepatic[2] = max(portal[2], liver[2] + 30.0), max(hepatic[2], liver[2] + 18.0)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """What a lesion is worth in one phase; where its parts lie is the lesion's own shape."""

    inside_hu: float  # to the liver of that phase
    rim_hu: float  # of capsule or rim, to the liver; the same as inside_hu where there is none
    rim_share: float = 0.0  # of the outline that has the rim: 0 none, 1 all of it
    necrosis_hu: float = 33.0  # absolute: of a dead core, or of a haemangioma's unfilled middle
    unfilled: float = 0.0  # radius of that unfilled middle, as a share of the lesion's radius
    corona_hu: float = 0.0  # to the liver: a halo around the lesion; 0 is none
    texture: float = 1.0  # factor on the lesion's own texture; a nearly iso one may show by it


Contrasts = dict[str, Contrast]  # by phase

HCC_HU = ((-8.0, 8.0), (30.0, 17.0), (-17.0, 14.0), (-27.0, 13.0))  # to the liver: mean, SD
HCC_TYPICAL_HU = (10.0, -4.0, -8.0)  # at least so bright arterial, so dark portal and delayed
CAPSULE_HU = ((0.0, 2.0), (-5.0, 4.0), (10.0, 8.0), (20.0, 10.0))  # to the liver: mean, SD
CAPSULE_SHARE = (0.25, 0.60, 0.75)  # below 2 cm, to 5 cm, above
CORONA_SHARE, INTRATUMORAL_FAT_SHARE = 0.15, 0.10  # the latter below 2 cm


def hcc(rng: np.random.Generator, hu: PhaseHu, diameter_mm: float) -> Contrasts:
    """A typical hepatocellular carcinoma: arterial enhancement, portal and delayed washout.

    Paper 2 kept only such ones, so the atypical draws of the facts' normals (r of portal and
    delayed .6) are drawn again. As its contrast is to the liver, its own HU follow the liver's
    (r .7 precontrast). Larger ones have a capsule more often; one in seven has a portal corona.
    """
    arterial, portal, delayed = _typical(rng)
    before = HCC_HU[0][0] + HCC_HU[0][1] * _normal(rng)
    if diameter_mm < 20 and rng.random() < INTRATUMORAL_FAT_SHARE:
        before -= 15.0
    inside = (before, arterial, portal, delayed)
    likely = CAPSULE_SHARE[int(np.searchsorted([20, 50], diameter_mm, side="right"))]
    around = float(rng.uniform(0.6, 1.0)) if rng.random() < likely else 0.0
    dead = [hu[phase]["necrosis"] for phase in PHASES]
    corona = max(0.0, 12.0 + 4.0 * _normal(rng)) if rng.random() < CORONA_SHARE else 0.0
    own = _normal(rng)
    return {
        phase: Contrast(
            inside_hu=float(inside[k]),
            rim_hu=float(CAPSULE_HU[k][0] + CAPSULE_HU[k][1] * own if around else inside[k]),
            rim_share=around,
            necrosis_hu=float(dead[k]),
            corona_hu=float(corona) if phase == "portal" else 0.0,
        )
        for k, phase in enumerate(PHASES)
    }


def small_tumour(rng: np.random.Generator, hu: PhaseHu, diameter_mm: float) -> Contrasts:
    """A tumour of set 1, portal phase only: 85 % are dark, 7 % nearly as the liver, 8 % bright.

    Nearly iso ones show by a rim or by their texture. Below 1 cm the contrast is 15 % less; no
    tumour is darker than fluid.
    """
    kind = rng.choice(3, p=(0.85, 0.07, 0.08))
    inside = (
        # The fact sheet's N(36, 16) puts 20 % of tumours under the noise; its own band is 10 %.
        -float(np.clip(rng.normal(40, 14), 14, 75)),
        float(rng.uniform(5, 12) * rng.choice([-1, 1], p=[0.75, 0.25])),
        float(np.clip(rng.normal(20, 8), 8, 40)),
    )[kind]
    inside *= 0.85 if diameter_mm < 10 else 1.0
    inside = max(inside, min(-12.0, 12.0 - hu["portal"]["liver"]))
    rim, around, texture = inside, 0.0, 1.0
    if kind == 1 and rng.random() < 0.5:
        rim, around = inside - float(rng.uniform(12, 22)), float(rng.uniform(0.7, 1.0))
    elif kind == 1:
        texture = float(rng.uniform(1.6, 2.2))
    dead = float(hu["portal"]["necrosis"])
    return {"portal": Contrast(inside, rim, around, necrosis_hu=dead, texture=texture)}


def cyst(rng: np.random.Generator, hu: PhaseHu, diameter_mm: float) -> Contrasts:
    """Water in every phase; below 1 cm the bright liver around lifts it (pseudo-enhancement)."""
    small = float(np.clip((10.0 - diameter_mm) / 5.0, 0.0, 1.0)) * rng.uniform(4, 12)
    lift = (0.0, 0.5 * small, small, 0.8 * small)
    return _plain(hu, [hu[phase]["cyst"] + lift[k] for k, phase in enumerate(PHASES)], texture=0.0)


def haemangioma(rng: np.random.Generator, hu: PhaseHu, diameter_mm: float) -> Contrasts:
    """Fills with blood from the rim inward, as bright as the vessels; small ones fill at once."""
    arterial = hu["arterial"]["aorta"] * rng.uniform(0.6, 1.0)
    blood = [hu["precontrast"]["aorta"], arterial] + [
        hu[phase]["hepatic_vein"] - 8.0 for phase in PHASES[2:]
    ]
    middle = (0.0, 0.85, 0.5 * rng.uniform(0.6, 1.2), rng.uniform(0.0, 0.2))
    if diameter_mm < 15 and rng.random() < 0.6:
        middle = (0.0, 0.0, 0.0, 0.0)
    unfilled = [hu["precontrast"]["aorta"] + 3.0 * (k > 0) for k in range(4)]
    found = _plain(hu, blood, texture=1.0)
    return {
        phase: dataclasses.replace(
            found[phase], necrosis_hu=float(unfilled[k]), unfilled=float(middle[k])
        )
        for k, phase in enumerate(PHASES)
    }


def focal_fat(rng: np.random.Generator, hu: PhaseHu, diameter_mm: float) -> Contrasts:
    """A patch of fatty liver, darker by about 20 HU in every phase."""
    z = _normal(rng, 1.2)
    drop = [(-18.0 - 10.0 * z) * factor for factor in (1.0, 0.9, 1.22, 1.22)]
    return _plain(hu, [hu[phase]["liver"] + d for phase, d in zip(PHASES, drop, strict=True)])


def sparing(rng: np.random.Generator, hu: PhaseHu, diameter_mm: float) -> Contrasts:
    """A patch that a fatty liver spared, brighter by about 12 HU in every phase."""
    rise = 12.0 + 6.0 * _normal(rng, 1.5)
    return _plain(hu, [hu[phase]["liver"] + rise for phase in PHASES])


def perfusion(rng: np.random.Generator, hu: PhaseHu, diameter_mm: float) -> Contrasts:
    """An arterial perfusion spot (THAD): brighter in that phase, as the liver in the others."""
    rise = (0.0, rng.uniform(15, 32), rng.uniform(0, 4), 0.0)  # estimate
    return _plain(hu, [hu[phase]["liver"] + r for phase, r in zip(PHASES, rise, strict=True)])


def nodule(rng: np.random.Generator, hu: PhaseHu, diameter_mm: float) -> Contrasts:
    """A regenerative nodule: a little bright before contrast, a little dark after."""
    z = _normal(rng, 1.5)
    off = (4.0 + 2.0 * z, -4.0 + 2.0 * z, -5.0 + 3.0 * z, -4.0 + 3.0 * z)  # estimate
    return _plain(hu, [hu[phase]["liver"] + o for phase, o in zip(PHASES, off, strict=True)])


# What looks like a tumour and is none, by name.
BENIGN: dict[str, Callable[[np.random.Generator, PhaseHu, float], Contrasts]] = {
    "cyst": cyst,
    "haemangioma": haemangioma,
    "focal_fat": focal_fat,
    "sparing": sparing,
    "perfusion": perfusion,
    "nodule": nodule,
}


def _typical(rng: np.random.Generator) -> tuple[float, float, float]:
    """Arterial, portal and delayed contrast of an HCC, drawn until it is a typical one."""
    bright, portal_dark, delayed_dark = HCC_TYPICAL_HU
    while True:
        a, p, q = (_normal(rng) for _ in range(3))
        z = (a, p, 0.6 * p + 0.8 * q)
        arterial, portal, delayed = (
            mean + deviation * v for (mean, deviation), v in zip(HCC_HU[1:], z, strict=True)
        )
        if arterial >= bright and portal <= portal_dark and delayed <= delayed_dark:
            return arterial, portal, delayed


def _plain(hu: PhaseHu, absolute_hu: list[float], texture: float = 1.0) -> Contrasts:
    """A lesion without rim from its own HU in each phase."""
    inside = [float(v - hu[phase]["liver"]) for v, phase in zip(absolute_hu, PHASES, strict=True)]
    return {
        phase: Contrast(inside_hu=v, rim_hu=v, texture=texture)
        for phase, v in zip(PHASES, inside, strict=True)
    }
