"""What crosses rooms: Example, Batch, Detections, Volume. No JAX is loaded here.

One box everywhere: xyxy in pixels, float32, x1 and y1 exclusive; a padding box is four zeros with
label -1.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

Array = Any  # a NumPy or a JAX array: jaxtyping checks its shape and dtype


class Detections(NamedTuple):
    """What a detector found, sorted by falling score and padded to a fixed D."""

    boxes_xyxy: Float[Array, "*B D 4"]  # px of the image that went in
    scores: Float[Array, "*B D"]  # probability; 0 at padding
    labels: Int[Array, "*B D"]  # class index; -1 at padding


class Batch(NamedTuple):
    """One training or evaluation batch, every shape fixed."""

    images: Shaped[Array, "*B H W C"]  # uint8 or float in [0, 1]; ops.images.to_unit joins both
    boxes_xyxy: Float[Array, "*B M 4"]  # px of `images`
    labels: Int[Array, "*B M"]  # class index; -1 pads
    index: Int[Array, "*B"]  # position in the dataset; -1 marks an image that only fills the batch


@dataclasses.dataclass(frozen=True)
class Example:
    """One image with its truth, as the data room reads it."""

    image: Shaped[np.ndarray, "H W C"]  # the type of the file, or windowed: float32 in [0, 1]
    boxes_xyxy: Float[np.ndarray, "M 4"]
    labels: Int[np.ndarray, "M"]
    name: str  # the file, or "phantom patient 3 slice 41": what an error message says
    patient: str  # examples of one patient never part


@dataclasses.dataclass(frozen=True)
class Volume:
    """A CT volume in Hounsfield units with its place in the patient (LPS mm, as in DICOM)."""

    hu: Float[np.ndarray, "Z Y X"]  # float32
    spacing_mm: tuple[float, float, float]  # x, y, z
    origin_mm: tuple[float, float, float]  # centre of voxel (0, 0, 0)
    direction: tuple[float, ...]  # row-major 3x3; columns are the directions of x, y, z
    source: str  # the file or folder

    def to_mm(self, points_xyz: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Voxel coordinates (x, y, z; centre of the first voxel is 0, 0, 0) to patient mm."""
        axes = np.asarray(self.direction, np.float64).reshape(3, 3) * np.asarray(self.spacing_mm)
        return np.asarray(points_xyz, np.float64) @ axes.T + np.asarray(self.origin_mm)

    def to_voxels(self, points_mm: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Patient mm to voxel coordinates (x, y, z): the inverse of `to_mm`."""
        axes = np.asarray(self.direction, np.float64).reshape(3, 3) * np.asarray(self.spacing_mm)
        return (np.asarray(points_mm, np.float64) - self.origin_mm) @ np.linalg.inv(axes).T
