"""The input pipeline of GSSD's own code: 8 bits, Pillow's resizing, minus a mean, min-max.

    training     8 bits -> augmentation (data/ssd.py) -> minus mean -> min-max -> 8 bits -> resize
    evaluation   8 bits -> resize -> minus mean -> min-max

The two differ in their order, and training in a second rounding to 8 bits (facts, gssd_reference
6.4, 6.5, quirk 5): both are kept, for this is how the published weights saw their images. Between
the steps an image is float32 of 0 to 255, as there.
"""

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from jaxdet.config import Data
from jaxdet.data.transforms import Letterbox

WHITE = 255.0
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}


def read(image: Shaped[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
    """The image in 8 bits as the loader reads it: x * 255, cut to whole numbers; uint8 as it is."""
    return image if image.dtype == np.uint8 else _cut(image)


def train(image: Float32[np.ndarray, "H W C"], cfg: Data) -> Float32[np.ndarray, "S S C"]:
    """What an augmented image of 0 to 255 enters the model as: f32 in [0, 1], image_size square.

    The whole of it, stretched where it is no square: a crop of SSD seldom is.
    """
    return resize(_cut(min_max(_less_mean(image, cfg))), cfg) / np.float32(WHITE)


def evaluate(
    image: Shaped[np.ndarray, "H W C"], cfg: Data, name: str
) -> tuple[Float32[np.ndarray, "S S C"], Letterbox]:
    """What a whole image enters the model as in evaluation and prediction, and where it lies there.

    f32 in [0, 1], image_size square. ValueError, with `name`, for one that is no square.
    """
    check_square(image, name)
    height, width = image.shape[:2]
    small = resize(read(image), cfg).astype(np.float32)
    place = Letterbox(cfg.image_size / height, 0, 0, height, width)
    return min_max(_less_mean(small, cfg)), place


def check_square(image: Shaped[np.ndarray, "H W C"], name: str) -> None:
    """ValueError unless height is width: stretching has two scales, `Letterbox` but one."""
    height, width = image.shape[:2]
    if height != width or height < 1:
        raise ValueError(
            f"{name}: the official input pipeline stretches images to a square and takes square"
            f' ones only; this one is {height} x {width} (height x width). Set data.input="clean",'
            " or crop or pad it to a square first"
        )


def min_max(image: Float32[np.ndarray, "H W C"]) -> Float32[np.ndarray, "H W C"]:
    """The image with its least value at 0 and its greatest at 1, over all channels together.

    A constant image is 0 everywhere, where the reference divides by zero.
    """
    low, high = image.min(), image.max()
    if not high > low:
        return np.zeros_like(image)
    return (image - low) / (high - low)


def resize(image: UInt8[np.ndarray, "H W C"], cfg: Data) -> UInt8[np.ndarray, "S S C"]:
    """The image at image_size by Pillow's filter, which looks further when it shrinks.

    Three channels at once are an RGB picture to Pillow, as a phase's three slices are there: the
    same numbers as one by one, sooner.
    """
    channels, side = image.shape[2], (cfg.image_size, cfg.image_size)
    step = 3 if channels % 3 == 0 else 1
    out = np.empty((*side, channels), np.uint8)
    for c in range(0, channels, step):
        part = np.ascontiguousarray(image[..., c : c + step])
        picture = Image.fromarray(part if step == 3 else part[..., 0])
        small = np.asarray(picture.resize(side, _FILTERS[cfg.official_filter]))
        out[..., c : c + step] = small.reshape(*side, step)
    return out


def _less_mean(image: Float32[np.ndarray, "H W C"], cfg: Data) -> Float32[np.ndarray, "H W C"]:
    return image - np.float32(WHITE * cfg.official_mean)


def _cut(image: Float32[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
    """[0, 1] to 8 bits, fractions cut off."""
    return (image * np.float32(WHITE)).astype(np.uint8)
