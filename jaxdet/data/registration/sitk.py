"""Registration of two slices by plain SimpleITK, on one thread.

Mutual information (Mattes, 32 bins) over some of the pixels, drawn with the seed; coarse to fine.
The parameters are those that did well on slices with a known warp (facts, gssd_baselines 8.4), but
for the spline: 5 iterations a level (facts: 30) and fewer pixels at the finest level take a third
of the time and reach the same Dice of livers at 512 x 512 (scripts/bench/registration.py).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

_BINS = 32  # of the joint histogram
_STEP, _RELAX, _LEAST_STEP, _ITERATIONS = 2.0, 0.6, 1e-4, 100  # gradient descent
_SHRINK = (8, 4, 2, 1)  # px, of the levels; smoothed by half of it
_SHARES = (0.2, 0.2, 0.2, 0.2)  # of the pixels that are compared, by level
_COARSEST = 32  # px, the least side of a shrunk slice
_FEWEST = 8192  # pixels that are compared at a level that has so many, whatever the share
_ACROSS, _FINEST_GRID = 16, 16  # spline pieces along the longer side; px that one has at least
_SPLINE_ITERATIONS = 5  # a level
_SPLINE_SHRINK, _SPLINE_SHARES = (4, 2, 1), (0.5, 0.2, 0.05)
_MOST_SEED = 2**32 - 1


def displacement(
    fixed: Float[np.ndarray, "H W"], moving: Float[np.ndarray, "H W"], method: str, seed: int
) -> Float[np.ndarray, "H W 2"]:
    """x, y from each pixel of `fixed` to its place on `moving` (both in [0, 1]), in px."""
    import SimpleITK

    with _one_thread(SimpleITK):
        pair = (SimpleITK.GetImageFromArray(fixed), SimpleITK.GetImageFromArray(moving))
        found = _linear(pair, method, seed)
        if method == "nonrigid":
            # Applied from the last to the first: the spline bends the fixed grid, then affine.
            found = SimpleITK.CompositeTransform([found, _spline(pair, found, seed)])
        field = SimpleITK.TransformToDisplacementField(
            found, SimpleITK.sitkVectorFloat64, pair[0].GetSize()
        )
        return SimpleITK.GetArrayFromImage(field)


@contextlib.contextmanager
def _one_thread(SimpleITK: Any) -> Iterator[None]:
    # The order in which threads add up differs from run to run, and the threads of one filter are
    # not enough: the metric takes the number of the whole process.
    process = SimpleITK.ProcessObject
    before = process.GetGlobalDefaultNumberOfThreads()
    process.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        process.SetGlobalDefaultNumberOfThreads(before)


def _linear(pair: tuple, method: str, seed: int) -> Any:
    import SimpleITK

    found = SimpleITK.Euler2DTransform() if method == "rigid" else SimpleITK.AffineTransform(2)
    found.SetCenter([(side - 1) / 2 for side in pair[0].GetSize()])
    run = _run(pair, _levels(pair[0], _SHRINK, _SHARES), seed)
    run.SetOptimizerAsRegularStepGradientDescent(_STEP, _LEAST_STEP, _ITERATIONS, _RELAX)
    run.SetOptimizerScalesFromPhysicalShift()
    run.SetInitialTransform(found, inPlace=True)
    run.Execute(*pair)
    return found


def _spline(pair: tuple, affine: Any, seed: int) -> Any:
    import SimpleITK

    levels = _levels(pair[0], _SPLINE_SHRINK, _SPLINE_SHARES)
    factors = [2**i for i in range(len(levels))]  # the grid is halved at each level
    # By the size of the slice, so that one body is bent alike at any resolution: 32 px of 512.
    grid = max(_FINEST_GRID, max(pair[0].GetSize()) / _ACROSS)
    mesh = [max(1, round(side / grid / factors[-1])) for side in pair[0].GetSize()]
    found = SimpleITK.BSplineTransformInitializer(pair[0], mesh)
    run = _run(pair, levels, seed)
    run.SetMovingInitialTransform(affine)
    run.SetOptimizerAsLBFGS2(numberOfIterations=_SPLINE_ITERATIONS)
    run.SetInitialTransformAsBSpline(found, inPlace=True, scaleFactors=factors)
    run.Execute(*pair)
    return found


def _run(pair: tuple, levels: list[tuple[int, float]], seed: int) -> Any:
    import SimpleITK

    shrink, shares = map(list, zip(*levels, strict=True))
    run = SimpleITK.ImageRegistrationMethod()
    run.SetInterpolator(SimpleITK.sitkLinear)
    run.SetMetricAsMattesMutualInformation(_BINS)
    run.SetMetricSamplingStrategy(run.RANDOM)
    # Seed 0 is the clock of the machine to SimpleITK.
    run.SetMetricSamplingPercentagePerLevel(shares, seed % _MOST_SEED + 1)
    run.SetShrinkFactorsPerLevel(shrink)
    run.SetSmoothingSigmasPerLevel([factor / 2 if factor > 1 else 0 for factor in shrink])
    return run


def _levels(
    image: Any, shrink: tuple[int, ...], shares: tuple[float, ...]
) -> list[tuple[int, float]]:
    """(shrink factor, share), coarse to fine; what leaves too little of a small slice falls out."""
    wide, high = image.GetSize()
    return [
        (f, min(1.0, max(share, _FEWEST / (wide // f * (high // f)))))
        for f, share in zip(shrink, shares, strict=True)
        if f == 1 or min(wide, high) // f >= _COARSEST
    ]
