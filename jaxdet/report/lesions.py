"""What was shown to models and what they found: Figs. 1, 3 and 5 of paper 1 (PCA-YOLO).

    Fig. 1  examples      slices with their true boxes
    Fig. 3  detections    a row a slice, a column a model
    Fig. 5  by_size       small, medium and large lesions, a column a model

Fig. 4, what goes wrong, is `report.errors.contact_sheet`, a sheet a model; Fig. 6 is in
`report.attention`. Images are as `figures.overlay` takes them: of any number of channels but three
the middle one is shown, which of three copies of a slice and a map is the slice. Truth is white, a
detection has the colour of its score; all other words stand above the picture.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from jaxdet.metrics import facts, protocols
from jaxdet.metrics.audit import audit
from jaxdet.metrics.rows import Found, Truth, reaches, read
from jaxdet.report import figures
from jaxdet.types import Detections

HIT_IOU = 0.5
SIZES = ("small", "medium", "large")
SURROUNDINGS = 3  # a crop is so many times as long as its lesion
LEAST_CROP = 0.2  # of the image's shorter side
NO_DETECTION = np.zeros((0, 4)), np.zeros(0), np.zeros(0)
BLACK = np.zeros((1, 1, 3), np.uint8)

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in px of the image


def spread_by_size(sizes: Float[np.ndarray, "N"], n: int) -> Int[np.ndarray, "_"]:
    """Positions of `n` of the sizes from the smallest to the largest, at equal steps of rank.

    One alone is the middle one (the lower of two). NaN is no size; ties stay in order; all where
    there are fewer than `n`. ValueError where no size is known, or for `n` below 1.
    """
    order = np.argsort(sizes, kind="stable")[: np.isfinite(sizes).sum()]
    if n < 1 or not len(order):
        raise ValueError(
            f"a spread wants n of 1 or more and a size that is known; got n = {n} and"
            f" {len(order)} known sizes of {len(sizes)}"
        )
    if n == 1:
        return order[[(len(order) - 1) // 2]]
    return order[np.rint(np.linspace(0, len(order) - 1, min(n, len(order)))).astype(int)]


def examples(
    images: Sequence[Shaped[np.ndarray, "_ _ _"]],
    truths: Sequence[Any],
    names: Sequence[str],
    columns: int = 4,
) -> UInt8[np.ndarray, "Y X 3"]:
    """As Fig. 1: slices with their true boxes, whose sides in px stand above.

    truths: of each image (boxes_xyxy [M, 4], labels [M], and maybe crowd [M], area [M]); crowds and
    padding are not drawn. ValueError without images, or where the lists differ in length.
    """
    true = _read_truths(truths, len(images), names)
    tiles = []
    for i, image in enumerate(images):
        boxes = _boxes(true, i)
        sides = ", ".join(f"{w:.0f} x {h:.0f}" for w, h in boxes[:, 2:] - boxes[:, :2])
        told = f"{sides} px" if sides else "no lesion"
        tiles.append(figures.titled(_drawn(image, boxes), [names[i], told]))
    return figures.contact_sheet(tiles, columns, figures.TITLED_PX)


def detections(
    images: Sequence[Shaped[np.ndarray, "_ _ _"]],
    truths: Sequence[Any],
    found: Mapping[str, Detections],
    class_names: Sequence[str],
    names: Sequence[str],
    threshold: Mapping[str, float],
) -> UInt8[np.ndarray, "Y X 3"]:
    """As Fig. 3: a row a slice; its truth, then what each model found with its threshold or more.

    found: by model, the Detections [N, D, ...] of these images. Above a picture stands how many
    lesions are hit (IoU 0.5 or more, one detection a lesion) and how many detections hit none.
    Without a model the truth stands alone. ValueError as in `examples`, for a model without a
    threshold, and for other numbers of images.
    """
    true = _read_truths(truths, len(images), names)
    tables = _read_found(found, truths, threshold)
    tiles = []
    for i, image in enumerate(images):
        boxes = _boxes(true, i)
        tiles.append(figures.titled(_drawn(image, boxes), [names[i], f"lesions: {len(boxes)}"]))
        for model, table in tables.items():
            mine = _rows(table, table.image == i)
            shown = _drawn(image, boxes, mine, class_names)
            told = _model(model, threshold), _counts(mine, truths[i])
            tiles.append(figures.titled(shown, told))
    return _legend(figures.contact_sheet(tiles, 1 + len(tables), figures.TITLED_PX))


def by_size(
    image: Callable[[int], Shaped[np.ndarray, "H W C"]],
    truths: Sequence[Any],
    diameters_mm: Sequence[Float[np.ndarray, "_"]] | None,
    found: Mapping[str, Detections],
    class_names: Sequence[str],
    names: Sequence[str],
    threshold: Mapping[str, float],
    *,
    cuts_mm: tuple[float, float] = (10.0, 20.0),
    each: int = 1,
) -> UInt8[np.ndarray, "Y X 3"]:
    """As Fig. 5: crops around small, medium and large lesions; the truth, then a column a model.

    Lesions are small below cuts_mm[0], large from cuts_mm[1]; without a diameter they are passed
    over. Where no diameter is known (None, or all NaN) the sizes are the thirds of the set by the
    longer side of the box in px. Of each size `each` lesions are drawn, spread over it; one alone
    is the median. A size that the set lacks has a row that says so. Crowds are no lesions.

    image: the one at a position, asked for those shown only. A lesion is hit by a detection of its
    class with the threshold or more and an IoU of 0.5 or more; the largest IoU is told. ValueError
    without any lesion, for cuts that do not rise, and as in `detections`.
    """
    true = _read_truths(truths, len(truths), names)
    tables = _read_found(found, truths, threshold)
    tiles = []
    for told, lesion in _chosen(true, diameters_mm, cuts_mm, each):
        if lesion is None:
            tiles += [figures.titled(BLACK, [told]), *[figures.titled(BLACK)] * len(tables)]
            continue
        i = int(true.image[lesion])
        whole = image(i)
        window = _window(true.boxes_xyxy[lesion], *whole.shape[:2])
        crop = whole[window[1] : window[3], window[0] : window[2]]
        boxes = _placed(_boxes(true, i), window)
        tiles.append(figures.titled(_drawn(crop, boxes), [told, names[i]]))
        for model, table in tables.items():
            mine = _rows(table, table.image == i)
            near = _rows(mine, _meet(mine.boxes_xyxy, window))
            near = near._replace(boxes_xyxy=_placed(near.boxes_xyxy, window))
            shown = _drawn(crop, boxes, near, class_names)
            hit = _hit(mine, true.boxes_xyxy[lesion], int(true.labels[lesion]))
            tiles.append(figures.titled(shown, [_model(model, threshold), hit]))
    return _legend(figures.contact_sheet(tiles, 1 + len(tables), figures.TITLED_PX))


def _read_truths(truths: Sequence[Any], images: int, names: Sequence[str]) -> Truth:
    if not images or len(truths) != images or len(names) != images:
        raise ValueError(
            f"a picture wants 1 image or more, and truths and a name for each; got {images} images,"
            f" {len(truths)} truths and {len(names)} names"
        )
    _, true, _ = read([NO_DETECTION] * images, truths)
    return true


def _read_found(
    found: Mapping[str, Detections], truths: Sequence[Any], threshold: Mapping[str, float]
) -> dict[str, Found]:
    """The detections that count, by model."""
    without = [model for model in found if model not in threshold]
    if without:
        raise ValueError(
            f"threshold wants a score for each model; got none for {', '.join(without)}"
        )
    tables = {model: read(whole, truths)[0] for model, whole in found.items()}
    return {
        model: _rows(table, reaches(table.scores, threshold[model]))
        for model, table in tables.items()
    }


def _rows(table: Found, chosen: Bool[np.ndarray, "D"]) -> Found:
    return Found(*(column[chosen] for column in table))


def _boxes(true: Truth, image: int) -> Float[np.ndarray, "M 4"]:
    """The lesions of an image: crowds are none."""
    return true.boxes_xyxy[(true.image == image) & ~true.crowd]


def _drawn(
    image: Shaped[np.ndarray, "_ _ _"],
    truths_xyxy: Float[np.ndarray, "M 4"],
    found: Found | None = None,
    class_names: Sequence[str] = (),
) -> UInt8[np.ndarray, "_ _ 3"]:
    if found is None:
        boxes, scores, labels = np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)
        return figures.overlay(image, boxes, scores, labels, class_names, truths_xyxy)
    if len(found.labels) and found.labels.max() >= len(class_names):
        raise ValueError(f"label {found.labels.max()} has no name among {list(class_names)}")
    # Where there is one class its name says nothing, and long labels lie on other lesions.
    told = class_names if len(class_names) > 1 else ("",)
    return figures.overlay(image, found.boxes_xyxy, found.scores, found.labels, told, truths_xyxy)


def _model(name: str, threshold: Mapping[str, float]) -> str:
    return f"{name}, scores from {threshold[name]:.2f}"


def _counts(found: Found, truths: Any) -> str:
    """Lesions that are hit and detections that hit none; of one image."""
    one = audit(
        [(found.boxes_xyxy, found.scores, found.labels)],
        [truths],
        score_threshold=0.0,
        threshold=HIT_IOU,
        protocol="coco",
    )
    hit = one.detections["right"]
    wrong = sum(one.detections.values()) - hit - one.detections["ignored"]
    return f"hit: {hit} of {sum(one.truths.values())}, false: {wrong}"


def _hit(found: Found, box_xyxy: Float[np.ndarray, "4"], label: int) -> str:
    mine = _rows(found, found.labels == label)
    boxes = np.broadcast_to(box_xyxy, mine.boxes_xyxy.shape)
    ious = protocols.exact_overlap(mine.boxes_xyxy, boxes, np.zeros(len(boxes), bool), "iou")
    if not len(ious) or not ious.max() > 0:
        return "missed"
    best = int(ious.argmax())  # rows fall in score: of a tie the surest
    verdict = "hit" if ious[best] >= HIT_IOU else "missed"
    return f"{verdict}: IoU {ious[best]:.2f}, score {mine.scores[best]:.2f}"


def _chosen(
    true: Truth,
    diameters_mm: Sequence[Float[np.ndarray, "_"]] | None,
    cuts_mm: tuple[float, float],
    each: int,
) -> Iterator[tuple[str, int | None]]:
    """What is said of a lesion, and its row in `true`; None for a size that has none."""
    lesions = np.flatnonzero(~true.crowd)
    if not len(lesions) or not cuts_mm[0] < cuts_mm[1]:
        raise ValueError(
            f"a picture by size wants a lesion and cuts that rise; got {len(lesions)} lesions and"
            f" {cuts_mm}"
        )
    sizes = np.full(len(true.labels), np.nan)
    if diameters_mm is not None:
        sizes = facts.of_truths(diameters_mm, true)
    if np.isfinite(sizes[lesions]).any():
        unit, words, groups = "mm", _words(*cuts_mm), _between(sizes, lesions, cuts_mm)
    else:
        sizes = (true.boxes_xyxy[:, 2:] - true.boxes_xyxy[:, :2]).max(axis=1)
        ranked = lesions[np.argsort(sizes[lesions], kind="stable")]
        unit, words, groups = "px", ["a third of the set"] * 3, np.array_split(ranked, 3)
    for name, word, group in zip(SIZES, words, groups, strict=True):
        if not len(group):
            yield f"{name} ({word}): none", None
            continue
        for at in spread_by_size(sizes[group], each):
            yield f"{name} ({word}): {sizes[group[at]]:.1f} {unit}", int(group[at])


def _words(low: float, high: float) -> list[str]:
    return [f"below {low:g} mm", f"{low:g} to {high:g} mm", f"from {high:g} mm"]


def _between(
    sizes_mm: Float[np.ndarray, "M"], lesions: Int[np.ndarray, "_"], cuts_mm: tuple[float, float]
) -> list[Int[np.ndarray, "_"]]:
    """The lesions below the first cut, from it to below the second, and from there."""
    edges = -np.inf, *cuts_mm, np.inf
    mine = sizes_mm[lesions]  # NaN lies nowhere
    return [lesions[(mine >= edges[i]) & (mine < edges[i + 1])] for i in range(3)]


def _window(box_xyxy: Float[np.ndarray, "4"], high: int, wide: int) -> Window:
    """x0, y0, x1, y1 of the crop around a lesion: a square where the image has room for it."""
    longest = float((box_xyxy[2:] - box_xyxy[:2]).max())
    side = np.ceil(max(SURROUNDINGS * longest, LEAST_CROP * min(high, wide), 1))
    size = np.minimum([side, side], [wide, high])
    corner = np.clip(np.floor((box_xyxy[:2] + box_xyxy[2:] - size) / 2), 0, [wide, high] - size)
    x0, y0, x1, y1 = np.concatenate([corner, corner + size]).astype(int).tolist()
    return x0, y0, x1, y1


def _meet(boxes_xyxy: Float[np.ndarray, "N 4"], window: Window) -> Bool[np.ndarray, "N"]:
    starts, ends = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    return ((starts < window[2:]) & (ends > window[:2])).all(axis=1)


def _placed(boxes_xyxy: Float[np.ndarray, "N 4"], window: Window) -> Float[np.ndarray, "N 4"]:
    """In px of the crop; a box that leaves it ends so far outside that its line is not seen."""
    x0, y0, x1, y1 = window
    size = np.array([x1 - x0, y1 - y0] * 2)
    outside = 4 + 0.02 * size.max()
    return np.clip(boxes_xyxy - [x0, y0, x0, y0], -outside, size + outside)


def _legend(sheet: UInt8[np.ndarray, "_ X 3"]) -> UInt8[np.ndarray, "Y X 3"]:
    words = "white in black: truth    coloured: detection, its score from green to red"
    return np.concatenate([sheet, figures.lines([words], sheet.shape[1])])
