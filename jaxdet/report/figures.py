"""Pictures for people: boxes drawn on an image, and many such tiles on one sheet."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

LEAST_SIDE_PX = 480  # smaller images are magnified by a whole number, so that text can be read
TRUTH_RGB = (255, 255, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
LINE_PX, TEXT = 22, 0.45  # height of a line, and its font: letters that can be read
PICTURE_PX = 400  # of a picture under its title
TITLED_PX = PICTURE_PX + 2 * LINE_PX  # of both


def overlay(
    image: Shaped[np.ndarray, "H W C"],
    boxes_xyxy: Float[np.ndarray, "N 4"],
    scores: Float[np.ndarray, "N"],
    labels: Int[np.ndarray, "N"],
    class_names: Sequence[str],
    truths_xyxy: Float[np.ndarray, "M 4"] | None = None,
) -> UInt8[np.ndarray, "Y X 3"]:
    """The image as 8-bit RGB with its boxes, class and score; the best score is drawn last, on top.

    `image` is uint8 or float in [0, 1]; of one channel it is grey, of three RGB, of any other
    number the middle channel is shown. Images under 480 px come back magnified by a whole number.
    Rows with a negative label are padding and are not drawn. Truths are thin and white, with a
    black line around them. N and M may be 0.
    """
    shown = show(image)
    zoom = max(1, math.ceil(LEAST_SIDE_PX / max(1, min(shown.shape[:2]))))
    if zoom > 1:
        shown = cv2.resize(shown, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    thick = max(1, round(min(shown.shape[:2]) / 350))
    for box in np.zeros((0, 4)) if truths_xyxy is None else truths_xyxy:
        around = np.array([-thick, -thick, thick, thick])
        _rectangle(shown, box * zoom + around, (0, 0, 0), thick)  # white is lost on a bright liver
        _rectangle(shown, box * zoom, TRUTH_RGB, thick)
    for i in np.argsort(scores, kind="stable"):
        if labels[i] >= 0:
            colour = score_rgb(float(scores[i]))
            _rectangle(shown, boxes_xyxy[i] * zoom, colour, 2 * thick)
            told = f"{class_names[labels[i]]} {scores[i]:.2f}".lstrip()
            _text(shown, boxes_xyxy[i] * zoom, told, colour)
    return shown


def contact_sheet(
    tiles: Sequence[UInt8[np.ndarray, "_ _ 3"]], columns: int, side: int = 320
) -> UInt8[np.ndarray, "Y X 3"]:
    """Tiles of any sizes in rows of `columns`, each fitted into a square of `side` px on black.

    The last row is filled with black. ValueError without tiles.
    """
    if not tiles or columns < 1:
        raise ValueError(f"a sheet wants 1 tile and 1 column or more; got {len(tiles)}, {columns}")
    columns = min(columns, len(tiles))
    sheet = np.zeros((math.ceil(len(tiles) / columns) * side, columns * side, 3), np.uint8)
    for i, tile in enumerate(tiles):
        scale = side / max(tile.shape[:2])
        height, width = (max(1, round(n * scale)) for n in tile.shape[:2])
        fitted = cv2.resize(tile, (width, height), interpolation=cv2.INTER_AREA)
        y = i // columns * side + (side - height) // 2
        x = i % columns * side + (side - width) // 2
        sheet[y : y + height, x : x + width] = fitted
    return sheet


def captioned(image: UInt8[np.ndarray, "H W 3"], text: str) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of a picture with white text on black in its lower left corner, cut at the edge."""
    image, scale = image.copy(), min(image.shape[:2]) / 700
    (wide, tall), base = cv2.getTextSize(text, FONT, scale, 1)
    bottom = image.shape[0] - base - 1
    cv2.rectangle(image, (0, bottom - tall - 2), (wide + 4, image.shape[0]), (0, 0, 0), cv2.FILLED)
    cv2.putText(image, text, (2, bottom), FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return image


def lines(texts: Sequence[str], width: int) -> UInt8[np.ndarray, "Y X 3"]:
    """Text, white on black; of a line that is too long the end is shown, where names differ."""
    strip = np.zeros((LINE_PX * len(texts), width, 3), np.uint8)
    for i, text in enumerate(texts):
        shown = text
        while cv2.getTextSize(shown, FONT, TEXT, 1)[0][0] > width - 8:
            shown = "..." + shown.removeprefix("...")[1:]
        at = 4, LINE_PX * (i + 1) - 7
        cv2.putText(strip, shown, at, FONT, TEXT, (255, 255, 255), 1, cv2.LINE_AA)
    return strip


def titled(
    picture: UInt8[np.ndarray, "_ _ 3"], texts: Sequence[str] = ()
) -> UInt8[np.ndarray, "Y X 3"]:
    """A square of TITLED_PX: up to two lines of text and, under them, the picture."""
    tile = np.zeros((TITLED_PX, TITLED_PX, 3), np.uint8)
    tile[: LINE_PX * len(texts)] = lines(texts, TITLED_PX)
    tile[-PICTURE_PX:, LINE_PX : LINE_PX + PICTURE_PX] = fitted(picture)
    return tile


def fitted(picture: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "Y X 3"]:
    """The picture in the middle of a square of PICTURE_PX, on black."""
    return contact_sheet([picture], 1, PICTURE_PX)


def show(image: Shaped[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W 3"]:
    """Any image as 8-bit RGB of its own: RGB stays, else one channel, the middle one, is grey."""
    if image.shape[2] != 3:
        middle = image.shape[2] // 2
        image = np.repeat(image[..., middle : middle + 1], 3, axis=2)
    if image.dtype == np.uint8:
        return np.array(image, order="C")
    return np.ascontiguousarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))


def score_rgb(score: float) -> tuple[int, int, int]:
    """Colour of a score: blue-green at 0, yellow in the middle, red at 1 (OpenCV's Turbo)."""
    level = np.uint8(round(70 + 140 * min(max(score, 0.0), 1.0)))
    blue, green, red = cv2.applyColorMap(np.array([[level]]), cv2.COLORMAP_TURBO)[0, 0]
    return int(red), int(green), int(blue)


def _rectangle(image: np.ndarray, box: np.ndarray, colour: tuple, thick: int) -> None:
    # x1 and y1 are exclusive: the last pixel inside is one less.
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    cv2.rectangle(image, (x0, y0), (max(x0, x1 - 1), max(y0, y1 - 1)), colour, thick)


def _text(image: np.ndarray, box: np.ndarray, text: str, colour: tuple) -> None:
    """Black on the box's colour, over the box, or inside it where the image ends."""
    height, width = image.shape[:2]
    scale = min(height, width) / 900
    (wide, tall), base = cv2.getTextSize(text, FONT, scale, 1)
    x = int(min(max(box[0], 0), max(width - wide - 2, 0)))
    y = int(box[1]) - base - 2
    y = y if y - tall >= 0 else int(max(box[1], 0)) + tall + 3
    y = min(y, height - base - 1)
    cv2.rectangle(image, (x, y - tall - 2), (x + wide + 2, y + base), colour, cv2.FILLED)
    cv2.putText(image, text, (x + 1, y), FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
