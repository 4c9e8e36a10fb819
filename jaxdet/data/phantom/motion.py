"""How breathing moves the viscera between the phases, while spine, ribs and wall nearly stay.

A motion is a backward map: the tissue seen at x in a phase lies at x' in the portal phase,

    s  = x + g(x)               the whole body on the table: in-plane shift, stretch, belly wall
    x' = s + w(s) u(s)          the viscera: shift, rotation, scale, smooth warp

w falls to 0 towards the peritoneal wall and the spine, so organs slide off neither. The portal
phase is the reference and does not move. The form, and set K of the deviations, are those of the
project's fact sheet on abdominal CT, section 8; STRENGTH is fitted to this phantom's own liver.
"""

import dataclasses

import numpy as np
import scipy.ndimage
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from jaxdet.data.phantom import anatomy
from jaxdet.data.phantom.shapes import Points
from jaxdet.types import PHASES

REFERENCE = "portal"
# On all deviations below. Found by `scripts/reproduce/motion.py --fit` (seed 0, 160 patients) as
# the factor at which the mean Dice of the livers over the four-phase set's data points is that of
# paper 2's Table II, unregistered: .900. Seed 1 is the recorded check.
STRENGTH = 0.98

SHIFT_MM = (2.0, 2.5, 4.0)  # SD of x, y, z; the mean of z was taken out by hand in paper 2
TURN_DEG = 2.0  # SD about each axis
SCALE = (0.03, 0.03, 0.02)  # SD of x, y, z
WARP_MM, WARP_SIGMA_MM = 3.0, 16.0  # SD of each component, and of the Gaussian that smooths it
BODY_MM, STRETCH, WALL_MM = 2.0, 0.01, 1.5  # SD: body in plane, front to back, belly wall
MOST = 2.2  # in SD; more would fold tissue over itself beside the wall

LIVER_CENTRE_MM = (-72.0, -8.0, 10.0)  # about which the viscera turn
WALL_MM_DEEP, SPINE_MM_OFF = (8.0, 6.0), (6.0, 4.0)  # w: where it is a half, and its softness
SPINE_RADIUS_MM = 20.0
BELLY_MM = (20.0, -100.0)  # y between which the wall's own movement grows from none to full
GRID_MM, GRID_LOW_MM, GRID_SHAPE = 8.0, (-176.0, -136.0, -120.0), (43, 31, 31)  # x, y, z
TOLERANCE_MM, WHOLE_STEPS, STEPS = 0.01, 30, 200


@dataclasses.dataclass(frozen=True)
class Motion:
    """What moves one phase against the portal one. All in mm, in the frame of the body."""

    matrix: Float[np.ndarray, "3 3"]  # of u: linear part, about LIVER_CENTRE_MM
    shift_mm: Float[np.ndarray, "3"]  # of u
    warp_mm: Float[np.ndarray, "Z Y X 3"]  # of u, on a grid of GRID_MM
    body_mm: tuple[float, float]  # of g: x, y
    stretch: float  # of g: relative, front to back
    wall_mm: float  # of g: the belly wall, front to back


def draw(rng: np.random.Generator, strength: float = 1.0) -> dict[str, Motion]:
    """One patient's motions by phase, each drawn on its own; `strength` 0 is no motion at all.

    At 1 the unregistered Dice of the liver is that of paper 2. Draws end at 2.2 SD: heavier tails
    (a poorly held breath) are real, but paper 2's Dice is no measurement of them.
    """
    return {
        phase: _motion(rng, 0.0 if phase == REFERENCE else STRENGTH * strength) for phase in PHASES
    }


def pull(motion: Motion, body: anatomy.Body, points: Points) -> Points:
    """Where in the portal phase the tissue lies that the phase shows at `points`.

    Three full float32 arrays of the shape to which `points` broadcast. A slice, x [1, W], y [H, 1]
    and a number z, is quick: the warp's planes are interpolated one axis after the other.
    """
    x, y, z = rest = tuple(np.asarray(p, np.float32) for p in pull_static(motion, points))
    warp = _warp(motion, rest)
    dx, dy, dz = (p - np.float32(c) for p, c in zip(rest, LIVER_CENTRE_MM, strict=True))
    u = []
    for k in range(3):
        a, b, c = motion.matrix[k].astype(np.float32)
        u.append(warp[k] + (b * dy + (c * dz + np.float32(motion.shift_mm[k]))) + a * dx)
    weight = _freedom(body, rest)
    return x + weight * u[0], y + weight * u[1], z + weight * u[2]


def pull_static(motion: Motion, points: Points) -> Points:
    """The same for spine, ribs and wall, which only the whole body's movement takes along.

    Each coordinate keeps the shape it came in: x is moved by its own place alone, and so is y.
    """
    x, y, z = points
    front = np.clip((y - BELLY_MM[0]) / (BELLY_MM[1] - BELLY_MM[0]), 0.0, 1.0)
    belly = motion.wall_mm * front * front * (3 - 2 * front)
    return x + motion.body_mm[0], y + (motion.body_mm[1] + motion.stretch * y + belly), z


def displacement_mm(
    motion: Motion, body: anatomy.Body, points: Points
) -> Float[np.ndarray, "*S 3"]:
    """How far from `points` of the portal phase the phase shows the same tissue: x, y, z in mm.

    The inverse of `pull`, less the points, by fixed-point iteration to 0.01 mm. RuntimeError where
    it does not converge, which a motion that does not fold never shows.
    """
    arrays = np.broadcast_arrays(*(np.asarray(p, np.float32) for p in points))
    wanted = np.stack([a.ravel() for a in arrays]).astype(np.float64)
    seen, left = wanted.copy(), np.arange(wanted.shape[1])
    for step in range(STEPS):
        there = np.stack(pull(motion, body, tuple(seen[:, left]))).astype(np.float64)
        off = there - wanted[:, left]
        # Half steps converge also where tissue is stretched to twice its length and more.
        seen[:, left] -= off if step < WHOLE_STEPS else 0.5 * off
        left = left[np.abs(off).max(axis=0) > TOLERANCE_MM / 2]
        if not len(left):
            return (seen - wanted).T.reshape(*arrays[0].shape, 3).astype(np.float32)
    raise RuntimeError(f"phantom: motion folds at {len(left)} points; a fault of the phantom")


def _motion(rng: np.random.Generator, strength: float) -> Motion:
    def normal(deviation: float | tuple, count: int) -> Float[np.ndarray, "N"]:
        return strength * np.asarray(deviation) * rng.normal(size=count).clip(-MOST, MOST)

    turn = Rotation.from_rotvec(np.deg2rad(normal(TURN_DEG, 3))).as_matrix()
    matrix = turn @ np.diag(1 + normal(SCALE, 3)) - np.eye(3)
    shift, body = normal(SHIFT_MM, 3), normal(BODY_MM, 2)
    stretch, wall = (float(normal(sd, 1)[0]) for sd in (STRETCH, WALL_MM))
    white = rng.standard_normal((*GRID_SHAPE[::-1], 3), np.float32)
    sigma = WARP_SIGMA_MM / GRID_MM
    warp = scipy.ndimage.gaussian_filter(white, (sigma, sigma, sigma, 0), mode="wrap")
    # A Gaussian leaves white noise with this SD; dividing by each draw's own would make all alike.
    unit = (2 * np.sqrt(np.pi) * sigma) ** -1.5
    body = (float(body[0]), float(body[1]))  # Python's: NumPy's would make float64 of all points
    return Motion(matrix, shift, warp * np.float32(strength * WARP_MM / unit), body, stretch, wall)


def _freedom(body: anatomy.Body, points: Points) -> Float[np.ndarray, "..."]:
    """w: near 0 in the wall and at the spine, 1 among the viscera."""
    x, y, _ = points
    wall = -anatomy.wall(body, points)
    (cx, cy, _), _ = body.places["vertebra"]
    # Everything behind the vertebra's middle counts as spine.
    beside = np.hypot(x - np.float32(cx), np.minimum(y - np.float32(cy), np.float32(0)))
    return _rise(wall, *WALL_MM_DEEP) * _rise(beside - np.float32(SPINE_RADIUS_MM), *SPINE_MM_OFF)


def _rise(depth: Float[np.ndarray, "..."], half: float, soft: float) -> Float[np.ndarray, "..."]:
    """A sigmoid of the depth. Its slope, 1 / (4 soft), is what keeps tissue from folding."""
    t = (depth - np.float32(half)) * np.float32(-1 / soft)
    return 1 / (1 + np.exp(t.clip(-60, 60)))


def _warp(motion: Motion, points: Points) -> list[np.ndarray]:
    """The smooth warp at points, linear between the nodes of its grid and constant beyond them."""
    at = [
        ((p - np.float32(low)) * np.float32(1 / GRID_MM)).clip(0, n - 1)
        for p, low, n in zip(points, GRID_LOW_MM, GRID_SHAPE, strict=True)
    ]
    x, y, z = at
    if z.ndim == 0 and x.ndim == y.ndim == 2 and x.shape[0] == y.shape[1] == 1:
        plane = np.tensordot(_hats(z.reshape(1), GRID_SHAPE[2])[0], motion.warp_mm, 1)
        rows, columns = _hats(y[:, 0], GRID_SHAPE[1]), _hats(x[0], GRID_SHAPE[0])
        parts = np.ascontiguousarray(np.moveaxis(plane, -1, 0))  # BLAS is slow on strided ones
        return [rows @ part @ columns.T for part in parts]
    where = np.broadcast_arrays(z, y, x)
    return [
        scipy.ndimage.map_coordinates(motion.warp_mm[..., k], where, order=1, mode="nearest")
        for k in range(3)
    ]


def _hats(at: Float[np.ndarray, "N"], count: int) -> Float[np.ndarray, "N {count}"]:
    """Weights of linear interpolation at places on an axis of `count` nodes."""
    return (1 - np.abs(at[:, None] - np.arange(count, dtype=np.float32))).clip(0, None)
