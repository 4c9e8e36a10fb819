"""What a scanner adds: blur and noise with the spectrum of reconstructed CT."""

import functools

import cv2
import numpy as np
import scipy.fft
from jaxtyping import Float

FIELD_MM = 360.0  # side of the square that a slice shows
BLUR_MM = 0.9  # sigma: point spread and the organs' own soft edge
NOISE_PEAK, NOISE_FLOOR = 0.30, 0.06  # f0, f1 of the noise power spectrum, 1/mm


def blur(hu: Float[np.ndarray, "S S"]) -> Float[np.ndarray, "S S"]:
    """A slice through a Gaussian point spread of BLUR_MM."""
    return cv2.GaussianBlur(hu, (0, 0), BLUR_MM * len(hu) / FIELD_MM)


@functools.lru_cache(maxsize=8)
def _spectrum(size: int) -> Float[np.ndarray, "S F"]:
    """Root of the noise power on the grid of rfft2, scaled so that the full band has SD 1.

    Power (f + f1) exp(-(f / f0)^2), the fact sheet's fit to real scans. Coarse pixels cut the band,
    so their noise is less, as after averaging.
    """
    pixel = FIELD_MM / size
    f = np.hypot(np.fft.fftfreq(size, pixel)[:, None], np.fft.rfftfreq(size, pixel)[None, :])
    power = (f + NOISE_FLOOR) * np.exp(-((f / NOISE_PEAK) ** 2))
    whole = 2 * np.pi * (np.sqrt(np.pi) / 4 * NOISE_PEAK**3 + NOISE_FLOOR * NOISE_PEAK**2 / 2)
    return (np.sqrt(power / whole) / pixel).astype(np.float32)


def noise(at: tuple[int, int, int], deviation_hu: float, size: int) -> Float[np.ndarray, "S S"]:
    """Noise of slice `at` (seed, patient, z): r about 0.5 with the next slice, less at the skin."""
    seed, number, z = at
    weights = (0.3, 1.0, 0.3)
    white = sum(
        w
        * np.random.default_rng([seed, number, 3, z + k]).standard_normal((size, size), np.float32)
        for k, w in enumerate(weights)
    ) / np.float32(np.sqrt(sum(w * w for w in weights)))
    grain = scipy.fft.irfft2(scipy.fft.rfft2(white) * _spectrum(size), s=(size, size))
    line = np.linspace(-1, 1, size, dtype=np.float32)
    fall = 1.0 - 0.3 * np.clip(line[:, None] ** 2 + line[None, :] ** 2, 0, 1)
    return (deviation_hu * fall * grain).astype(np.float32)
