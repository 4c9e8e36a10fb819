"""Detections as files: COCO results, overlay pictures and one sheet of the best slices.

    OUT/detections.json      COCO results; for CT also slice, position_mm and size_mm
    OUT/images.json          COCO images and categories of the results, and the frame of the mm
    OUT/overlays/*.png       every slice with its boxes
    OUT/contact_sheet.png    the best slices

Names of files and folders are all that is written of where a picture came from.
"""

import heapq
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from jaxdet import run
from jaxdet.data import volume as ct
from jaxdet.predict.inputs import Slice
from jaxdet.report import figures
from jaxdet.types import Detections

FRAME = (
    "bbox is [x, y, width, height] in pixels of the image, from the outer edge of its first pixel. "
    "For CT x runs to the patient's left, y to the back and slices from the feet (slice 0) to the "
    "head; a volume whose file has another order was turned. position_mm is the centre of the box "
    "in the patient's frame (LPS, as in DICOM); size_mm is width and height in the slice"
)
SHEET_TILES, SHEET_COLUMNS = 16, 4


def write(
    out: str | os.PathLike,
    found: Iterable[tuple[Slice, Detections]],
    class_names: Sequence[str],
    score_threshold: float = 0.25,
) -> dict[str, int]:
    """Writes what was found, slice by slice, and counts `images`, `detections` and `full`.

    `full` are images with as many detections as fit: of these some may have been left out.

    `Detections` are those of one slice, in pixels of `Slice.image`, without a batch axis; padding
    (label -1) and scores below the threshold are left out. Ids of images and categories start at 1.
    Each file is whole or absent. ValueError without any slice, and for a label that has no name or
    a box with NaN.
    """
    out = pathlib.Path(out)
    (out / "overlays").mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    listed: list[dict[str, Any]] = []
    best: list[tuple[float, int, np.ndarray]] = []
    taken: set[str] = set()
    full = 0
    for image_id, (piece, raw) in enumerate(found, start=1):
        kept = _keep(piece, raw, class_names, score_threshold)
        full += bool((raw.labels >= 0).all())
        rows = _results(image_id, piece, kept, class_names)
        picture = _free_name(_picture_name(piece), taken)
        listed.append(_image(image_id, piece, picture))
        results += rows
        drawn = figures.overlay(_for_show(piece), *kept, class_names)
        write_png(out / "overlays" / picture, drawn)
        # The sheet keeps few tiles, small, so that a series of any length fits in memory.
        tile = figures.captioned(figures.contact_sheet([drawn], 1), picture.removesuffix(".png"))
        entry = (max((r["score"] for r in rows), default=0.0), -image_id, tile)
        (heapq.heappushpop if len(best) == SHEET_TILES else heapq.heappush)(best, entry)
    if not listed:
        raise ValueError(f"nothing to write to {out}: there was no slice to predict on")
    tiles = [tile for _, _, tile in sorted(best, key=lambda entry: (-entry[0], -entry[1]))]
    write_png(out / "contact_sheet.png", figures.contact_sheet(tiles, SHEET_COLUMNS))
    names = [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)]
    about = {"info": {"frame": FRAME}, "images": listed, "categories": names}
    run.write_json(out / "images.json", about)
    run.write_json(out / "detections.json", results)
    return {"images": len(listed), "detections": len(results), "full": full}


def write_png(path: pathlib.Path, image: np.ndarray) -> None:
    """An 8-bit RGB picture as PNG, whole or not at all."""
    good, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not good:
        raise ValueError(f"{path}: OpenCV could not make a PNG of {image.shape} {image.dtype}")
    _write_atomically(path, data.tobytes())


def safe_name(name: str) -> str:
    """A file name of letters, digits, dots, dashes and underscores alone, without folders."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:100] or "image"


def _keep(
    piece: Slice, raw: Detections, class_names: Sequence[str], score_threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores and labels that count, the best first; ties stay in order."""
    boxes, scores, labels = (np.asarray(part) for part in raw)
    if boxes.ndim != 2:
        raise ValueError(f"wanted the Detections of one slice, boxes [D, 4]; got {boxes.shape}")
    chosen = (labels >= 0) & (scores >= score_threshold)
    boxes, scores, labels = boxes[chosen], scores[chosen], labels[chosen]
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(
            f"{piece.name}: a detection has NaN or infinite numbers; check the weights"
        )
    if len(labels) and labels.max() >= len(class_names):
        raise ValueError(
            f"{piece.name}: label {labels.max()} has no name among {len(class_names)} classes"
        )
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order], labels[order]


def _results(
    image_id: int,
    piece: Slice,
    kept: tuple[np.ndarray, np.ndarray, np.ndarray],
    class_names: Sequence[str],
) -> list[dict[str, Any]]:
    rows = []
    for box, score, label in zip(*kept, strict=True):
        x0, y0, x1, y1 = (float(v) for v in box)
        row = {
            "image_id": image_id,
            "file_name": piece.name,
            "category_id": int(label) + 1,
            "category_name": class_names[label],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": float(score),
        }
        if piece.z is not None:
            row["slice"] = piece.z
        if piece.volume is not None and piece.z is not None:
            place = ct.box_to_mm(piece.volume, piece.z, box)
            row |= {"position_mm": place["center_mm"], "size_mm": place["size_mm"]}
        rows.append(row)
    return rows


def _image(image_id: int, piece: Slice, picture: str) -> dict[str, Any]:
    height, width = piece.image.shape[:2]
    row = {"id": image_id, "file_name": piece.name, "width": width, "height": height}
    return row | ({} if piece.z is None else {"slice": piece.z}) | {"overlay": picture}


def _for_show(piece: Slice) -> np.ndarray:
    # Three neighbouring slices are no colours.
    middle = piece.image.shape[2] // 2 if piece.shown is None else piece.shown
    return piece.image if piece.z is None else piece.image[..., middle : middle + 1]


def _picture_name(piece: Slice) -> str:
    ending = r"\.[A-Za-z0-9]{1,4}$" if piece.volume is None else r"\.nii(\.gz)?$"
    name = safe_name(re.sub(ending, "", piece.name, flags=re.IGNORECASE))
    return name + ("" if piece.z is None else f"_z{piece.z:03d}") + ".png"


def _free_name(name: str, taken: set[str]) -> str:
    """The name, or name_2, name_3 and so on; upper and lower case are one on some discs."""
    stem, number = name.removesuffix(".png"), 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}_{number}.png"
    taken.add(name.lower())
    return name


def _write_atomically(path: pathlib.Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
