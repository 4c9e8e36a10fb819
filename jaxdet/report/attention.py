"""Where a model with patch attention looked: Fig. 6 of paper 1 (PCA-YOLO); 1, 3, 5: report.lesions.

A map over a slice leaves it bare where it is 0. Images are as `figures.overlay` takes them: of any
number of channels but three the middle one is shown, which of three copies of a slice and a map is
the slice. Lesions are white boxes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from jaxdet.report import figures
from jaxdet.report.figures import PICTURE_PX, TITLED_PX

STRONGEST = 0.6  # share of the colour over a slice where the map is 1; it falls to none at 0
WARMEST = 170  # of 255 in OpenCV's Inferno: white boxes are not seen on what comes above
LEAST_CELL_PX = 36  # a patch of that size has room for its score
BORDER_RGB = (150, 150, 150)  # of patches, half through
ROUNDING = 1e-4  # so far outside [0, 1] a map may be


class Map(NamedTuple):
    """Attention over a slice, and where it is known the score of each patch."""

    values: Float[np.ndarray, "S S"]  # in [0, 1]
    scores: Float[np.ndarray, "R R"] | None = None  # of R x R patches


class Attended(NamedTuple):
    """A row of `attention_sheet`: a slice and its maps by name."""

    name: str
    image: Shaped[np.ndarray, "S S C"]
    truths_xyxy: Float[np.ndarray, "M 4"]
    maps: Mapping[str, Map]


def attention(
    image: Shaped[np.ndarray, "_ _ _"],
    values: Float[np.ndarray, "_ _"],
    truths_xyxy: Float[np.ndarray, "M 4"],
    scores: Float[np.ndarray, "R R"] | None = None,
) -> UInt8[np.ndarray, "Y X 3"]:
    """As Fig. 6: a slice, its map, and the map over the slice, with true boxes and patch borders.

    image: [S, S, C]. values: [S, S] in [0, 1]. scores: of the R x R patches, written into the map
    where there is room; without them no patches are drawn. M may be 0; a map that is 0 everywhere
    leaves the slice bare. ValueError: a slice that is not square, a map of another size, or one
    that is NaN or outside [0, 1].
    """
    _check_map(image, values, "the slice")
    alone = _bordered(figures.fitted(_boxed(heat(values), truths_xyxy)), scores)
    title = "attention"
    if scores is not None and PICTURE_PX / len(scores) >= LEAST_CELL_PX:
        _write_scores(alone, scores)
        title += ", and the patches' scores"
    tiles = [
        _slice(image, truths_xyxy, "slice"),
        figures.titled(alone, [title, _range(values)]),
        _over(image, truths_xyxy, Map(values, scores), "attention over the slice"),
    ]
    sheet = figures.contact_sheet(tiles, len(tiles), TITLED_PX)
    return np.concatenate([sheet, _scale(sheet.shape[1])])


def attention_sheet(rows: Sequence[Attended]) -> UInt8[np.ndarray, "Y X 3"]:
    """A row a slice: the slice with its true boxes, then each of its maps over it.

    Such as the maps with and without g, and of class activation. Above a map stand its name and its
    least and largest value; all have one colour scale, 0 to 1. ValueError without rows, where rows
    have maps of other names, and as in `attention`.
    """
    titles = [tuple(row.maps) for row in rows]
    if not rows or len(set(titles)) > 1:
        raise ValueError(
            f"a sheet wants 1 row or more, with the same maps in all; got {len(rows)} rows with"
            f" {sorted(set(titles))}"
        )
    tiles = []
    for row in rows:
        tiles.append(_slice(row.image, row.truths_xyxy, row.name))
        for title, one in row.maps.items():
            _check_map(row.image, one.values, f"{row.name}, {title}")
            tiles.append(_over(row.image, row.truths_xyxy, one, title))
    sheet = figures.contact_sheet(tiles, 1 + len(titles[0]), TITLED_PX)
    return np.concatenate([sheet, _scale(sheet.shape[1])])


def heat(values: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Values in [0, 1] as colours whose lightness rises with them: black, violet, red, orange."""
    levels = np.rint(np.clip(values, 0, 1) * WARMEST).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1])


def _check_map(
    image: Shaped[np.ndarray, "_ _ _"], values: Float[np.ndarray, "_ _"], name: str
) -> None:
    high, wide, _ = image.shape
    if high != wide or values.shape != (high, wide):
        raise ValueError(
            f"{name}: a square slice and a map of its size are wanted; got {wide} x {high} px and"
            f" a map of {values.shape[1]} x {values.shape[0]}"
        )
    if not ((values >= -ROUNDING) & (values <= 1 + ROUNDING)).all():
        raise ValueError(
            f"{name}: a map wants values in [0, 1]; got {values.min():g} to {values.max():g}"
        )


def _slice(
    image: Shaped[np.ndarray, "S S C"], truths_xyxy: Float[np.ndarray, "M 4"], title: str
) -> UInt8[np.ndarray, "Y X 3"]:
    return figures.titled(_boxed(image, truths_xyxy), [title, f"lesions: {len(truths_xyxy)}"])


def _boxed(
    image: Shaped[np.ndarray, "S S _"], truths_xyxy: Float[np.ndarray, "M 4"]
) -> UInt8[np.ndarray, "Y Y 3"]:
    return figures.overlay(image, np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), (), truths_xyxy)


def _over(
    image: Shaped[np.ndarray, "S S C"], truths_xyxy: Float[np.ndarray, "M 4"], one: Map, title: str
) -> UInt8[np.ndarray, "Y X 3"]:
    """A tile of the map over the slice, which shows through: all of it where the map is 0."""
    blended = _boxed(_blend(figures.show(image), one.values), truths_xyxy)
    picture = _bordered(figures.fitted(blended), one.scores)
    return figures.titled(picture, [title, _range(one.values)])


def _blend(
    shown: UInt8[np.ndarray, "H W 3"], values: Float[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    share = STRONGEST * np.clip(values, 0, 1)[..., None]
    return np.rint(shown * (1 - share) + heat(values) * share).astype(np.uint8)


def _bordered(
    picture: UInt8[np.ndarray, "S S 3"], scores: Float[np.ndarray, "R R"] | None
) -> UInt8[np.ndarray, "S S 3"]:
    """With thin lines between the patches, if there are any."""
    cuts = [] if scores is None else np.arange(1, len(scores)) * PICTURE_PX // len(scores)
    lined = picture.copy()
    lined[cuts], lined[:, cuts] = BORDER_RGB, BORDER_RGB
    return cv2.addWeighted(picture, 0.5, lined, 0.5, 0)


def _write_scores(picture: UInt8[np.ndarray, "S S 3"], scores: Float[np.ndarray, "R R"]) -> None:
    cell = PICTURE_PX / len(scores)
    for (y, x), score in np.ndenumerate(scores):
        at = round(x * cell) + 3, round((y + 1) * cell) - 4
        for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):  # seen on any colour
            cv2.putText(picture, f"{score:.2f}", at, figures.FONT, 0.36, colour, thick, cv2.LINE_AA)


def _range(values: Float[np.ndarray, "_ _"]) -> str:
    return f"from {values.min():.2g} to {values.max():.2g}"


def _scale(width: int) -> UInt8[np.ndarray, "Y X 3"]:
    """The colours from 0 to 1: in the upper half alone, in the lower over grey."""
    ramp = np.repeat(np.linspace(0, 1, 200, dtype=np.float32)[None], figures.LINE_PX // 2, axis=0)
    grey = np.full((*ramp.shape, 3), 128, np.uint8)
    bar = np.concatenate([heat(ramp), _blend(grey, ramp)])
    first = figures.lines(["attention 0"], 94)
    words = "1    upper half: alone, lower half: over grey    white in black: lesions"
    rest = figures.lines([words], width - first.shape[1] - bar.shape[1])
    return np.concatenate([first, bar, rest], axis=1)
