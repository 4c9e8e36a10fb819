"""What happens to a training image of the SSD family (Liu 2016), as GSSD's own code has it.

    jitter of boxes -> brightness, contrast -> expand -> crop -> mirror -> resize to a square

Expansion and crop only say which `Window` of the picture is seen, in px of the image as it was
read, whole numbers; what lies beyond the image is padding. So pixels are resampled once, by the
bilinear resizing of the evaluation's letterbox: without augmentation both show the same picture.
Around it lies data.pad, as there; with input="official" the official mean. A mask of lesions goes
through the same windows, mirror and square, each of its pixels taken from the nearest one.

Every function is pure, all that is random comes from the generator that is passed, and as many
numbers are drawn whatever `photometric` says: its words see the same windows. Source: facts,
gssd_reference 6.4.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from jaxdet.config import Data, SSDAugment
from jaxdet.data import official
from jaxdet.data.mosaic import Window
from jaxdet.data.transforms import (
    Sample,
    blank,
    clip_boxes,
    flip_lr,
    renumbered,
    resize,
    resize_lesions,
    to_unit,
)

MODES = (None, 0.1, 0.3, 0.7, 0.9, 0.0)  # of a crop: the IoU it must reach; None: no crop
TRIES = 50  # crops before another mode is drawn
LEAST_SIDE = 0.3  # of a crop, share of the picture's
MOST_ASPECT = 2.0


def train(sample: Sample, cfg: Data, rng: np.random.Generator) -> Sample:
    """The sample augmented as cfg.ssd says: f32 [S, S, C] in [0, 1], boxes in its px.

    Boxes whose centre is not seen are left out; a sample that has a box keeps at least one. With
    photometric="official" and input="clean" nothing brings the values back to [0, 1]: they may lie
    beyond. A picture that is no square is first laid in the middle of one, as the letterbox does,
    so that objects keep their shape; crops are stretched, as in SSD.
    """
    augment = cfg.ssd
    sample = jitter(sample, augment.jitter, rng)
    drawn = light(augment, rng)
    window = expand(square(sample.image), augment, rng)
    window = crop(window, sample.boxes_xyxy, augment, rng)
    mirrored = rng.random() < augment.mirror
    image, pad = _before(sample.image, cfg, *drawn)
    seen = view(sample._replace(image=image), window, pad)
    seen = _in_range(flip_lr(seen) if mirrored else seen, cfg)
    if augment.photometric == "effective":
        lit = relight(seen.image, *drawn, cfg.maps)
        seen = seen._replace(image=np.clip(lit, 0, 1))
    return seen


def jitter(sample: Sample, share: float, rng: np.random.Generator) -> Sample:
    """The sample with each coordinate of its boxes moved by up to +- `share` of the image's side.

    Whole pixels, cut towards zero; clipped to the image; a box without area left stays as it was.
    A mask stays where it is: what is meant are boxes drawn loosely, and pixels are not.
    Departs: the reference keeps the moves in 8 bits, where more than 127 px wrap around.
    """
    height, width = sample.image.shape[:2]
    reach = share * np.array([width, height, width, height])
    boxes = sample.boxes_xyxy
    moves = np.trunc(rng.uniform(-reach, reach, boxes.shape)).astype(np.float32)
    moved = clip_boxes(boxes + moves, height, width) if moves.any() else boxes
    whole = (moved[:, 2:] > moved[:, :2]).all(1, keepdims=True)
    return sample._replace(boxes_xyxy=np.where(whole, moved, boxes))


def light(augment: SSDAugment, rng: np.random.Generator) -> tuple[float, float]:
    """A draw of brightness, fraction of the range, and contrast: x becomes (x + offset) * factor.

    Each is 0 and 1 half of the time.
    """
    offset = rng.uniform(-augment.brightness, augment.brightness)
    factor = rng.uniform(*augment.contrast)
    brighter, stronger = rng.random(2) < 0.5
    return offset if brighter else 0.0, factor if stronger else 1.0


def relight(
    image: Float32[np.ndarray, "H W C"], offset: float, factor: float, maps: int = 0
) -> Float32[np.ndarray, "H W C"]:
    """(image + offset) * factor, not clipped; the last `maps` channels are no picture and stay."""
    if offset == 0 and factor == 1:
        return image
    lit = (image + np.float32(offset)) * np.float32(factor)
    if maps:
        lit[..., -maps:] = image[..., -maps:]
    return lit


def square(image: Shaped[np.ndarray, "H W C"]) -> Window:
    """The smallest square around the image, which lies in its middle."""
    height, width = image.shape[:2]
    side = max(height, width)
    x0, y0 = (width - side) // 2, (height - side) // 2
    return Window(x0, y0, x0 + side, y0 + side)


def expand(window: Window, augment: SSDAugment, rng: np.random.Generator) -> Window:
    """The window grown to a canvas of U(1, augment.expand) times its sides, it anywhere inside."""
    chance, left, top = rng.random(3)
    ratio = rng.uniform(1, augment.expand)
    if chance >= augment.expand_probability:
        return window
    width, height = window.x1 - window.x0, window.y1 - window.y0
    x0 = window.x0 - int(left * (width * ratio - width))
    y0 = window.y0 - int(top * (height * ratio - height))
    return Window(x0, y0, x0 + int(width * ratio), y0 + int(height * ratio))


def crop(
    window: Window,
    boxes_xyxy: Float32[np.ndarray, "M 4"],
    augment: SSDAugment,
    rng: np.random.Generator,
) -> Window:
    """A part of the window at random: one of six modes, one of which leaves it whole.

    A crop has sides of U(0.3, 1) of the window's, an aspect of 1/2 to 2, anywhere; the first of 50
    that fits is taken, or else another mode is drawn. It fits if it shows the centre of a box,
    strictly inside, and if

    - rule "official": nothing more. The reference means to ask for an IoU, but compares the largest
      one with infinity, so that all five crops are free ones (facts, quirk 3);
    - rule "iou": the IoU of the crop with *every* box whose centre it shows, the box taken whole,
      reaches the mode's 0.1, 0.3, 0.7 or 0.9; the fifth crop is free. Boxes that it does not keep
      do not count. (Liu 2016 says "the minimum jaccard overlap with the objects".)

    Departs: where there is no box any crop fits, in every mode, for there is nothing to keep; the
    reference's slices all have a lesion, and one without would be drawn for ever.
    """
    if augment.crop == "none":
        return window
    while True:
        least = MODES[rng.integers(len(MODES))]
        if least is None:
            return window
        crops, fits = _crops(window, rng)
        fits &= _fits(crops, boxes_xyxy, least if augment.crop == "iou" else 0.0)
        if fits.any():
            return Window(*crops[fits.argmax()].tolist())


def view(sample: Sample, window: Window, pad: tuple[float, ...]) -> Sample:
    """What lies in the window, beyond the image `pad` (as transforms.blank takes it).

    Boxes whose centre is strictly inside, in px of the window and clipped to it. The lesion of a
    box that is left out leaves the mask as well, also where the window shows a part of it.
    """
    image, lesions = sample.image, sample.lesions
    height, width = window.y1 - window.y0, window.x1 - window.x0
    keep = _centres_inside(np.array([window]), sample.boxes_xyxy)[0]
    corner = np.float32([window.x0, window.y0] * 2)
    boxes = clip_boxes(sample.boxes_xyxy[keep] - corner, height, width)
    picture = _seen(image, window, lambda: blank(height, width, pad, image))
    if lesions is not None:
        lesions = _seen(lesions, window, lambda: np.zeros((height, width), np.uint8))
    return Sample(picture, boxes, sample.labels[keep], renumbered(lesions, keep))


def _seen(
    picture: Shaped[np.ndarray, "H W *C"],
    window: Window,
    canvas: Callable[[], Shaped[np.ndarray, "H2 W2 *C"]],
) -> Shaped[np.ndarray, "H2 W2 *C"]:
    """What the window shows of a picture; on the canvas, of its size, where it looks beyond."""
    y0, y1 = np.clip([window.y0, window.y1], 0, picture.shape[0]).tolist()
    x0, x1 = np.clip([window.x0, window.x1], 0, picture.shape[1]).tolist()
    part = picture[y0:y1, x0:x1]
    if (x0, y0, x1, y1) == window:
        return part
    whole, down, right = canvas(), y0 - window.y0, x0 - window.x0
    whole[down : down + y1 - y0, right : right + x1 - x0] = part
    return whole


def _before(
    image: Shaped[np.ndarray, "H W C"], cfg: Data, offset: float, factor: float
) -> tuple[Shaped[np.ndarray, "H W C"], tuple[float, ...]]:
    """The picture that windows are cut from, and what lies around it: of 0 to 255 if official."""
    pad, white = cfg.pad, 1.0
    if cfg.input == "official":
        image, white = official.read(image).astype(np.float32), official.WHITE
        pad = (white * cfg.official_mean,)
    if cfg.ssd.photometric == "official":
        image = relight(to_unit(image), white * offset, factor, cfg.maps)
    return image, pad


def _in_range(sample: Sample, cfg: Data) -> Sample:
    """The sample at image_size and in [0, 1], by the pipeline of cfg.input."""
    size, (height, width) = cfg.image_size, sample.image.shape[:2]
    gain = np.float32([size / width, size / height] * 2)
    exact = cfg.input == "official"
    image = (
        official.train(sample.image, cfg) if exact else to_unit(resize(sample.image, size, size))
    )
    boxes = clip_boxes(sample.boxes_xyxy * gain, size, size)  # again, as the product is rounded
    lesions = resize_lesions(sample.lesions, size, size)
    return Sample(image, boxes, sample.labels, lesions)


def _crops(
    window: Window, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "T 4"], Bool[np.ndarray, "T"]]:
    """TRIES crops of the window, cut to whole pixels, and which have a legal shape."""
    full = np.array([window.x1 - window.x0, window.y1 - window.y0])
    sides = rng.uniform(LEAST_SIDE, 1, (TRIES, 2)) * full
    low = rng.random((TRIES, 2)) * (full - sides)
    corners = np.concatenate([low, low + sides], axis=1).astype(np.int64)
    aspect = sides[:, 1] / sides[:, 0]
    legal = (aspect >= 1 / MOST_ASPECT) & (aspect <= MOST_ASPECT)
    legal &= (corners[:, 2:] > corners[:, :2]).all(1)  # of an image of a pixel or two
    return corners + np.array([window.x0, window.y0] * 2), legal


def _fits(
    crops: Int64[np.ndarray, "T 4"], boxes_xyxy: Float32[np.ndarray, "M 4"], least: float
) -> Bool[np.ndarray, "T"]:
    """Which crops show a box's centre, and reach the IoU `least` with all whose centre they show.

    All of them where there is no box.
    """
    if len(boxes_xyxy) == 0:
        return np.ones(len(crops), bool)
    inside = _centres_inside(crops, boxes_xyxy)
    low = np.maximum(crops[:, None, :2], boxes_xyxy[:, :2])
    high = np.minimum(crops[:, None, 2:], boxes_xyxy[:, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1)
    union = (crops[:, 2:] - crops[:, :2]).prod(1)[:, None] + areas - shared
    return inside.any(1) & (~inside | (shared >= least * union)).all(1)


def _centres_inside(
    windows: Int64[np.ndarray, "T 4"], boxes_xyxy: Float32[np.ndarray, "M 4"]
) -> Bool[np.ndarray, "T M"]:
    """Which windows have which box's centre strictly inside."""
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    above = centres > windows[:, None, :2]
    return (above & (centres < windows[:, None, 2:])).all(2)
