"""Small slices with a known warp: organs of two contrasts, drawn at points of the anatomy."""

import cv2
import numpy as np
import pytest

from jaxdet.types import CtSlice

SIZE = 96  # px
# x, y, half-axes as shares of the side; HU in the portal and in another phase
ORGANS = (
    (0.50, 0.52, 0.42, 0.36, 60, 50),
    (0.50, 0.50, 0.36, 0.29, -90, -90),
    (0.36, 0.47, 0.19, 0.19, 110, 80),  # liver
    (0.52, 0.38, 0.13, 0.09, 110, 80),  # liver
    (0.70, 0.55, 0.09, 0.13, 120, 150),
    (0.50, 0.76, 0.07, 0.07, 220, 210),
    (0.54, 0.64, 0.03, 0.03, 150, 300),
    (0.30, 0.45, 0.05, 0.05, 70, 120),  # lesion
)


def draw(phase, shift=(0.0, 0.0), degrees=0.0, bend=0.0, size=SIZE, seed=0):
    """HU int16, liver and lesion of a slice whose pixel q shows the anatomy at a warped place."""
    y, x = np.indices((size, size), np.float64)
    angle, middle = np.deg2rad(degrees), (size - 1) / 2
    u, v = x - middle, y - middle
    x = np.cos(angle) * u - np.sin(angle) * v + middle + shift[0] + bend * np.sin(v / 14)
    y = np.sin(angle) * u + np.cos(angle) * v + middle + shift[1] + bend * np.sin(u / 16)
    inside = [
        ((x - cx * size) / (a * size)) ** 2 + ((y - cy * size) / (b * size)) ** 2 < 1
        for cx, cy, a, b, *_ in ORGANS
    ]
    hu = np.full(x.shape, -1000.0)
    for where, (*_, portal, other) in zip(inside, ORGANS, strict=True):
        hu[where] = other if phase else portal
    hu += np.where(inside[2] | inside[3], 40 * np.sin(x / 4) * np.sin(y / 5), 0)  # as vessels do
    noise = np.random.default_rng((seed, phase)).normal(0, 10, hu.shape)
    hu = cv2.GaussianBlur(hu, (0, 0), 0.7) + noise
    return np.rint(hu).astype(np.int16), inside[2] | inside[3], inside[-1]


@pytest.fixture(scope="session")
def slice_of():
    return draw


@pytest.fixture(scope="session")
def case_of():
    """A CtSlice of three phases and three neighbours; the arterial phase is displaced."""

    def make(annotated="arterial", shift=(3.0, -4.0), size=48, seed=0):
        phases = ("precontrast", "arterial", "portal")
        drawn = {
            "precontrast": [draw(1, size=size, seed=seed + s) for s in range(3)],
            "arterial": [draw(1, (shift[0], shift[1] + s - 1), size=size) for s in range(3)],
            "portal": [draw(0, size=size, seed=s) for s in range(3)],
        }
        lesion = drawn[annotated][1][2].astype(np.uint8)
        y, x = np.nonzero(lesion)
        box = [[x.min(), y.min(), x.max() + 1, y.max() + 1]]
        return CtSlice(
            hu=np.stack([drawn[p][s][0] for p in phases for s in range(3)], axis=-1),
            boxes_xyxy=np.array(box, np.float32),
            labels=np.array([4], np.int32),
            diameters_mm=np.array([9.0], np.float32),
            lesions=lesion,
            livers=np.stack([drawn[p][1][1] for p in phases], axis=-1),
            displacement_mm=np.zeros((size // 8, size // 8, 3, 3), np.float32),
            spacing_mm=(0.8, 0.8, 2.5),
            phases=phases,
            annotated=annotated,
            touching=0,
            patient="p",
            name="patient p slice 5",
            z=5,
        )

    return make
