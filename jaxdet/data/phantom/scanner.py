"""What a scanner adds to a slice: blur, noise with the spectrum of reconstructed CT, artefacts.

    HU of the tissues -> point spread -> correlated noise -> cupping, bands -> HU of the image

Numbers follow the project's fact sheet on abdominal CT, section 6, which has them from real scans.
"""

import dataclasses
import functools
from typing import NamedTuple

import cv2
import numpy as np
import scipy.fft
import scipy.ndimage
from jaxtyping import Float

from jaxdet.data.phantom.sets import Set
from jaxdet.data.phantom.tissue import Kind
from jaxdet.types import PHASES

FIELD_RANGE_MM = (300.0, 450.0)
PATCH_MM = 8.0  # of the patches in which noise is measured, after a plane is taken away
REFERENCE_PX = 512  # at which the deviation of the noise is what Scanner.noise_hu says
LIVER_LEVEL = 0.906  # mean of the noise map over the liver; found with anatomy.liver, 12 patients
SMOOTH_NOISE = 0.15  # SD of the logarithm of the noise map's own irregularity
BAND_STEP_MM = (5.0, 2.0)  # z and y, of the grid on which bands are drawn
OFFSET = 1 << 12  # makes seeds of slices below 0, and of their neighbours, positive
FWHM = 2.3548  # of a Gaussian, in its SD


class Protocol(NamedTuple):
    """What one kind of set draws its scanners from."""

    noise_hu: float  # median of the log-normal SD of 8-mm patches in the liver
    psf_mm: tuple[float, float]  # FWHM in plane: mean, SD
    peaks: tuple[tuple[float, float, float, float], ...]  # share, f0, f1 (1/mm), aniso
    artefacts: float  # strength: set 1 is without slices that show any clearly


PROTOCOLS: dict[Kind, Protocol] = {
    "sltd": Protocol(17.0, (1.4, 0.15), ((1.0, 0.30, 0.06, 1.0),), 0.5),
    # Several machines; three in ten with filtered back projection.
    "multiphase": Protocol(
        12.0,
        (1.5, 0.2),
        ((0.4, 0.30, 0.06, 1.5), (0.3, 0.33, 0.05, 1.5), (0.3, 0.40, 0.04, 0.5)),
        1.0,
    ),
}
NOISE_SPREAD, PHASE_SPREAD = 0.25, 0.08  # of ln SD: between patients, between phases of one (r .9)


@dataclasses.dataclass(frozen=True)
class Scanner:
    """One machine with one patient in it."""

    size: int  # px of a slice's side
    pixel_mm: float
    pitch_mm: float  # from one slice to the next
    thickness_mm: float
    body_mm: float  # width of the patient, left to right
    psf_mm: float  # FWHM in plane
    noise_hu: tuple[float, float, float, float]  # in the liver, by phase: see Protocol.noise_hu
    peak: float  # f0 of the noise power (f + f1) exp(-(f / f0)^2) (1 + aniso fy^2 / f^2), 1/mm
    floor: float  # f1, 1/mm
    aniso: float  # noise is longer from left to right, where the body absorbs most
    edge: float  # noise at the skin as a share of that in the middle
    cupping_hu: float  # how much darker the middle is
    bands_hu: float  # SD of horizontal bands; 0 unless the arms were down


def draw(rng: np.random.Generator, kind: Kind, body_mm: float, which: Set) -> Scanner:
    """The scanner of one patient `body_mm` wide, for slices as the set `which` has them.

    The field of view follows the patient's width (1.08 of it, 300 to 450 mm). At 512 px the noise
    has the deviation drawn; coarser pixels cut its band, as after averaging.
    """
    table = PROTOCOLS[kind]
    field = float(np.clip(1.08 * body_mm + rng.normal(10.0, 12.0), *FIELD_RANGE_MM))
    noise = table.noise_hu * np.exp(NOISE_SPREAD * np.clip(rng.normal(), -2.5, 2.5))
    by_phase = noise * np.exp(PHASE_SPREAD * rng.normal(size=len(PHASES)).clip(-2, 2))
    row = int(rng.choice(len(table.peaks), p=[peak[0] for peak in table.peaks]))
    _, peak, floor, aniso = table.peaks[row]
    arms_down = rng.random() < 0.1
    return Scanner(
        size=which.size,
        pixel_mm=field / which.size,
        pitch_mm=which.pitch_mm,
        thickness_mm=which.thickness_mm,
        body_mm=float(body_mm),
        psf_mm=float(np.clip(rng.normal(*table.psf_mm), 1.0, 2.2)),
        noise_hu=tuple(float(v) for v in by_phase),
        peak=peak,
        floor=floor,
        aniso=aniso,
        edge=float(rng.uniform(0.65, 0.75)),
        cupping_hu=float(table.artefacts * rng.uniform(2.0, 5.0)),
        bands_hu=float(table.artefacts * rng.uniform(5.0, 15.0) / 2) if arms_down else 0.0,
    )


def expose(
    hu: Float[np.ndarray, "S S"], scanner: Scanner, at: tuple[int, int, int, int]
) -> Float[np.ndarray, "S S"]:
    """The image of a slice: blurred, with noise and artefacts, float32 in [-1024, 3071] HU.

    `at` is (seed, patient, index of the phase in PHASES, slice). The noise depends on it and on the
    scanner alone, never on what is in the slice. ValueError: `hu` has another size.
    """
    if hu.shape != (scanner.size, scanner.size):
        raise ValueError(
            f"scanner.expose wants a slice of {scanner.size} x {scanner.size} px, the size that "
            f"scanner.draw was given; got {hu.shape}"
        )
    image = blur(np.asarray(hu, np.float32), scanner)
    dense = np.clip(image * np.float32(1e-3) + np.float32(1), 0, 1)  # air has no artefacts
    image += artefacts(scanner, at) * dense
    image += noise(scanner, at)
    return np.clip(image, -1024.0, 3071.0, out=image)


def blur(hu: Float[np.ndarray, "S S"], scanner: Scanner) -> Float[np.ndarray, "S S"]:
    """A slice through the Gaussian point spread in its plane."""
    return cv2.GaussianBlur(hu, (0, 0), scanner.psf_mm / FWHM / scanner.pixel_mm)


def noise(scanner: Scanner, at: tuple[int, int, int, int]) -> Float[np.ndarray, "S S"]:
    """The noise of a slice in HU, correlated with its neighbours' as the slices overlap."""
    seed, number, phase, z = at
    taps = _taps(scanner.pitch_mm / scanner.thickness_mm)
    reach = len(taps) // 2
    white = sum(
        tap * _white(seed, number, phase, z + k - reach, scanner.size) for k, tap in enumerate(taps)
    )
    size = scanner.size
    colour = _colour(size, scanner.pixel_mm, scanner.peak, scanner.floor, scanner.aniso)
    spectrum = scipy.fft.rfft2(white, workers=1)
    spectrum *= colour
    grain = scipy.fft.irfft2(spectrum, s=(size, size), workers=1, overwrite_x=True)
    grain *= _level(scanner, seed, number)
    grain *= np.float32(scanner.noise_hu[phase] / LIVER_LEVEL)
    return grain


def artefacts(scanner: Scanner, at: tuple[int, int, int, int]) -> Float[np.ndarray, "S S"]:
    """Cupping, and horizontal bands where the arms lie beside the body, in HU of dense tissue."""
    seed, number, phase, z = at
    cupping = -scanner.cupping_hu * (1.0 - _radius2(scanner)).clip(0, 1)
    if not scanner.bands_hu:
        return cupping.astype(np.float32)
    rows = (np.arange(scanner.size) + 0.5) * scanner.pixel_mm / BAND_STEP_MM[1]
    height = np.full(scanner.size, z * scanner.pitch_mm / BAND_STEP_MM[0])
    bands = scipy.ndimage.map_coordinates(
        _bands(seed, number, phase), (height, rows), order=1, mode="grid-wrap"
    )
    return (cupping + scanner.bands_hu * bands[:, None]).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _bands(seed: int, number: int, phase: int) -> Float[np.ndarray, "Z Y"]:
    """Bands of SD 1, about 6 mm high and 20 mm deep, periodic."""
    field = np.random.default_rng([seed, number, 32, phase]).normal(size=(64, 256))
    field = scipy.ndimage.gaussian_filter(field, (2.0, 1.5), mode="wrap")
    return (field / field.std()).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _white(seed: int, number: int, phase: int, z: int, size: int) -> Float[np.ndarray, "S S"]:
    """White noise of one height. Neighbouring slices share it, so it is kept for a while."""
    rng = np.random.default_rng([seed, number, 30, phase, z + OFFSET])
    plane = rng.standard_normal((size, size), np.float32)
    plane.flags.writeable = False
    return plane


@functools.lru_cache(maxsize=8)
def _taps(step: float) -> tuple[np.float32, ...]:
    """Weights that let slices `step` thicknesses apart correlate as two Gaussian profiles do.

    With s = thickness / 2.355 the correlation at distance d is exp(-d^2 / (4 s^2)). The taps are
    the root of its spectrum, so they have that correlation themselves; squares sum to 1.
    """
    lag = np.minimum(np.arange(64), 64 - np.arange(64)) * step
    wanted = np.exp(-((lag * FWHM) ** 2) / 4)
    taps = np.fft.fftshift(np.fft.ifft(np.sqrt(np.fft.fft(wanted).real.clip(0))).real)
    reach = int(np.flatnonzero(abs(taps[32:]) > 0.02 * taps[32]).max())
    taps = taps[32 - reach : 33 + reach]
    return tuple(np.float32(t) for t in taps / np.sqrt((taps**2).sum()))


def _power(
    fy: np.ndarray, fx: np.ndarray, peak: float, floor: float, aniso: float
) -> Float[np.ndarray, "Y X"]:
    """Noise power density in mm^2, of unit variance over all frequencies."""
    f2 = fy * fy + fx * fx
    f = np.sqrt(f2)
    lengthwise = 1.0 + aniso * fy * fy / np.maximum(f2, 1e-12)
    whole = 2 * np.pi * (1 + aniso / 2) * (np.sqrt(np.pi) / 4 * peak**3 + floor * peak**2 / 2)
    return (f + floor) * np.exp(-((f / peak) ** 2)) * lengthwise / whole


@functools.lru_cache(maxsize=8)
def _colour(
    size: int, pixel_mm: float, peak: float, floor: float, aniso: float
) -> Float[np.ndarray, "S F"]:
    """Turns white noise on the grid of rfft2 into noise of SD 1 in 8-mm patches at 512 px."""
    fy, fx = scipy.fft.fftfreq(size, pixel_mm)[:, None], scipy.fft.rfftfreq(size, pixel_mm)[None]
    root = np.sqrt(_power(fy, fx, peak, floor, aniso)) / pixel_mm
    reference = size * pixel_mm / REFERENCE_PX
    return (root / _patch_deviation(reference, peak, floor, aniso)).astype(np.float32)


def _patch_deviation(pixel_mm: float, peak: float, floor: float, aniso: float) -> float:
    """SD of unit noise inside patches of PATCH_MM after the plane of best fit is taken away.

    The patch has n^2 pixels; mean and slopes take away what the spectrum has in three orthogonal
    patterns of it, so no noise has to be drawn.
    """
    n, grid = max(3, round(PATCH_MM / pixel_mm)), 128
    frequency = np.fft.fftfreq(grid, pixel_mm)
    power = _power(frequency[:, None], frequency[None, :], peak, floor, aniso)
    power = power * (frequency[1] - frequency[0]) ** 2  # variance of each frequency
    line = np.arange(n) - (n - 1) / 2
    flat, slope = np.ones(n) / np.sqrt(n), line / np.linalg.norm(line)
    taken = 0.0
    for column, row in ((flat, flat), (flat, slope), (slope, flat)):
        seen = abs(np.fft.fft(column, grid))[:, None] ** 2 * abs(np.fft.fft(row, grid))[None] ** 2
        taken += float((power * seen).sum())
    return float(np.sqrt(power.sum() - taken / n**2))


def _radius2(scanner: Scanner) -> Float[np.ndarray, "S S"]:
    """Squared distance from the middle: 1 at the skin, whose front to back is 0.74 of its width."""
    half = scanner.body_mm / 2
    line = (np.arange(scanner.size, dtype=np.float32) - (scanner.size - 1) / 2) * scanner.pixel_mm
    return (line[None, :] / half) ** 2 + (line[:, None] / (0.74 * half)) ** 2


@functools.lru_cache(maxsize=8)
def _level(scanner: Scanner, seed: int, number: int) -> Float[np.ndarray, "S S"]:
    """Noise at each pixel against the middle: less at the skin, a little irregular."""
    fall = 1.0 - (1.0 - scanner.edge) * _radius2(scanner).clip(0, 1)
    coarse = np.random.default_rng([seed, number, 31]).standard_normal((7, 7)).astype(np.float32)
    smooth = cv2.resize(coarse, (scanner.size, scanner.size), interpolation=cv2.INTER_CUBIC)
    return (fall * np.exp(SMOOTH_NOISE * smooth.clip(-2, 2))).astype(np.float32)
