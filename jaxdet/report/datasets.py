"""Prepared sets for people: a table, a contact sheet, and the figures of paper 2."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from jaxdet.data import images, slices
from jaxdet.data.registration import dice
from jaxdet.report import figures
from jaxdet.types import CtSlice

WINDOWS_HU = {1: slices.WINDOW_PCA_YOLO, 4: slices.WINDOW_GSSD}  # by the number of phases
LIVER_RGB, LESION_RGB, BOX_RGB = (90, 200, 120), (255, 190, 60), (255, 255, 255)
SPREADS = {
    "box_mm": "longer side of a box, mm",
    "diameter_mm": "longest diameter in a slice, mm",
    "largest_diameter_mm": "longest diameter of a patient, mm",
    "misaligned_mm": "how far the phases lie apart at a lesion, mm",
}


def table(found: Mapping[str, Any]) -> str:
    """The text of `data.inspection.inspect`."""
    lines = [f"{found['name']} in {found['folder']}"]
    for split, counts in {**found["splits"], "all": found["whole"]}.items():
        lines.append(
            f"  {split:8} {counts['slices']:6} slices  {counts['patients']:5} patients  "
            f"{counts['boxes']:6} boxes"
        )
    lines.append(f"  classes   {', '.join(found['classes'])}")
    lines.append(f"  phases    {', '.join(found['phases'])}, {found['neighbours']} slices of each")
    lines.append(f"  pixels    {', '.join(found['size_px'])}")
    for axis, spread in found["spacing_mm"].items():
        told = f"{_spread(spread)} mm" if spread else "not known"
        lines.append(f"  spacing {axis} {told}")
    per_slice = ", ".join(f"{n}: {count}" for n, count in found["boxes_per_slice"].items())
    touching = "not known" if found["touching"] is None else found["touching"]
    lines.append(f"  boxes in a slice  {per_slice}; lesions that touch another: {touching}")
    for key, text in SPREADS.items():
        if found[key]:
            lines.append(f"  {text}: {_spread(found[key])}")
    drawn = ", ".join(f"{phase} {n}" for phase, n in found["annotated_patients"].items())
    lines.append(f"  patients by annotated phase: {drawn}")
    for phase, spread in found["liver_hu"].items():
        lines.append(f"  liver {phase} HU ({found['sampled']} slices): {_spread(spread)}")
    if found["liver_dice"]:
        told = found["liver_dice"]
        lines.append(f"  liver Dice with portal: {told['mean']:.4f} over {told['pairs']} pairs")
    faults = ", ".join(f"{n} {kind}" for kind, n in found["faults"].items()) or "none"
    return "\n".join([*lines, f"  faults    {faults}"])


def contact_sheet(cases: Sequence[CtSlice], side: int = 320) -> UInt8[np.ndarray, "Y X 3"]:
    """One tile a phase and slice: the window of the papers, liver and lesion outlines, boxes."""
    tiles = [tile for case in cases for tile in phases(case)]
    columns = len(cases[0].phases) if len(cases[0].phases) > 1 else 4
    return figures.contact_sheet(tiles, columns, side)


def phases(case: CtSlice, liver: str = "own", note: str = "") -> list[UInt8[np.ndarray, "H W 3"]]:
    """The central slice of every phase with lesion outline and box as they were annotated.

    `liver` outlines the liver of the phase itself, or with "portal" that of the portal phase, so
    that what does not lie on it is seen. `note` comes before the name in the first caption.
    """
    depth = case.hu.shape[2] // len(case.phases)
    return [
        _tile(case, i * depth + depth // 2, phase, _outlined(case, i, liver), note * (i == 0))
        for i, phase in enumerate(case.phases)
    ]


def alignment(cases: Sequence[CtSlice]) -> UInt8[np.ndarray, "Y X 3"]:
    """As Fig. 1 of paper 2: four phases a row, one outline and box in all; best row aligned first.

    Of the cases three are shown: the best, the median and the worst by the Dice of their livers.
    """
    ranked = sorted((case for case in cases if _agreement(case) > 0), key=_agreement, reverse=True)
    if not ranked:
        raise ValueError("the figure wants slices of several phases with liver masks; got none")
    rows = [ranked[0], ranked[len(ranked) // 2], ranked[-1]]
    tiles = []
    for case in rows:
        tiles += phases(case)
    return figures.contact_sheet(tiles, len(rows[0].phases))


def before_and_after(
    pairs: Sequence[tuple[CtSlice, CtSlice]],
) -> UInt8[np.ndarray, "Y X 3"]:
    """As Fig. S1 of paper 2: a row before registration, the row under it after.

    The liver of the portal phase is outlined in all phases. Of the pairs three are shown: the
    worst before registration, one from the worse and one from the better half.
    """
    ranked = sorted((pair for pair in pairs if _agreement(pair[0]) > 0), key=_first_agreement)
    if not ranked:
        raise ValueError("the figure wants the same slices before and after, with liver masks")
    tiles = []
    for before, after in [ranked[0], ranked[len(ranked) // 4], ranked[3 * len(ranked) // 4]]:
        for case, word in ((before, "before"), (after, "after")):
            note = f"{word}, Dice {_agreement(case):.3f}: "
            tiles += phases(case, liver="portal", note=note)
    return figures.contact_sheet(tiles, len(ranked[0][0].phases))


def _first_agreement(pair: tuple[CtSlice, CtSlice]) -> float:
    return _agreement(pair[0])


def _agreement(case: CtSlice) -> float:
    if case.livers is None or len(case.phases) < 2:
        return 0.0
    values = np.array(list(dice.mismatch(case.livers, case.phases).values()))
    mean = dice.average(values).mean
    return mean if np.isfinite(mean) else 0.0


def _outlined(case: CtSlice, i: int, liver: str) -> Bool[np.ndarray, "H W"] | None:
    if case.livers is None:
        return None
    at = case.phases.index("portal") if liver == "portal" else i
    return case.livers[..., at]


def _tile(
    case: CtSlice, channel: int, phase: str, liver: np.ndarray | None, note: str = ""
) -> UInt8[np.ndarray, "H W 3"]:
    window = WINDOWS_HU[4 if len(case.phases) > 1 else 1]
    grey = images.to_range(case.hu[..., channel : channel + 1], window, case.name)
    zoom = max(1, -(-figures.LEAST_SIDE_PX // min(grey.shape[:2])))
    tile = cv2.resize(figures.show(grey), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    for mask, colour in ((liver, LIVER_RGB), (case.lesions, LESION_RGB)):
        if mask is not None:
            _outline(tile, mask, zoom, colour)
    for x0, y0, x1, y1 in (case.boxes_xyxy * zoom).astype(int).tolist():
        cv2.rectangle(tile, (x0 - 1, y0 - 1), (x1, y1), BOX_RGB, 1)
    mark = " *" if phase == case.annotated and len(case.phases) > 1 else ""
    text = f"{case.name} {phase}{mark}" if len(case.phases) > 1 else case.name
    return figures.captioned(tile, note + text)


def _outline(tile: np.ndarray, mask: np.ndarray, zoom: int, colour: tuple) -> None:
    large = np.kron((mask > 0).astype(np.uint8), np.ones((zoom, zoom), np.uint8))
    outlines, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(tile, outlines, -1, colour, 1)


def _spread(spread: Mapping[str, float | int]) -> str:
    if spread["p0"] == spread["p100"]:
        return f"{spread['p0']:.4g}"
    return (
        f"{spread['mean']:.4g} +- {spread['sd']:.3g} (least {spread['p0']:.4g}, median "
        f"{spread['p50']:.4g}, 95 % {spread['p95']:.4g}, most {spread['p100']:.4g})"
    )
