"""From files to batches. A submodule is loaded when it is named: `jaxdet.data.volume.read(path)`.

volume     DICOM folders and NIfTI files to Hounsfield units with a place in the patient
images     PNG, JPEG, TIFF and npy of any channel count and precision; windows
sources    a config to the images and truth of one split
formats_*  COCO, YOLO and Pascal VOC, in and out
folds      splits and folds by patient
transforms, mosaic   augmentation;  batch   order and fixed shapes
phantom    the built-in CT
"""

import importlib
from typing import Any

_MODULES = (
    "batch", "folds", "formats", "formats_coco", "formats_voc", "formats_yolo", "images", "layouts",
    "mosaic", "phantom", "sources", "transforms", "volume",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jaxdet.data.{name}")
    raise AttributeError(f"module 'jaxdet.data' has no attribute {name!r}")
