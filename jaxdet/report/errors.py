"""What models get wrong, for people: counts side by side, and pictures of single errors."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from jaxdet.metrics.audit import DETECTIONS, KINDS, TRUTHS, Error, summed
from jaxdet.metrics.rows import Found, Truth, read
from jaxdet.report import figures, tables
from jaxdet.report.figures import LINE_PX, TEXT

SIDE_PX = 360  # of a tile
HIGH_PX, WIDE_PX = SIDE_PX - 2 * LINE_PX, SIDE_PX - 4  # below its title, with a gap to the next
LEAST_CROP_PX = 64  # of the image: a small lesion is shown with what surrounds it
FAR_PX = 10_000  # a box that ends farther outside looks the same
OTHER_RGB = (130, 130, 130)  # true boxes that have no part in the error
LEGEND = ("white: truth, grey: other truth", "coloured: detection, its score from green to red")


def audit_table(audits: Mapping[str, Mapping[str, Any]]) -> str:
    """Verdicts of truths, then of detections: a row a model, counts and their share of all.

    audits: of each model what `audit.to_json` or `audit.summed` gives. A share of nothing is "-".
    Without tabs; the first line says under which protocol and overlaps. ValueError without a model,
    or where they were audited under several.
    """
    one = summed(list(audits.values()))
    lines = [
        f"verdicts, protocol {one['protocol']}, IoU {one['threshold']:g}, mislocated from IoU"
        f" {one['least']:g}"
    ]
    for what, kinds in (("truths", TRUTHS), ("detections", DETECTIONS)):
        cells = [(name, _scores(a), *_shares(a[what], kinds)) for name, a in audits.items()]
        lines += tables.aligned([(what, "score", "all", *kinds), *cells])
    return "\n".join(lines)


def contact_sheet(
    errors: Iterable[Error],
    image: Callable[[int], Shaped[np.ndarray, "H W C"]],
    detections: Iterable[Any],
    truths: Iterable[Any],
    names: Sequence[str],
    path: str | Path,
    *,
    each: int = 6,
) -> None:
    """Write crops around errors as a PNG: a row a kind, the worst first, up to `each` of them.

    errors: of an audit of the same `detections` and `truths`. image: the one at a position, as
    `figures.overlay` takes it and in the px of the boxes; it is asked for those shown only.
    names: one an image.

    Worst are the surest detections and the largest missed truths. Where scores would lie on each
    other some are left out. Without errors the picture says so. ValueError for fewer names than
    images, or `each` below 1.
    """
    dets, true, images = read(detections, truths)
    if len(names) < images or each < 1:
        raise ValueError(f"a sheet wants {images} names, 1 a row or more; got {len(names)}, {each}")
    rows = _worst(errors, dets, true, each)
    columns = max(map(len, rows), default=1)
    tiles = []
    for row in rows:
        for case in row:
            error = case.error
            others = true.boxes_xyxy[true.image == error.image]
            picture = _picture(figures.show(image(error.image)), case, others)
            told = f"{error.kind} {case.place}, IoU {error.overlap:.2f}", names[error.image]
            tiles.append(np.concatenate([figures.lines(told, SIDE_PX), picture]))
        tiles += [np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)] * (columns - len(row))
    sheet = figures.contact_sheet(
        tiles or [_centred(figures.lines(["no errors"], SIDE_PX))], columns, SIDE_PX
    )
    sheet = np.concatenate([sheet, figures.lines(LEGEND, sheet.shape[1])])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())


def _scores(audit: Mapping[str, Any]) -> str:
    low, high = min(audit["score_thresholds"]), max(audit["score_thresholds"])
    return f"{low:.3f}" if low == high else f"{low:.3f}-{high:.3f}"


def _shares(counts: Mapping[str, int], kinds: Sequence[str]) -> list[str]:
    total = counts["all"]
    share = [f"{100 * counts[kind] / total:.1f}%" if total else "-" for kind in kinds]
    return [str(total), *(f"{counts[k]} ({s})" for k, s in zip(kinds, share, strict=True))]


class _Case(NamedTuple):
    """An error with its boxes, px of the image."""

    error: Error
    place: str  # such as "1 of 12" of its kind
    boxes_xyxy: Float[np.ndarray, "D 4"]
    scores: Float[np.ndarray, "D"]
    truths_xyxy: Float[np.ndarray, "M 4"]


def _worst(errors: Iterable[Error], dets: Found, true: Truth, each: int) -> list[list[_Case]]:
    """A list a kind that there is, of its worst errors."""
    by_kind: dict[str, list[Error]] = {kind: [] for kind in KINDS}
    for error in errors:
        by_kind[error.kind].append(error)
    det_at, truth_at = _rows(dets), _rows(true)

    def badness(error: Error) -> float:
        if error.detections:
            return dets.scores[det_at[error.image, error.detections[0]]]
        return true.area[truth_at[error.image, error.truths[0]]]

    def case(error: Error, place: str) -> _Case:
        found = [det_at[error.image, row] for row in error.detections]
        truths = [truth_at[error.image, row] for row in error.truths]
        boxes = dets.boxes_xyxy[found], dets.scores[found], true.boxes_xyxy[truths]
        return _Case(error, place, *boxes)

    ranked = [sorted(mine, key=badness, reverse=True) for mine in by_kind.values() if mine]
    return [
        [case(error, f"{i + 1} of {len(mine)}") for i, error in enumerate(mine[:each])]
        for mine in ranked
    ]


def _rows(table: Found | Truth) -> dict[tuple[int, int], int]:
    """Rows of the table by image and the row as given."""
    keys = zip(table.image.tolist(), table.row.tolist(), strict=True)
    return {key: row for row, key in enumerate(keys)}


def _picture(
    image: UInt8[np.ndarray, "H W 3"], case: _Case, others_xyxy: Float[np.ndarray, "N 4"]
) -> UInt8[np.ndarray, "Y X 3"]:
    """The surroundings of the error, enlarged, with its boxes."""
    involved = np.concatenate([case.boxes_xyxy, case.truths_xyxy])
    x0, y0, x1, y1 = _window(involved, *image.shape[:2])
    zoom = min(WIDE_PX / (x1 - x0), HIGH_PX / (y1 - y0))
    how = cv2.INTER_LINEAR if zoom > 1 else cv2.INTER_AREA
    size = max(1, round((x1 - x0) * zoom)), max(1, round((y1 - y0) * zoom))
    shown = cv2.resize(image[y0:y1, x0:x1], size, interpolation=how)

    def at(boxes_xyxy: np.ndarray) -> list[list[int]]:
        placed = np.rint((boxes_xyxy - [x0, y0, x0, y0]) * zoom)
        return np.clip(placed, -FAR_PX, FAR_PX).astype(int).tolist()

    for boxes, colour, thick in (
        (others_xyxy, OTHER_RGB, 2),
        (case.truths_xyxy, figures.TRUTH_RGB, 4),  # seen on both sides of a detection's line
    ):
        for box in at(boxes):
            _rectangle(shown, box, colour, thick)
    boxes, colours = at(case.boxes_xyxy), [figures.score_rgb(float(s)) for s in case.scores]
    for box, colour in zip(boxes, colours, strict=True):
        _rectangle(shown, box, colour, 2)
    taken: list[tuple[int, int, int, int]] = []
    for i, (box, score, colour) in enumerate(zip(boxes, case.scores, colours, strict=True)):
        right = " right" if case.error.kind == "duplicate" and i == 1 else ""
        taken.append(_label(shown, box, f"{score:.2f}{right}", colour, taken))
    return _centred(shown)


def _window(
    boxes_xyxy: Float[np.ndarray, "N 4"], high: int, wide: int
) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 in the image, twice as long as what the boxes fill, of the tile's shape."""
    low, end = boxes_xyxy[:, :2].min(axis=0), boxes_xyxy[:, 2:].max(axis=0)
    shape = np.array([WIDE_PX, HIGH_PX])
    size = shape * (np.maximum(2 * (end - low), LEAST_CROP_PX) / shape).max()
    size = np.minimum(np.ceil(size), [wide, high])
    corner = np.clip(np.floor((low + end - size) / 2), 0, [wide, high] - size)
    x0, y0, x1, y1 = np.concatenate([corner, corner + size]).astype(int).tolist()
    return x0, y0, x1, y1


def _centred(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "Y X 3"]:
    """On the black of a tile below its title."""
    tile = np.zeros((HIGH_PX, SIDE_PX, 3), np.uint8)
    high, wide = picture.shape[:2]
    y, x = (tile.shape[0] - high) // 2, (tile.shape[1] - wide) // 2
    tile[y : y + high, x : x + wide] = picture
    return tile


def _rectangle(image: np.ndarray, box: Sequence[int], colour: tuple, thick: int) -> None:
    x0, y0, x1, y1 = box  # x1 and y1 are exclusive
    cv2.rectangle(image, (x0, y0), (max(x0, x1 - 1), max(y0, y1 - 1)), colour, thick)


def _label(
    image: np.ndarray,
    box: Sequence[int],
    text: str,
    colour: tuple,
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Writes at the first corner of the box with room for it; where it lies, or four zeros."""
    (wide, tall), base = cv2.getTextSize(text, figures.FONT, TEXT, 1)
    wide, tall = wide + 4, tall + base + 2
    x0, y0 = max(box[0], 0), max(box[1], 0)
    x1, y1 = min(box[2], image.shape[1]), min(box[3], image.shape[0])
    for y in (y0 - tall, y1, y0, y1 - tall):
        for x in (x0, x1 - wide):
            here = x, y, x + wide, y + tall
            inside = min(x, y) >= 0 and here[2] <= image.shape[1] and here[3] <= image.shape[0]
            if inside and not any(_meet(here, other) for other in taken):
                cv2.rectangle(image, here[:2], (here[2] - 1, here[3] - 1), colour, cv2.FILLED)
                at = x + 2, y + tall - base
                cv2.putText(image, text, at, figures.FONT, TEXT, (0, 0, 0), 1, cv2.LINE_AA)
                return here
    return 0, 0, 0, 0


def _meet(a: Sequence[int], b: Sequence[int]) -> bool:
    return all(max(a[i], b[i]) < min(a[i + 2], b[i + 2]) for i in (0, 1))
