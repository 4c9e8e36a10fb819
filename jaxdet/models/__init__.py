"""Which detectors are there? DETECTORS has one line a model; `build` makes one."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from jaxdet.models.detector import Detector
from jaxdet.types import Array, Detections


class Entry(NamedTuple):
    """A model's file in this folder, and the fields of its Config that make it this one."""

    family: str
    fields: dict[str, Any]


_PLAIN = {"attention_trunk": "none", "attention_heads": "none", "align": "none"}
DETECTORS: dict[str, Entry] = {
    "yolov8n": Entry("yolov8", {"size": "n"}),
    "yolov8s": Entry("yolov8", {"size": "s"}),
    "yolov8m": Entry("yolov8", {"size": "m"}),
    "yolov8l": Entry("yolov8", {"size": "l"}),
    "yolov8x": Entry("yolov8", {"size": "x"}),
    "pca_yolo": Entry("pca_yolo", {}),
    "ssd": Entry("gssd", {"groups": 1, "fuse": "none", **_PLAIN}),
    "gssd": Entry("gssd", _PLAIN),
    "gssd_pp": Entry("gssd", {}),
    "pixellink": Entry("pixellink", {"groups": 1, "fuse": "none", **_PLAIN}),
    "pixellink_g": Entry("pixellink", _PLAIN),
    "pixellink_pp": Entry("pixellink", {}),
    "mscr": Entry("mscr", {}),
}
SCORERS = ("siamese",)  # families that a RUN may hold, but no detectors


def config(name: str, **fields: Any) -> Any:
    """The Config of a detector; a keyword is one of its fields, anything else an error."""
    if name not in DETECTORS:
        raise ValueError(f"no detector is called {name!r}; there are {', '.join(DETECTORS)}")
    entry = DETECTORS[name]
    return family(entry.family).Config(**{**entry.fields, **fields})


def build(name: str, **fields: Any) -> Detector:
    """A Detector by name, `build("yolov8n", num_classes=3)`."""
    return from_config(config(name, **fields))


def from_config(cfg: Any) -> Detector:
    """The Detector of a Config, whose class lies in its model's file."""
    return _file(cfg).build(cfg)


def module(cfg: Any) -> nn.Module:
    """The Linen module of a detector's or a scorer's Config."""
    built = _file(cfg).build(cfg)
    return built.module if isinstance(built, Detector) else built


def example(cfg: Any, side: int) -> tuple[Array, ...]:
    """Zeros that the module of a Config can be started with; `side` is that of the images, in px.

    One image, unless the model's file says otherwise by a function of this name. A Config that
    names the one size of its images decides itself.
    """
    file, side = _file(cfg), getattr(cfg, "image_size", side)
    if hasattr(file, "example"):
        return file.example(cfg, side)
    return (np.zeros((1, side, side, cfg.channels), np.float32),)


def program(cfg: Any) -> Callable[[Any, Array], Detections]:
    """(variables, raw images) -> Detections: all stages of a model, to be compiled as one.

    Of most models it is `Detector.detect`; a file with stages has a function detect_raw.
    """
    return _file(cfg).detect_raw(cfg) if has_stages(cfg) else from_config(cfg).detect


def has_stages(cfg: Any) -> bool:
    """Whether another network prepares the images first: its file has a function detect_raw."""
    return hasattr(_file(cfg), "detect_raw")


def is_scorer(cfg: Any) -> bool:
    """Whether this Config is of a network that scores patches: it has no boxes."""
    return _file(cfg).__name__.rsplit(".", 1)[-1] in SCORERS


def wants_squares(cfg: Any) -> bool:
    """Whether images are cut into patches, so that padding would be scored like tissue."""
    return has_stages(cfg) or is_scorer(cfg)


def raw_channels(cfg: Any) -> int:
    """Channels of the images as the data room gives them; before maps that a model adds itself."""
    return getattr(_file(cfg), "RAW_CHANNELS", cfg.channels)


def family(name: str) -> Any:
    """A model's file by name: it holds Config, Outputs, loss, decode and build."""
    families = {entry.family for entry in DETECTORS.values()} | {*SCORERS}
    if name not in families:
        raise ValueError(
            f"no model family is called {name!r}; there are {', '.join(sorted(families))}"
        )
    return importlib.import_module(f"jaxdet.models.{name}")


def official_data(cfg: Any) -> dict[str, Any]:
    """Fields of config.Data that the official weights of this Config's family were trained with.

    {} where they want plain images. A file whose weights do not has OFFICIAL_DATA; it is for as
    many phases as it names.
    """
    fields = getattr(_file(cfg), "OFFICIAL_DATA", {})
    fits = len(fields.get("phases", ())) == getattr(cfg, "phases", 0)
    return fields if fits else {}


def aligned(cfg: Any) -> tuple[int, float, float] | None:
    """Which level a Config aligns and where its places lie, as its file's `aligned` tells.

    None where phases are not aligned.
    """
    if getattr(cfg, "align", "none") == "none":
        return None
    return _file(cfg).aligned(cfg)


def skips_empty_images(cfg: Any) -> bool:
    """Whether the official evaluator of this Config's family leaves out slices without detections.

    A quirk of the PixelLink code (facts, gssd_reference 8.1): its file says SKIPS_EMPTY_IMAGES.
    """
    return getattr(_file(cfg), "SKIPS_EMPTY_IMAGES", False)


def draws_otherwise(cfg: Any) -> bool:
    """Whether the authors of this Config's family draw other boxes: `official_decode` has them."""
    return hasattr(_file(cfg), "decode_officially")


def official_decode(cfg: Any) -> Callable[[Any], Detections]:
    """Outputs of one image, on the host, to its Detections as the authors' code draws them.

    ValueError for a Config whose file has no `decode_officially`, as most have not.
    """
    if not draws_otherwise(cfg):
        raise ValueError(
            f"boxes of the authors' code are known of PixelLink and MSCR, not of {name_of(cfg)}: "
            "set evaluate.boxes=model"
        )
    return functools.partial(_file(cfg).decode_officially, cfg=cfg)


def counter(cfg: Any) -> Callable[[Any, Array], Array] | None:
    """(variables, images) -> how many lesions each image has, beyond `max_detections` too.

    None for a Config whose file has no `count`: one that ranks anchors has no such number.
    """
    count = getattr(_file(cfg), "count", None)
    if count is None:
        return None
    module = from_config(cfg).module
    return lambda variables, images: count(module.apply(variables, images), cfg=cfg)


def wants_masks(cfg: Any) -> str:
    """The field by which a Config learns from masks of lesions, in words; "" where none does."""
    fields = {"truth": "box", "segmentation": "none"}
    told = {name: getattr(cfg, name, plain) for name, plain in fields.items()}
    return " and ".join(f"model.{k}={v}" for k, v in told.items() if v != fields[k])


def name_of(cfg: Any) -> str:
    """The DETECTORS name of a Config: the first entry of its family whose fields it has."""
    for name, entry in DETECTORS.items():
        same_family = type(cfg).__module__ == f"jaxdet.models.{entry.family}"
        if same_family and all(getattr(cfg, k) == v for k, v in entry.fields.items()):
            return name
    raise ValueError(f"no detector of the table has this Config: {cfg}")


def _file(cfg: Any) -> Any:
    return importlib.import_module(type(cfg).__module__)
