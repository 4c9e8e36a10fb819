"""The fifteen items of the realism checklist: what was measured, the band, inside or not.

Bands are those of the project's facts on CT phantoms, section 10. A row without a band is told,
not judged.
"""

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Sequence

import motion as breathing
import numpy as np
import realism_detectors as detectors
import realism_measures as measures
import realism_samples as samples
import scipy.stats

from jaxdet.data.phantom import sltd
from jaxdet.metrics.average_precision import average_precision

INF = math.inf


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    item: int
    what: str
    value: float  # NaN: not measured
    low: float = -INF
    high: float = INF
    real: float = math.nan  # the same measure on real slices, where there are any

    @property
    def inside(self) -> bool | None:
        """Whether the value lies in its band; None without a band or without a value."""
        if math.isnan(self.value) or (self.low == -INF and self.high == INF):
            return None
        return bool(self.low <= self.value <= self.high)


def _median(values: Sequence) -> float:
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else math.nan


def _share(values: Sequence) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _pooled(found: list[dict], key: str) -> np.ndarray:
    return np.array([value for row in found for value in row[key]], float)


@dataclasses.dataclass(frozen=True)
class Noise:
    """Noise of many slices; each counts the same."""

    sd: float
    along_z: tuple[float, float, float]
    nps: np.ndarray
    acf: tuple[float, float]
    spike: float
    patches: int


def noise(found: list[dict]) -> Noise:
    """Mean spectrum and medians of what `realism_samples.noise_of` gave for each slice."""
    full = [row for row in found if row["patches"]]
    if not full:
        nothing = np.full(len(samples.FREQUENCIES), math.nan)
        return Noise(math.nan, (math.nan,) * 3, nothing, (math.nan,) * 2, math.nan, 0)
    weights = np.array([row["patches"] for row in full], float)
    return Noise(
        sd=_median([_median(row["sd"]) for row in found]),
        along_z=tuple(
            _median([row["along_z"][k] for row in found if len(row["along_z"]) == 3])
            for k in range(3)
        ),
        nps=np.average([row["nps"] for row in full], axis=0, weights=weights),
        acf=tuple(np.average([row["acf"] for row in full], axis=0, weights=weights)),
        spike=measures.spike(np.average([row["power"] for row in full], axis=0, weights=weights)),
        patches=int(weights.sum()),
    )


def item_1(pixels: list[dict], real: dict) -> list[Row]:
    """Histogram of the liver."""
    medians = [row["median"] for row in pixels]
    known = real.get("t03_medians", [math.nan])
    white = _share([row["white"] for row in pixels if np.isfinite(row["white"])])
    return [
        Row(1, "set 1 liver: mean of patient medians, HU", float(np.nanmean(medians)), 96, 104,
            float(np.mean(known))),
        Row(1, "set 1 liver: SD of patient medians, HU", float(np.nanstd(medians)), 12, 21,
            float(np.std(known))),
        Row(1, "set 1 liver pixels at the white point of W150/L50", white, 0, 0.15,
            real.get("t03_white", math.nan)),
    ]  # fmt: skip


def item_2(everyone: list[dict], measured: list[dict]) -> list[Row]:
    """Order of the phases, as drawn in all patients and as measured in some."""
    rows = []
    for title, patients in (
        ("drawn", [row["hu"] for row in everyone]),
        ("measured", measured),
    ):
        pre, art, por, del_ = (
            {name: np.array([p[phase][name] for p in patients]) for name in samples.ORGANS}
            for phase in ("precontrast", "arterial", "portal", "delayed")
        )
        known = np.isfinite(art["hepatic_vein"])
        in_order = {
            "aorta arterial > portal > delayed > pre": _falls(
                art["aorta"], por["aorta"], del_["aorta"], pre["aorta"]
            ),
            "liver portal > delayed > arterial > pre": _falls(
                por["liver"], del_["liver"], art["liver"], pre["liver"]
            ),
            "spleen - liver arterial +40..75": _within(art["spleen"] - art["liver"], 40, 75),
            "spleen - liver portal +5..25": _within(por["spleen"] - por["liver"], 5, 25),
            "pancreas arterial 100..145": _within(art["pancreas"], 100, 145),
        }
        rows += [Row(2, f"{title}: patients with {k}", v, 0.95, 1) for k, v in in_order.items()]
        dark = (art["hepatic_vein"] <= art["liver"] + 10)[known]
        rows.append(
            Row(2, f"{title}: arterial hepatic veins not over liver + 10", _share(dark), 0.6, 1)
        )
    return rows


def _falls(*values: np.ndarray) -> float:
    steps = np.array([a > b for a, b in itertools.pairwise(values)])
    known = np.isfinite(np.array(values)).all(axis=0)
    return _share(steps.all(axis=0)[known])


def _within(values: np.ndarray, low: float, high: float) -> float:
    known = values[np.isfinite(values)]
    return _share((known >= low) & (known <= high))


def item_3(one: list[dict], four: list[dict], real: dict) -> list[Row]:
    """How much noise, where, and how far along z."""
    first, second = noise([r["noise"] for r in one]), noise([r["noise"] for r in four])
    c20 = real.get("noise")
    at_2_mm = second.along_z[0] ** ((2 / 2.5) ** 2) if second.along_z[0] > 0 else math.nan
    z_real = c20.along_z if c20 else (math.nan,) * 3
    return [
        Row(3, "set 1: SD of 8-mm patches, HU", first.sd, 15, 19),
        Row(3, "set 2: SD of 8-mm patches, HU", second.sd, 10.5, 13.5,
            c20.sd if c20 else math.nan),
        Row(3, "set 1: the same without tissue", noise([r["alone"] for r in one]).sd),
        Row(3, "set 2: the same without tissue", noise([r["alone"] for r in four]).sd),
        Row(3, "set 1: noise at the rim over the middle", _median([r["rim"] for r in one]),
            0.6, 0.85, real.get("rim", math.nan)),
        Row(3, "set 2: noise at the rim over the middle", _median([r["rim"] for r in four]),
            0.6, 0.85, real.get("rim", math.nan)),
        Row(3, "set 1: correlation with the next slice (0.8 mm)", first.along_z[0], 0.35, 0.55),
        Row(3, "set 1: correlation with the third slice (2.4 mm)", first.along_z[2], -0.1, 0.1),
        Row(3, "set 2: correlation with the next slice (2.5 mm)", second.along_z[0]),
        Row(3, "set 2: the same at 2 mm (Gaussian profile)", at_2_mm, 0.4, 0.6, z_real[0]),
        Row(3, "set 2: correlation with the third slice (7.5 mm)", second.along_z[2], -0.1, 0.1,
            z_real[2]),
    ]  # fmt: skip


def item_4(one: list[dict], four: list[dict], real: dict) -> list[Row]:
    """The noise power spectrum in plane."""
    rows = []
    c20 = real.get("noise")
    for title, here in (
        ("set 1", noise([r["noise"] for r in one])),
        ("set 2", noise([r["noise"] for r in four])),
    ):
        like = _spectrum(c20) if c20 and title == "set 2" else [math.nan] * 7
        bands = ((1, 1), (0.08, 0.30), (0, 0.35), (0, 0.4), (0.2, 0.6), (0, 0.4), (0, 2.0))
        names = (
            "NPS: peaks", "NPS: place of the peak, 1/mm", "NPS at 0.5/mm over the peak",
            "NPS at 0 over the peak", "autocorrelation along x, 1 px",
            "autocorrelation, x less y", "2-D NPS: highest over its surroundings",
        )  # fmt: skip
        rows += [
            Row(4, f"{title} {name}", value, *band, theirs)
            for name, value, band, theirs in zip(names, _spectrum(here), bands, like, strict=True)
        ]
    for title, found in (("set 1", one), ("set 2", four)):
        alone = noise([row["alone"] for row in found])
        place, _, dip = _spectrum(alone)[1:4]
        rows += [
            Row(4, f"{title} noise without tissue: place of the peak, 1/mm", place),
            Row(4, f"{title} noise without tissue: NPS at 0 over the peak", dip),
            Row(4, f"{title} noise without tissue: autocorrelation along x", alone.acf[0]),
        ]
    return rows


def _spectrum(here: Noise) -> list[float]:
    f, top = samples.FREQUENCIES, float(here.nps.max())
    return [
        float(len(measures.peaks(here.nps))),
        float(f[int(np.argmax(here.nps))]),
        float(np.interp(0.5, f, here.nps) / top),
        float(here.nps[0] / top),
        here.acf[0],
        here.acf[0] - here.acf[1],
        here.spike,
    ]


def item_5(one: list[dict], four: list[dict], real: dict) -> list[Row]:
    """How sharp are edges?"""
    rows = []
    for title, found in (("set 1", one), ("set 2", four)):
        fat, skin = _pooled(found, "liver_fat"), _pooled(found, "skin_air")
        fat_real, skin_real = real.get("liver_fat", [math.nan]), real.get("skin_air", [math.nan])
        low, middle, high = np.quantile(fat, [0.25, 0.5, 0.75])
        rows += [
            Row(5, f"{title}: liver-fat sigma, first quartile, mm", low, 0.7, 1.5,
                float(np.quantile(fat_real, 0.25))),
            Row(5, f"{title}: liver-fat sigma, median, mm", middle, 0.7, 1.5,
                float(np.median(fat_real))),
            Row(5, f"{title}: liver-fat sigma, third quartile, mm", high, 0.7, 1.5,
                float(np.quantile(fat_real, 0.75))),
            Row(5, f"{title}: skin-air sigma, median, mm", float(np.median(skin)), 0.5, 0.8,
                float(np.median(skin_real))),
            Row(5, f"{title}: edges sharper than 0.35 mm, share",
                float((np.concatenate([fat, skin]) < 0.35).mean()), 0, 0.01,
                float((np.concatenate([fat_real, skin_real]) < 0.35).mean())),
        ]  # fmt: skip
    edges = _pooled(one, "lesion_edges")
    rows += [
        Row(5, "set 1: lesion edges, median sigma, mm", float(np.median(edges)), 0.7, 3.0),
        Row(5, "set 1: lesion edges, SD over mean of sigma", float(edges.std() / edges.mean()),
            0.15, INF),
    ]  # fmt: skip
    return rows


def target_sides_cm(count: int = 40_000) -> np.ndarray:
    """Longer sides of boxes of set 1 as the facts, section 7, draw them: balls cut near an end."""
    rng = np.random.default_rng(0)
    d = np.exp(np.log(2.0) + 0.5 * rng.normal(size=4 * count))
    sides = d * np.sqrt(1 - rng.uniform(0.5, 1.0, d.size) ** 2)
    return sides[(d >= 1.0) & (d <= 6.5) & (sides >= 0.4) & (sides <= 5.0)][:count]


def item_6(one: list[dict], four: list[dict]) -> list[Row]:
    """Sizes."""
    sides = _pooled(one, "sides_cm")
    drawn, found = (np.array([row[k] / 10 for row in four]) for k in ("drawn_mm", "measured_mm"))
    ks = scipy.stats.ks_2samp(sides, target_sides_cm())
    rows = [
        Row(6, "set 1 boxes in 0.4-5.0 cm, share", _within(sides, 0.4, 5.0), 1, 1),
        Row(6, "set 1 boxes: least, cm", float(sides.min())),
        Row(6, "set 1 boxes: median, cm", float(np.median(sides)), 1.1, 2.2),
        Row(6, "set 1 boxes: 5th percentile, cm", float(np.quantile(sides, 0.05)), 0, 0.7),
        Row(6, "set 1 boxes: largest, cm", float(sides.max()), 4, 5),
        Row(6, "set 1 boxes against the target: p of KS", float(ks.pvalue), 0.05, 1),
        Row(6, "set 1 boxes", float(len(sides)), 653, 693),
    ]
    for title, d in (("drawn", drawn), ("measured on masks", found)):
        rows += [
            Row(6, f"set 2 diameter {title}: mean, cm", float(d.mean()), 4.1, 4.5),
            Row(6, f"set 2 diameter {title}: SD, cm", float(d.std()), 2.4, 3.0),
            Row(6, f"set 2 diameter {title}: least, cm", float(d.min()), 0.95, INF),
            Row(6, f"set 2 diameter {title}: largest, cm", float(d.max()), 13, 16.2),
        ]
    mean = float(np.mean([row["points"] for row in four]))
    return [*rows, Row(6, "set 2 data points a patient (paper: 16.96)", mean, 15.5, 18.5)]


def item_7(one: list[dict]) -> list[Row]:
    """How many tumours a slice."""
    counts = [c for row in one for c in row["counts"]]
    pairs = np.array([row["counts"][:2] for row in one if len(row["counts"]) >= 2])
    rows = [
        Row(7, f"slices with {k + 1} tumours, share", share, target - 0.03, target + 0.03)
        for k, (share, target) in enumerate(
            zip(measures.shares(counts, 4), sltd.COUNTS, strict=True)
        )
    ]
    r = scipy.stats.pearsonr(*pairs.T)
    return [
        *rows,
        Row(7, "tumours a slice: mean", float(np.mean(counts)), 1.46, 1.52),
        Row(7, "tumours a slice: most", float(np.max(counts)), 4, 4),
        Row(7, "correlation of two slices of a volume", float(r.statistic), 0.1, 1),
        Row(7, "multi-tumour slices in which some touch",
            _share([t > 0 for row in one for c, t in zip(row["counts"], row["touching"],
                                                          strict=True) if c > 1]), 0.04, 0.10),
        Row(7, "annotated slices", float(len(counts)), 452, 452),
    ]  # fmt: skip


def item_8(one: list[dict], pixels: list[dict], four: list[dict]) -> list[Row]:
    """How hard are the tumours to see?"""
    rows = []
    for title, cnr in (("drawn", _pooled(one, "cnr")), ("measured", _pooled(pixels, "cnr"))):
        rows += [
            Row(8, f"set 1 CNR {title}: median", float(np.median(cnr)), 1.8, 2.5),
            Row(8, f"set 1 CNR {title}: share below 1", float((cnr < 1).mean()), 0.05, 0.15),
        ]
    rows += [
        Row(8, f"set 2 CNR drawn, {phase}: median", _median([r["cnr"][phase] for r in four]),
            wanted - 0.4, wanted + 0.4)
        for phase, wanted in (("arterial", 2.4), ("portal", 1.4), ("delayed", 2.2))
    ]  # fmt: skip
    for diameter, band in (("10 mm", (0.5, 1.0)), ("5 mm", (0.0, 0.5))):
        hits = [hit for row in pixels for hit in row["found"][diameter]]
        rows.append(Row(8, f"matched filter finds {diameter}, -35 HU", _share(hits), *band))
    truths = [row["truth"] for row in pixels]
    precisions = [
        float(average_precision([row["blobs"][k] for row in pixels], truths, thresholds=(0.5,))[0])
        for k in range(len(detectors.SETTINGS))
    ]
    best = float(max(precisions))
    return [*rows, Row(8, "AP50 of threshold and blobs, best setting, liver given", best, 0, 0.5)]


def item_9(one: list[dict], four: list[dict]) -> list[Row]:
    """Where do tumours lie?"""
    rows = []
    for title, found in (("set 1", one), ("set 2", four)):
        segments = _pooled(found, "segment")
        touching = _pooled(found, "beyond_mm") > -0.5
        rows += [
            Row(9, f"{title}: tumours in the right lobe (V-VIII), share",
                float((segments >= 5).mean()), 0.70, 0.76),
            Row(9, f"{title}: tumours in segment VIII, share",
                float((segments == 8).mean()), 0.22, 0.32),
            Row(9, f"{title}: tumours in the caudate (I), share", float((segments == 1).mean())),
            Row(9, f"{title}: tumours that touch the surface, share", float(touching.mean()),
                0.10, 0.20 if title == "set 1" else INF),
        ]  # fmt: skip
    return rows


def item_10(one: list[dict], four: list[dict]) -> list[Row]:
    """How round are tumours?"""
    sizes, round_ = np.array(
        [pair for row in (*one, *four) for pair in row["circularity"]], float
    ).T
    known = np.isfinite(round_)
    small, large = round_[known & (sizes < 20)], round_[known & (sizes > 50)]
    middle = round_[known & (sizes >= 20) & (sizes <= 50)]
    rows = [
        Row(10, "circularity below 2 cm, median", _median(small), 0.90, 0.98),
        Row(10, "circularity 2 to 5 cm, median", _median(middle)),
        Row(10, "circularity above 5 cm, median", _median(large), 0.70, 0.90, 0.79),
    ]
    for title, found in (("set 1", one), ("set 2", four)):
        aspects = _pooled(found, "aspects")
        aspects = aspects[np.isfinite(aspects)]
        rows += [
            Row(10, f"{title}: box aspect, median", float(np.median(aspects)), 1.0, 1.3),
            Row(10, f"{title}: box aspect, 95th percentile", float(np.quantile(aspects, 0.95)),
                1.0, 1.6),
        ]  # fmt: skip
    return rows


def item_11(facts: list[dict], bodies: list[dict]) -> list[Row]:
    """Vessels."""
    residual = _pooled(facts, "residual")
    return [
        Row(11, "Murray residual, 99th percentile", float(np.quantile(residual, 0.99))
            if len(residual) else math.nan, 0, 0.001),
        Row(11, "sections of veins over 2 mm in the middle slice, median",
            _median([b["sections"] for b in bodies]), 25, 60),
        Row(11, "the same in the slice with most liver",
            _median([b["widest_sections"] for b in bodies])),
        Row(11, "length of veins outside of liver, hilum and cava, share",
            _share([f["outside_share"] for f in facts]), 0, 0.01),
        Row(11, "vein pixels inside of tumours, share",
            _share([f["in_lesion_share"] for f in facts if np.isfinite(f["in_lesion_share"])]),
            0, 0.005),
    ]  # fmt: skip


def item_12(bodies: list[dict], real: dict) -> list[Row]:
    """Anatomy."""

    def each(key: str) -> np.ndarray:
        return np.array([b[key] for b in bodies], float)

    overlaps = {
        name: max(b["overlap_ml"][name] for b in bodies) for name in bodies[0]["overlap_ml"]
    }
    worst = max(overlaps, key=overlaps.get)
    return [
        Row(12, "liver volume: mean, mL", float(each("volume_ml").mean()), 1200, 1400),
        Row(12, "liver volume: SD, mL", float(each("volume_ml").std()), 150, 290),
        Row(12, "liver, middle slice: median, cm2", _median(each("mid_cm2")), 130, 190,
            real.get("liver_cm2", math.nan)),
        Row(12, "body front to back over left to right, median", _median(each("ap_over_lr")),
            0.70, 0.80, real.get("ap_over_lr", math.nan)),
        Row(12, "body left to right, mean, mm", float(each("lr_mm").mean()), -INF, INF,
            real.get("lr_mm", math.nan)),
        Row(12, "aorta, median, mm", _median(each("aorta_mm")), 17, 26,
            real.get("aorta_mm", math.nan)),
        Row(12, "aorta left of the canal, share",
            _share(each("aorta_left_mm") > 0), 1, 1),
        Row(12, "aorta before the vertebra, share",
            _share(each("aorta_before_vertebra_mm") > 10), 1, 1),
        Row(12, "cava right of the canal, median, mm", _median(each("cava_right_mm")), 25, 35),
        Row(12, "spleen left and at the back, share",
            _share([b["spleen"][0] > 0 and b["spleen"][1] > 0 for b in bodies
                    if np.isfinite(b["spleen"][0])]), 0.95, 1),
        Row(12, "liver on the image's left, share",
            _share([b["liver"][0] < 0 for b in bodies]), 1, 1),
        Row(12, f"overlap of liver with another organ, worst ({worst}), mL",
            float(overlaps[worst]), 0, 1),
    ]  # fmt: skip


def item_13(seed: int, patients: int, ladder: pathlib.Path) -> list[Row]:
    """Breathing between the phases, and what registration leaves of it."""
    found = breathing.measure(seed, patients, 1)
    dice: dict[str, float] = {}
    if ladder.exists():
        rows = json.loads(ladder.read_text())["rows"]
        dice = {row["method"]: row["dice"] for row in rows if row.get("dice") is not None}
    step = {
        name: dice.get(name, math.nan) - dice.get("none", math.nan) for name in ("rigid", "affine")
    }
    return [
        Row(13, "Dice of the liver, unregistered (paper 2: .900)", found["dice_mean"], 0.89, 0.91),
        Row(13, "Dice, 10th percentile", found["dice_10th_percentile"], 0.78, 0.85),
        Row(13, "Dice gained by rigid registration", step["rigid"], 0.003, 0.016),
        Row(13, "Dice gained by affine registration", step["affine"], 0.005, 0.02),
        Row(13, "Dice after non-rigid registration", dice.get("nonrigid", math.nan), 0.95, 0.965),
        Row(13, "shift of box centres, median, mm", found["box_shift_median_mm"], 5, 7),
        Row(13, "box centres that shift by over 10 mm, share", found["box_shift_over_10_mm"],
            0.05, 0.15),
    ]  # fmt: skip


def item_14(rows: list[dict]) -> list[Row]:
    """Can a slice's numbers tell whether a tumour is in it?"""
    truth = np.array([row["lesion"] for row in rows])
    patients = np.array([row["patient"] for row in rows])
    columns = {
        "mean and SD of the slice": ("mean", "sd"),
        "mean, SD, grain of soft tissue": ("soft_mean", "soft_sd", "grain"),
        "spectrum": ("bands",),
        "parity of slice, patient, seed": ("parity",),
        "all together": ("mean", "sd", "soft_mean", "soft_sd", "grain", "bands", "parity"),
        "height of the slice (a detector does not see it)": ("height",),
    }
    middle = np.mean([row["z"] for row in rows])
    rows = [row | {"height": (row["z"], abs(row["z"] - middle))} for row in rows]
    found = []
    for name, keys in columns.items():
        features = np.array([np.hstack([row[k] for k in keys]) for row in rows], float)
        value = detectors.probe(features, truth, patients)
        told = name.startswith("height")
        found.append(Row(14, f"AUC of {name}", value, 0 if not told else -INF,
                         0.6 if not told else INF))  # fmt: skip
    return found
