"""What happens to one image and its boxes: letterbox, random perspective, mixup, HSV, flips.

Every function is pure: what is random comes from the generator that is passed, no input is written
to, and an image that needs no change is returned as it is. Images are [H, W, C] of any C, uint8 or
float32 in [0, 1]. Boxes follow pixels exactly: coordinate 0 is the outer edge of the first pixel.
The rules are those of ultralytics 8.2 (the facts' classic version) unless a docstring says
`Departs`.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int32, Shaped, UInt8

from jaxdet.config import Augment

MIN_SIDE = 2.0  # px; a moved box must be wider and higher than this
MIN_AREA_LEFT = 0.10  # share of the scaled area that must still be in the picture
MAX_ASPECT = 100.0
NEAREST_HORIZON = 0.1  # least homogeneous w on the picture: nothing grows more than tenfold


class Sample(NamedTuple):
    """One image on its way to the model; the boxes always belong to this very image."""

    image: Shaped[np.ndarray, "H W C"]  # uint8, or float32 in [0, 1]
    boxes_xyxy: Float32[np.ndarray, "M 4"]  # px of `image`
    labels: Int32[np.ndarray, "M"]
    # px of `image`: i + 1 on the lesion of box i. None: only boxes. `warp`, `mixup` and mosaic make
    # samples of images and boxes, without a mask: data.lesions refuses their pipeline.
    lesions: UInt8[np.ndarray, "H W"] | None = None


class Letterbox(NamedTuple):
    """How an original image lies inside a padded one: x_padded = gain * x + pad."""

    gain: float
    pad_x: int  # px left of the image
    pad_y: int  # px above it
    height: int  # px of the original
    width: int

    def to_original(self, boxes_xyxy: Float[np.ndarray, "N 4"]) -> Float32[np.ndarray, "N 4"]:
        """Boxes of the padded image in pixels of the original, clipped to it."""
        pad = np.float32([self.pad_x, self.pad_y] * 2)
        moved = (boxes_xyxy.astype(np.float32) - pad) / np.float32(self.gain)
        return clip_boxes(moved, self.height, self.width)

    def from_original(self, boxes_xyxy: Float[np.ndarray, "N 4"]) -> Float32[np.ndarray, "N 4"]:
        """Boxes of the original in pixels of the padded image: the inverse of `to_original`."""
        pad = np.float32([self.pad_x, self.pad_y] * 2)
        return boxes_xyxy.astype(np.float32) * np.float32(self.gain) + pad


def clip_boxes(
    boxes_xyxy: Float32[np.ndarray, "N 4"], height: int, width: int
) -> Float32[np.ndarray, "N 4"]:
    """The part of each box that lies inside the picture; a box outside gets zero area."""
    return np.clip(boxes_xyxy, 0, np.float32([width, height, width, height]))


def pad_values(pad: tuple[float, ...], image: Shaped[np.ndarray, "H W C"]) -> list[float]:
    """The padding value of each channel in the image's own range, from fractions of that range.

    `pad` holds one fraction, or one a channel; any other number is an error. In uint8 the value is
    rounded, so 114 / 255 is 114.
    """
    channels = image.shape[2]
    if len(pad) not in (1, channels):
        raise ValueError(
            f"data.pad wants one value or one a channel ({channels}); got {len(pad)}: {pad}"
        )
    values = [float(p) for p in (pad * channels if len(pad) == 1 else pad)]
    return [float(round(255 * v)) for v in values] if image.dtype == np.uint8 else values


def blank(
    height: int, width: int, pad: tuple[float, ...], like: Shaped[np.ndarray, "H W C"]
) -> Shaped[np.ndarray, "H2 W2 C"]:
    """A picture of padding only, with the channels and the type of `like`."""
    picture = np.empty((height, width, like.shape[2]), like.dtype)
    # One row by broadcasting, the others as plain copies of memory: ten times as fast.
    picture[:1] = pad_values(pad, like)
    picture[1:] = picture[:1]
    return picture


def to_unit(image: Shaped[np.ndarray, "H W C"]) -> Float32[np.ndarray, "H W C"]:
    """The image as float32 in [0, 1]: uint8 divided by 255, float32 as it is."""
    return image / np.float32(255) if image.dtype == np.uint8 else image


def resize(
    image: Shaped[np.ndarray, "H W C"], height: int, width: int
) -> Shaped[np.ndarray, "H2 W2 C"]:
    """The image at another size, bilinear between pixel centres. The same size: the same array."""
    if image.shape[:2] == (height, width):
        return image
    mode = cv2.INTER_LINEAR
    return _by_fours(
        image, [0.0], lambda part, _: cv2.resize(part, (width, height), interpolation=mode)
    )


def resize_lesions(
    lesions: UInt8[np.ndarray, "H W"] | None, height: int, width: int
) -> UInt8[np.ndarray, "H2 W2"] | None:
    """The mask at another size: the number under the centre of each new pixel. None stays None.

    So it lies as `resize` lays the image. A centre between two pixels takes the right or lower one;
    a lesion that no centre falls on is lost.
    """
    if lesions is None or lesions.shape == (height, width):
        return lesions
    # In whole numbers, as OpenCV's own nearest pixel is that of the upper left corner, or rounded.
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip((height, width), lesions.shape, strict=True)
    )
    return lesions[rows][:, columns]


def renumbered(
    lesions: UInt8[np.ndarray, "H W"] | None, keep: Bool[np.ndarray, "M"]
) -> UInt8[np.ndarray, "H W"] | None:
    """The mask of the kept boxes: i + 1 on the lesion of the i-th of them, 0 on the others.

    None stays None.
    """
    if lesions is None or keep.all():
        return lesions
    numbers = np.zeros(256, np.uint8)
    numbers[1 + np.flatnonzero(keep)] = np.arange(1, 1 + keep.sum())
    return numbers[lesions]


def fitted_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) of an image once its longer side is `size` px; fractions round up."""
    if min(height, width) < 1:
        raise ValueError(f"an image wants at least one pixel a side; got {height} x {width}")
    gain = size / max(height, width)
    return min(int(np.ceil(height * gain)), size), min(int(np.ceil(width * gain)), size)


def fit_long_side(sample: Sample, size: int) -> Sample:
    """The sample with its longer side at `size` px, grown or shrunk."""
    before = sample.image.shape[:2]
    after = fitted_size(*before, size)
    gain = np.float32([after[1] / before[1], after[0] / before[0]] * 2)
    return sample._replace(
        image=resize(sample.image, *after),
        boxes_xyxy=sample.boxes_xyxy * gain,
        lesions=resize_lesions(sample.lesions, *after),
    )


def letterbox(
    image: Shaped[np.ndarray, "H W C"],
    size: int,
    pad: tuple[float, ...],
    scale_up: bool = True,
    multiple: int | None = None,
) -> tuple[Shaped[np.ndarray, "S T C"], Letterbox]:
    """The whole image, shape kept, in the middle of a `size` x `size` picture; and where it lies.

    With `multiple` the picture is the smallest whose sides are multiples of it. Without `scale_up`
    a small image keeps its size. An odd pixel of padding goes to the right and to the bottom. Sides
    are rounded to whole pixels, so content may lie up to half a pixel from what the one gain of
    `Letterbox` says, as in the reference.
    """
    height, width = image.shape[:2]
    if min(height, width) < 1:
        raise ValueError(f"an image wants at least one pixel a side; got {height} x {width}")
    gain = min(size / height, size / width)
    gain = gain if scale_up else min(gain, 1.0)
    new_h, new_w = max(round(height * gain), 1), max(round(width * gain), 1)
    full_h, full_w = size, size
    if multiple is not None:
        full_h, full_w = (-(-side // multiple) * multiple for side in (new_h, new_w))
    top, left = round((full_h - new_h) / 2 - 0.1), round((full_w - new_w) / 2 - 0.1)
    place = Letterbox(gain, left, top, height, width)
    inner = resize(image, new_h, new_w)
    if (new_h, new_w) == (full_h, full_w):
        return inner, place
    picture = blank(full_h, full_w, pad, image)
    picture[top : top + new_h, left : left + new_w] = inner
    return picture, place


def random_matrix(
    height: int, width: int, size: int, augment: Augment, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "3 3"], float]:
    """A draw of M = T S R P C, from a height x width picture to a size x size one, and its gain g.

    C centres, P is the perspective, R rotates and scales by g, S shears, T moves the centre to
    about the middle. Departs: where the perspective would bring the horizon into the picture
    (at 640 px from 0.0007 on), its terms are shrunk, so that no box and no pixel comes from
    behind it.
    """
    tilt = rng.uniform(-augment.perspective, augment.perspective, 2)
    reach = abs(tilt[0]) * width / 2 + abs(tilt[1]) * height / 2
    tilt *= min(1.0, (1 - NEAREST_HORIZON) / reach) if reach > 0 else 1.0
    angle = np.deg2rad(rng.uniform(-augment.degrees, augment.degrees))
    gain = float(rng.uniform(1 - augment.scale, 1 + augment.scale))
    shear = np.tan(np.deg2rad(rng.uniform(-augment.shear, augment.shear, 2)))
    shift = rng.uniform(0.5 - augment.translate, 0.5 + augment.translate, 2) * size
    c, s = gain * np.cos(angle), gain * np.sin(angle)
    perspective = np.array([[1, 0, 0], [0, 1, 0], [tilt[0], tilt[1], 1]])
    rotation = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    shearing = np.array([[1, shear[0], 0], [shear[1], 1, 0], [0, 0, 1]])
    return translation(*shift) @ shearing @ rotation @ perspective @ translation(
        -width / 2, -height / 2
    ), gain


def translation(x: float | int, y: float | int) -> Float64[np.ndarray, "3 3"]:
    """The matrix that moves a point by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def warp_image(
    image: Shaped[np.ndarray, "H W C"],
    matrix: Float64[np.ndarray, "3 3"],
    height: int,
    width: int,
    pad: tuple[float, ...] | None,
) -> Shaped[np.ndarray, "H2 W2 C"]:
    """The image seen through `matrix` (old px -> new px), bilinear, on a height x width picture.

    Outside lies `pad`; with None the edge of the image goes on.
    Departs: the matrix acts on edges of pixels as it does on boxes, where the reference hands it to
    OpenCV as acting on centres: at scale g its pixels lie (g - 1) / 2 px beside its boxes.
    """
    if np.array_equal(matrix, np.eye(3)) and image.shape[:2] == (height, width):
        return image
    centres = translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5)
    flat = not matrix[2, :2].any()
    move, terms = (cv2.warpAffine, centres[:2]) if flat else (cv2.warpPerspective, centres)
    how = {
        "dsize": (width, height),
        "flags": cv2.INTER_LINEAR,
        "borderMode": cv2.BORDER_REPLICATE if pad is None else cv2.BORDER_CONSTANT,
    }
    values = [0.0] if pad is None else pad_values(pad, image)
    return _by_fours(image, values, lambda part, v: move(part, terms, borderValue=v, **how))


def warp_boxes(
    boxes_xyxy: Float32[np.ndarray, "N 4"], matrix: Float64[np.ndarray, "3 3"]
) -> Float32[np.ndarray, "N 4"]:
    """The upright box around the four moved corners of each box; not clipped."""
    corners = boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    points = moved[..., :2] / moved[..., 2:]
    return np.concatenate([points.min(1), points.max(1)], axis=1).astype(np.float32)


def worth_keeping(
    before_xyxy: Float32[np.ndarray, "N 4"], after_xyxy: Float32[np.ndarray, "N 4"], gain: float
) -> Bool[np.ndarray, "N"]:
    """Which boxes are still a target after a move at scale `gain` and a clip.

    Both sides over 2 px, over a tenth of the scaled area left, aspect ratio under 100.
    """
    w1, h1 = (before_xyxy[:, 2:] - before_xyxy[:, :2]).T
    w2, h2 = (after_xyxy[:, 2:] - after_xyxy[:, :2]).T
    left = w2 * h2 / (w1 * h1 * gain**2 + 1e-16)
    aspect = np.maximum(w2 / (h2 + 1e-16), h2 / (w2 + 1e-16))
    return (w2 > MIN_SIDE) & (h2 > MIN_SIDE) & (left > MIN_AREA_LEFT) & (aspect < MAX_ASPECT)


def warp(
    sample: Sample,
    matrix: Float64[np.ndarray, "3 3"],
    gain: float,
    size: int,
    pad: tuple[float, ...],
    origin_xy: tuple[int, int] = (0, 0),
) -> Sample:
    """Image and boxes seen through `matrix` on a size x size picture; hardly left boxes go.

    `origin_xy` says which point of the boxes' frame is the image's upper left corner: not (0, 0)
    where only a part of a larger picture was painted.
    """
    image = warp_image(sample.image, matrix @ translation(*origin_xy), size, size, pad)
    moved = clip_boxes(warp_boxes(sample.boxes_xyxy, matrix), size, size)
    keep = worth_keeping(sample.boxes_xyxy, moved, gain)
    return Sample(image, moved[keep], sample.labels[keep])


def random_perspective(
    sample: Sample, size: int, augment: Augment, pad: tuple[float, ...], rng: np.random.Generator
) -> Sample:
    """Rotate, scale, shear, tilt and shift at random, onto a size x size picture."""
    matrix, gain = random_matrix(*sample.image.shape[:2], size, augment, rng)
    return warp(sample, matrix, gain, size, pad)


def mixup(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Both pictures blended, share of the first Beta(32, 32), with the boxes of both.

    uint8 is cut to whole numbers, not rounded, as the reference does.
    """
    if sample.image.shape != other.image.shape or sample.image.dtype != other.image.dtype:
        raise ValueError(
            "mixup wants two images of one shape and type; "
            f"got {_describe(sample.image)} and {_describe(other.image)}"
        )
    share = np.float32(rng.beta(32.0, 32.0))
    second = other.image.astype(np.float32)
    # From the second towards the first: where both are equal the blend is exactly that value.
    blend = second + share * (sample.image - second)
    return Sample(
        blend.astype(sample.image.dtype),
        np.concatenate([sample.boxes_xyxy, other.boxes_xyxy]),
        np.concatenate([sample.labels, other.labels]),
    )


def random_hsv(
    image: Shaped[np.ndarray, "H W C"], augment: Augment, rng: np.random.Generator, maps: int = 0
) -> Shaped[np.ndarray, "H W C"]:
    """Hue, saturation and value of an RGB image each times its own 1 + U(-1, 1) * range.

    The last `maps` channels are no picture and are never touched. One or two channels before them
    are copies of a grey one, which has a value and neither hue nor saturation: the same draw makes
    of them what it makes of three. Any other number is no colour image and stays as it is, and so
    does grey without maps, as in the reference. Hue wraps, the others saturate; uint8 hue has 180
    steps and every product is cut to whole numbers, as the reference does.
    """
    ranges = np.array([augment.hsv_h, augment.hsv_s, augment.hsv_v])
    seen = image.shape[2] - maps
    if seen not in ((1, 2, 3) if maps else (3,)) or not ranges.any():
        return image
    factors = 1 + rng.uniform(-1, 1, 3) * ranges
    picture = np.ascontiguousarray(image[..., :seen])
    changed = _colours(picture, factors) if seen == 3 else _values(picture, factors)
    return np.concatenate([changed, image[..., seen:]], axis=2) if maps else changed


def flip_lr(sample: Sample) -> Sample:
    """Left becomes right."""
    x0, y0, x1, y1 = sample.boxes_xyxy.T
    width = np.float32(sample.image.shape[1])
    boxes = np.stack([width - x1, y0, width - x0, y1], axis=1)
    return _mirrored(sample, 1, boxes)


def flip_ud(sample: Sample) -> Sample:
    """Top becomes bottom."""
    x0, y0, x1, y1 = sample.boxes_xyxy.T
    height = np.float32(sample.image.shape[0])
    boxes = np.stack([x0, height - y1, x1, height - y0], axis=1)
    return _mirrored(sample, 0, boxes)


def _colours(
    image: Shaped[np.ndarray, "H W 3"], factors: Float64[np.ndarray, "3"]
) -> Shaped[np.ndarray, "H W 3"]:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if image.dtype == np.uint8:
        hsv = cv2.LUT(hsv, _steps(factors)[None])
    else:
        hsv *= factors.astype(np.float32)
        hsv[..., 0] %= 360.0
        np.clip(hsv[..., 1:], 0.0, 1.0, out=hsv[..., 1:])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _values(
    image: Shaped[np.ndarray, "H W C"], factors: Float64[np.ndarray, "3"]
) -> Shaped[np.ndarray, "H W C"]:
    if image.dtype == np.uint8:
        return _steps(factors)[:, 2][image]
    return np.clip(image * np.float32(factors[2]), 0.0, 1.0)


def _steps(factors: Float64[np.ndarray, "3"]) -> UInt8[np.ndarray, "256 3"]:
    """What becomes of every byte as hue, saturation and value."""
    steps = np.arange(256)[:, None] * factors
    steps = np.concatenate([steps[:, :1] % 180, np.clip(steps[:, 1:], 0, 255)], axis=1)
    return steps.astype(np.uint8)


def _mirrored(sample: Sample, code: int, boxes_xyxy: Float32[np.ndarray, "M 4"]) -> Sample:
    image = _by_fours(sample.image, [0.0], lambda part, _: cv2.flip(part, code))
    lesions = None if sample.lesions is None else cv2.flip(sample.lesions, code)
    return Sample(image, boxes_xyxy, sample.labels, lesions)


def _by_fours(
    image: np.ndarray,
    values: list[float],
    function: Callable[[np.ndarray, list[float]], np.ndarray],
) -> np.ndarray:
    # OpenCV's border value has four numbers, and its fast paths end at four channels.
    parts = [
        function(np.ascontiguousarray(image[..., i : i + 4]), values[i : i + 4])
        for i in range(0, image.shape[2], 4)
    ]
    # OpenCV drops the axis of a single channel.
    parts = [part if part.ndim == 3 else part[..., None] for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def _describe(image: np.ndarray) -> str:
    return f"{'x'.join(map(str, image.shape))} {image.dtype}"
