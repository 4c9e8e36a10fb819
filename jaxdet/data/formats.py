"""The truth of one image, and which of its boxes can be believed: what COCO, YOLO and VOC share.

    file -> rows in the unit of the format -> xyxy px -> sound() -> Truth

Each format has its own file (formats_coco, formats_yolo, formats_voc) that reads and writes Truth.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

Faulty = Literal[
    "error", "clip", "drop"
]  # what to do with a faulty box: `faulty_boxes` of config.Data

# Decimals are rounded in files (COCO keeps two, YOLO often six of a fraction), so a box may lie
# beyond the edge by that much. It is moved to the edge and is no fault.
_EDGE_PX, _EDGE_FRACTION = 0.011, 2e-6


@dataclasses.dataclass(frozen=True)
class Truth:
    """The annotation of one image. M may be 0: an image without a box is background."""

    file: str  # of the image, as the format names it
    height: int  # px, as the annotation says
    width: int
    boxes_xyxy: Float[np.ndarray, "M 4"]  # float32 px
    labels: Int[np.ndarray, "M"]  # index into the class names
    crowd: Bool[np.ndarray, "M"]  # neither wanted nor wrong: COCO iscrowd, VOC difficult
    area: Float[np.ndarray, "M"]  # px^2: COCO's (of the outline), else of the box
    faults: tuple[str, ...] = ()  # kind of every box that was dropped or clipped
    diameters_mm: Float[np.ndarray, "M"] | None = None  # the longest; NaN, None: not told
    pixel_mm: tuple[float, float] | None = None  # x, y; None: not told
    phase: str = ""  # of CT, on which the lesions were drawn; "": not told


@dataclasses.dataclass(frozen=True)
class Row:
    """One box as its file says it, in xyxy px."""

    box_xyxy: tuple[float, float, float, float]
    label: int
    where: str  # the file and line, or the file and object: what an error says
    crowd: bool = False
    area: float | None = None  # None: of the box
    diameter_mm: float | None = None  # of the lesion; None: not told


def sound(
    file: str, height: int, width: int, rows: Sequence[Row], faulty: Faulty = "error"
) -> Truth:
    """The Truth of an image from the rows of its file: every box inside, with an area.

    A fault is one of "inverted", "degenerate" (no width or no height), "outside" and "partly
    outside". "error" raises at the first; "clip" cuts those partly outside at the edge and drops
    the others; "drop" drops them all. Each is named in `faults`. Diameters follow their boxes, and
    one whose box is cut stays. A number of a box that is not finite is always a ValueError.
    """
    kept, faults = [], []
    for row in rows:
        box, fault = _judged(row, height, width)
        if fault and faulty == "error":
            corners = ", ".join(f"{v:g}" for v in row.box_xyxy)
            raise ValueError(
                f"{row.where}: the box [{corners}] (x0, y0, x1, y1 px) is {fault} in an image of"
                f' {width} x {height}; data.faulty_boxes="clip" or "drop" goes on without it'
            )
        if fault:
            faults.append(fault)
        if not fault or (fault == "partly outside" and faulty == "clip"):
            side = (box[2] - box[0]) * (box[3] - box[1])
            area = side if row.area is None else row.area
            kept.append((box, row.label, row.crowd, area, row.diameter_mm))
    boxes, labels, crowd, area, told = zip(*kept, strict=True) if kept else ((),) * 5
    return Truth(
        file=file,
        height=height,
        width=width,
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int32),
        crowd=np.array(crowd, bool),
        area=np.array(area, np.float32),
        faults=tuple(faults),
        # None becomes NaN
        diameters_mm=np.array(told, np.float32) if set(told) - {None} else None,
    )


def _judged(row: Row, height: int, width: int) -> tuple[tuple[float, ...], str]:
    """The box cut at the edges of the image, and its fault or "" where it has none."""
    x0, y0, x1, y1 = row.box_xyxy
    if not np.isfinite(row.box_xyxy).all():
        raise ValueError(f"{row.where}: a box with NaN or infinity: {row.box_xyxy}")
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    beyond = max(abs(a - b) for a, b in zip(inside, row.box_xyxy, strict=True))
    if x1 < x0 or y1 < y0:
        return inside, "inverted"
    # In float32, as it will be kept: a width that is lost there is no width.
    if np.float32(x1) <= np.float32(x0) or np.float32(y1) <= np.float32(y0):
        return inside, "degenerate"
    if np.float32(inside[2]) <= np.float32(inside[0]):
        return inside, "outside"
    if np.float32(inside[3]) <= np.float32(inside[1]):
        return inside, "outside"
    small = beyond <= _EDGE_PX + _EDGE_FRACTION * max(height, width)
    return inside, "" if small else "partly outside"


def number(text: str | None, where: str, what: str) -> float:
    """A finite number out of a text file, or a ValueError that says where."""
    try:
        value = float(text or "")
    except ValueError:
        raise ValueError(f"{where}: {what} is {text!r}, no number") from None
    if not np.isfinite(value):
        raise ValueError(f"{where}: {what} is {text!r}, no finite number")
    return value


def read_text(path: pathlib.Path) -> str:
    """A text file in UTF-8, with or without a byte order mark; anything else is a ValueError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text ({error.reason})") from None


def different(found: Sequence[str]) -> tuple[str, ...]:
    """The class names as a tuple; an empty list or a name that comes twice is a ValueError."""
    twice = sorted({name for name in found if list(found).count(name) > 1})
    if twice or not found:
        raise ValueError(f"class names come twice: {twice}" if twice else "there is no class name")
    return tuple(found)
