"""What an example of a prepared set holds: CtSlice <-> the features that TFDS stores.

    CtSlice -> to_features -> tf.Example in an array_record -> from_features -> CtSlice

Hounsfield units are kept as they come, int16 or float32, as raw bytes; masks are compressed. What
is the same for all examples (phases, neighbours, class names) is metadata of the set.
"""

import zlib
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxdet.data import duplicates, misalignment
from jaxdet.types import CtSlice

PIXELS = "hu"  # the one large feature, which has a reader of its own (records.py)
LESIONS = "lesions"  # the mask, which training may read without all the others


def features(dtype: Any) -> Any:
    """The tfds FeaturesDict of a set whose Hounsfield units have this type, int16 or float32.

    An array of size 0 stands for None in `lesions`, `livers` and `displacement_mm`.
    """
    import tensorflow_datasets as tfds

    if np.dtype(dtype) not in (np.dtype(np.int16), np.dtype(np.float32)):
        raise ValueError(f"a set stores int16 or float32 Hounsfield units; got {np.dtype(dtype)}")

    def array(rank: int, dtype: Any, encoding: str) -> Any:
        return tfds.features.Tensor(shape=(None,) * rank, dtype=dtype, encoding=encoding)

    large = {
        PIXELS: array(3, dtype, "bytes"),
        LESIONS: array(2, np.uint8, "zlib"),
        "livers": array(3, np.uint8, "zlib"),
        "displacement_mm": array(4, np.float32, "zlib"),
    }
    return tfds.features.FeaturesDict({**_small(), **large})


def truth_features() -> Any:
    """The tfds FeaturesDict of what is known of an example without its pixels and masks."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(_small())


def _small() -> dict[str, Any]:
    import tensorflow_datasets as tfds

    text, number = tfds.features.Text(), tfds.features.Scalar(np.int64)
    numbers = tfds.features.Tensor(shape=(None,), dtype=np.float32)
    return {
        "shape": tfds.features.Tensor(shape=(3,), dtype=np.int64),  # H, W, C of the pixels
        "boxes_xyxy": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
        "labels": tfds.features.Tensor(shape=(None,), dtype=np.int64),
        "diameters_mm": numbers,
        "misaligned_mm": numbers,  # between the phases at the lesion: data/misalignment.py
        "areas_px2": numbers,  # of the lesion's mask; of the box where there is none
        # As bytes, because a tf.Example has no float64 and 0.7 mm would come back as another.
        "spacing_mm": tfds.features.Tensor(shape=(3,), dtype=np.float64, encoding="bytes"),
        "annotated": text,
        "touching": number,
        "patient": text,
        "name": text,
        "z": number,
        "same_pixels": text,  # equal for equal pixels: duplicates.exact
        "near_pixels": text,  # few bits apart for pixels that look alike: duplicates.near
    }


def to_features(one: CtSlice) -> dict[str, Any]:
    """What is stored of a slice. ValueError, with its name, for NaN or infinite HU."""
    if one.hu.dtype.kind == "f" and not np.isfinite(one.hu).all():
        bad = int(np.size(one.hu) - np.isfinite(one.hu).sum())
        raise ValueError(
            f"{one.name}: {bad} of {one.hu.size} pixels are NaN or infinite: export the volume"
            " again, or fill them with the HU of air (-1000)"
        )
    nothing = np.zeros((0, 0), np.uint8), np.zeros((0, 0, 0), np.uint8), np.zeros((0,) * 4, "f4")
    return {
        PIXELS: np.ascontiguousarray(one.hu),
        "shape": np.array(one.hu.shape),
        "boxes_xyxy": one.boxes_xyxy.astype(np.float32),
        "labels": one.labels.astype(np.int64),
        "diameters_mm": one.diameters_mm.astype(np.float32),
        "misaligned_mm": misalignment.misaligned_mm(one),
        "areas_px2": _areas(one),
        LESIONS: nothing[0] if one.lesions is None else one.lesions,
        "livers": nothing[1] if one.livers is None else one.livers.astype(np.uint8),
        "displacement_mm": (
            nothing[2] if one.displacement_mm is None else one.displacement_mm.astype(np.float32)
        ),
        "spacing_mm": np.asarray(one.spacing_mm, np.float64),
        "annotated": one.annotated,
        "touching": one.touching,
        "patient": one.patient,
        "name": one.name,
        "z": one.z,
        "same_pixels": duplicates.exact(one.hu),
        "near_pixels": duplicates.near(one.hu),
    }


def from_features(stored: dict[str, Any], metadata: dict[str, Any]) -> CtSlice:
    """The slice again, out of what a tfds data source of the set gives."""

    def there(name: str) -> np.ndarray | None:
        return stored[name] if stored[name].size else None

    livers = there("livers")
    x, y, z = (float(v) for v in stored["spacing_mm"])
    return CtSlice(
        hu=stored[PIXELS],
        boxes_xyxy=stored["boxes_xyxy"].reshape(-1, 4),
        labels=stored["labels"],
        diameters_mm=stored["diameters_mm"],
        lesions=there(LESIONS),
        livers=None if livers is None else livers.astype(bool),
        displacement_mm=there("displacement_mm"),
        spacing_mm=(x, y, z),
        phases=tuple(metadata["phases"]),
        annotated=_text(stored["annotated"]),
        touching=int(stored["touching"]),
        patient=_text(stored["patient"]),
        name=_text(stored["name"]),
        z=int(stored["z"]),
    )


def unpacked(
    stored: UInt8[np.ndarray, "_"], height: int, width: int
) -> UInt8[np.ndarray, "H W"] | None:
    """The mask of lesions out of the bytes of its feature, read-only; None where there is none.

    ValueError for bytes that are no mask of that size.
    """
    try:
        mask = np.frombuffer(zlib.decompress(stored), np.uint8)
        return mask.reshape(height, width) if mask.size else None
    except (zlib.error, ValueError) as error:
        raise ValueError(f"no lesion mask of {height} x {width} pixels ({error})") from None


def _text(stored: bytes | str) -> str:
    return stored.decode() if isinstance(stored, bytes) else stored


def _areas(one: CtSlice) -> np.ndarray:
    if one.lesions is None:
        sides = one.boxes_xyxy[:, 2:] - one.boxes_xyxy[:, :2]
        return sides.prod(axis=1).astype(np.float32)
    counts = np.bincount(one.lesions.ravel(), minlength=len(one.labels) + 1)
    return counts[1 : len(one.labels) + 1].astype(np.float32)
