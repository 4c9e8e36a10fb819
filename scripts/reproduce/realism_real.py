"""The real slices that the realism table and its pictures lean on: C20 and T03.

C20 is a contrast DICOM series of 20 slices, 3 mm thick every 2 mm, with organ labels made by a
model; T03 are portal slices of many patients as JPEG, grey = HU clipped to 0..255. Both are small:
anchors of sanity, not truth about all CT.
"""

import dataclasses
import json
import pathlib

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxdet.data import images, volume

LIVER, SPLEEN, AORTA, CAVA = 5, 1, 52, 63  # TotalSegmentator's numbers
T03_PIXEL_MM = 1.5  # estimate: 256 px over an abdominal field of view; the JPEGs do not tell


@dataclasses.dataclass(frozen=True)
class Series:
    """C20."""

    hu: Float[np.ndarray, "Z Y X"]
    labels: UInt8[np.ndarray, "Z Y X"]
    pixel_mm: float
    pitch_mm: float


def series(shared: pathlib.Path) -> Series:
    """C20 with its labels, slices feet to head."""
    folder = shared / "data" / "totalseg_ct"
    ct = volume.to_lps(volume.read(folder / "dicom_20slices"))
    labels = volume.read_labels(folder / "example_seg_dicom.nii.gz", ct)
    return Series(ct.hu, labels, ct.spacing_mm[0], ct.spacing_mm[2])


def portal_slices(
    shared: pathlib.Path,
) -> list[tuple[str, Float[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]]:
    """T03: patient, HU as a radiology viewer shows them, and the liver with its tumours."""
    folder = shared / "data" / "msd_task03_liver"
    found = []
    for name in sorted(json.loads((folder / "liver_boxes.json").read_text())):
        turn, patient, _ = name.split("_")
        quarter = {"flipped": 1, "mirrored": -1}[turn]
        hu, mask = (
            np.rot90(images.read(folder / kind / name, channels=1)[..., 0], quarter)
            for kind in ("images", "masks")
        )
        found.append((patient, hu.astype(np.float32), mask > 127))
    return found
