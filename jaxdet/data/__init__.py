"""From files to batches. A submodule is loaded when it is named: `jaxdet.data.volume.read(path)`.

volume     DICOM folders and NIfTI files to Hounsfield units with a place in the patient
phases     which series is which phase;  slices  2.5-D stacks;  masks  masks to boxes and mm
registration/  phases onto the portal phase;  archives  zip and tar, safely
images     PNG, JPEG, TIFF and npy of any channel count and precision; windows
sources    a config to the images and truth of one split
builders/  prepared sets in TFDS form: phantoms, slices, LiTS, four phases; written and read
formats_*  COCO, YOLO, Pascal VOC and CSV boxes
duplicates the same patient or the same pixels twice
folds      splits and folds by patient
transforms, mosaic   augmentation;  batch   order and fixed shapes
patches    a slice in patches, for PCA-YOLO's Siamese;  attended  slices with their attention map
phantom    the built-in CT
"""

import importlib
from typing import Any

_MODULES = (
    "archives", "attended", "batch", "builders", "dicom", "duplicates", "folds", "formats",
    "formats_coco", "formats_csv", "formats_voc", "formats_yolo", "images", "layouts", "masks",
    "mosaic", "patches", "phantom", "phases", "registration", "slices", "sources", "transforms",
    "volume",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jaxdet.data.{name}")
    raise AttributeError(f"module 'jaxdet.data' has no attribute {name!r}")
