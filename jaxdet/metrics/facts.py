"""What is known of the images beside their boxes: whose they are, and what lies in mm."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxdet.metrics.rows import Truth


class Facts(NamedTuple):
    """Of N images; "" and NaN are unknown."""

    patients: tuple[str, ...]
    phases: tuple[str, ...]  # the phase on which the lesions were drawn
    pixel_mm: Float[np.ndarray, "N 2"]  # of x and y
    diameters_mm: tuple[Float[np.ndarray, "_"], ...]  # the longest of each truth, rows as in truths
    misaligned_mm: tuple[Float[np.ndarray, "_"], ...]  # how far the phases lie apart at each truth


def unknown(truths_an_image: Sequence[int]) -> Facts:
    """Facts where nothing is known: every image is a patient of its own, "image 0" and so on."""
    nothing = tuple(np.full(count, np.nan) for count in truths_an_image)
    names = tuple(f"image {i}" for i in range(len(nothing)))
    pixel_mm = np.full((len(nothing), 2), np.nan)
    return Facts(names, ("",) * len(nothing), pixel_mm, nothing, nothing)


def patient_of(images: int, facts: Facts | None) -> Int[np.ndarray, "N"]:
    """The patient of each image as a number from 0, in the order in which they first come.

    Without facts, and where the name is "", an image is a patient of its own. ValueError where the
    facts are of another number of images; it names the first that is left over.
    """
    names = ("",) * images if facts is None else facts.patients
    if len(names) != images:
        raise ValueError(
            f"facts want one patient for each of the {images} images; got {len(names)}: image"
            f" {min(images, len(names))} (counted from 0) is in one of them only"
        )
    numbers: dict[str | int, int] = {}
    return np.array(
        [numbers.setdefault(name or i, len(numbers)) for i, name in enumerate(names)], np.int64
    )


def fitting(facts: Facts | None, images: int, truths: Truth) -> Facts:
    """The facts, or those of images of which nothing is known; one entry an image in each.

    ValueError, with the first image that is left over, where they are of another number of images.
    """
    if facts is None:
        rows = np.zeros(images, np.int64)
        np.maximum.at(rows, truths.image, truths.row + 1)
        return unknown(rows.tolist())
    for name, column in facts._asdict().items():
        if len(column) != images:
            raise ValueError(
                f"facts want one entry for each of the {images} images; {name} has"
                f" {len(column)}: image {min(images, len(column))} (counted from 0) is in one"
                " of them only"
            )
    return facts


def of_truths(values: Sequence[Float[np.ndarray, "_"]], truths: Truth) -> Float[np.ndarray, "M"]:
    """One array an image, such as `diameters_mm`, in the order of the table of truths.

    ValueError, with the image, where an array is shorter than the image's truths.
    """
    lengths = np.array([len(value) for value in values], np.int64)
    known = np.append(lengths, 0)[np.minimum(truths.image, len(lengths))]
    short = np.flatnonzero(truths.row >= known)
    if len(short):
        image, row = truths.image[short[0]], truths.row[short[0]]
        raise ValueError(f"image {image} has a truth in row {row}, but no fact about it")
    starts = np.cumsum(lengths) - lengths
    return np.concatenate([np.zeros(0), *values])[starts[truths.image] + truths.row]
