"""What crosses rooms: Example, Batch, Detections, Volume, Study, CtSlice. No JAX is loaded here.

One box everywhere: xyxy in pixels, float32, x1 and y1 exclusive; a padding box is four zeros with
label -1.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

Array = Any  # a NumPy or a JAX array: jaxtyping checks its shape and dtype

PHASES = ("precontrast", "arterial", "portal", "delayed")  # in the order of the channels


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
    # px of `images`: i + 1 on the lesion of box i, 0 on none. None: only boxes, as in evaluation
    lesions: UInt8[Array, "*B H W"] | None = None


@dataclasses.dataclass(frozen=True)
class Example:
    """One image with its truth, as the data room reads it."""

    image: Shaped[np.ndarray, "H W C"]  # the type of the file, or windowed: float32 in [0, 1]
    boxes_xyxy: Float[np.ndarray, "M 4"]
    labels: Int[np.ndarray, "M"]
    name: str  # the file, or "phantom patient 3 slice 41": what an error message says
    patient: str  # examples of one patient never part
    lesions: UInt8[np.ndarray, "H W"] | None = None  # i + 1 on the lesion of box i; None: not asked


@dataclasses.dataclass(frozen=True)
class Volume:
    """A CT volume in Hounsfield units with its place in the patient (LPS mm, as in DICOM)."""

    hu: Float[np.ndarray, "Z Y X"]  # float32
    spacing_mm: tuple[float, float, float]  # x, y, z
    origin_mm: tuple[float, float, float]  # centre of voxel (0, 0, 0)
    direction: tuple[float, ...]  # row-major 3x3; columns are the directions of x, y, z
    source: str  # the file or folder
    # What reading had to assume or replace, and how often: {"no_rescale": 3} slices.
    faults: dict[str, int] = dataclasses.field(default_factory=dict)

    def to_mm(self, points_xyz: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Voxel coordinates (x, y, z; centre of the first voxel is 0, 0, 0) to patient mm."""
        axes = np.asarray(self.direction, np.float64).reshape(3, 3) * np.asarray(self.spacing_mm)
        return np.asarray(points_xyz, np.float64) @ axes.T + np.asarray(self.origin_mm)

    def to_voxels(self, points_mm: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Patient mm to voxel coordinates (x, y, z): the inverse of `to_mm`."""
        axes = np.asarray(self.direction, np.float64).reshape(3, 3) * np.asarray(self.spacing_mm)
        return (np.asarray(points_mm, np.float64) - self.origin_mm) @ np.linalg.inv(axes).T


@dataclasses.dataclass(frozen=True)
class Study:
    """The CT of one patient: a volume for each phase that is there, with what is known of it."""

    patient: str
    volumes: dict[str, Volume]  # by phase, of PHASES; a missing phase has no entry
    lesions: UInt8[np.ndarray, "Z Y X"] | None  # 0 is none; on the grid of the phase `annotated`
    livers: dict[str, Bool[np.ndarray, "Z Y X"]]  # by phase; none where it is not known
    annotated: str  # the phase on which the lesions were drawn


@dataclasses.dataclass(frozen=True)
class CtSlice:
    """A slice of CT with its neighbours and phases, and all that is known of it."""

    hu: Shaped[np.ndarray, "H W C"]  # int16 or float32 HU; phase-major, in a phase feet to head
    boxes_xyxy: Float[np.ndarray, "N 4"]  # px
    labels: Int[np.ndarray, "N"]
    diameters_mm: Float[np.ndarray, "N"]  # the longest in this slice; NaN where there is no mask
    lesions: UInt8[np.ndarray, "H W"] | None  # i + 1 on the lesion of box i; None: only boxes
    livers: Bool[np.ndarray, "H W P"] | None  # one for each phase
    # Where each phase shows the tissue that the portal phase shows here: x, y, z to add, in the
    # middle of every block of 8 x 8 pixels. Only a phantom knows it.
    displacement_mm: Float[np.ndarray, "h w P 3"] | None
    spacing_mm: tuple[float, float, float]  # x, y, z
    phases: tuple[str, ...]  # the P phases, in the order of the channels
    annotated: str  # the phase on which the lesions were drawn
    touching: int  # lesions of this slice that touch another; a guess where masks are binary
    patient: str
    name: str  # "phantom patient 3 slice 41": what an error message says
    z: int
