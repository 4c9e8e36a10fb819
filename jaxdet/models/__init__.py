"""Which detectors are there? DETECTORS has one line a model; `build` makes one."""

import importlib
from typing import Any, NamedTuple

from jaxdet.models.detector import Detector


class Entry(NamedTuple):
    """A model's file in this folder, and the fields of its Config that make it this one."""

    family: str
    fields: dict[str, Any]


DETECTORS: dict[str, Entry] = {
    "yolov8n": Entry("yolov8", {"size": "n"}),
    "yolov8s": Entry("yolov8", {"size": "s"}),
    "yolov8m": Entry("yolov8", {"size": "m"}),
    "yolov8l": Entry("yolov8", {"size": "l"}),
    "yolov8x": Entry("yolov8", {"size": "x"}),
}


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
    return importlib.import_module(type(cfg).__module__).build(cfg)


def family(name: str) -> Any:
    """A model's file by name: it holds Config, Outputs, loss, decode and build."""
    families = {entry.family for entry in DETECTORS.values()}
    if name not in families:
        raise ValueError(f"no model family is called {name!r}; there are {', '.join(families)}")
    return importlib.import_module(f"jaxdet.models.{name}")


def skips_empty_images(cfg: Any) -> bool:
    """Whether the official evaluator of this Config's family leaves out slices without detections.

    A quirk of the PixelLink code (facts, gssd_reference 8.1): its file says SKIPS_EMPTY_IMAGES.
    """
    file = importlib.import_module(type(cfg).__module__)
    return getattr(file, "SKIPS_EMPTY_IMAGES", False)


def name_of(cfg: Any) -> str:
    """The DETECTORS name of a Config: the first entry of its family whose fields it has."""
    for name, entry in DETECTORS.items():
        same_family = type(cfg).__module__ == f"jaxdet.models.{entry.family}"
        if same_family and all(getattr(cfg, k) == v for k, v in entry.fields.items()):
            return name
    raise ValueError(f"no detector of the table has this Config: {cfg}")
