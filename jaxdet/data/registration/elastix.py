"""Registration of two slices by itk-elastix with the parameter maps of the GSSD++ paper.

The paper names SimpleElastix and its default maps: "rigid"; "affine"; "affine" then "bspline" with
8 px between the last control points (facts, gssd_baselines 8.1 and 8.2). itk-elastix has the same
maps but for the spacing of the splines, which is set here.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

_LEVELS, _GRID = 4, 8.0  # resolutions; px
_SCHEDULE = ("2.803221", "1.988100", "1.410000", "1.0")  # SimpleElastix: 1.41^k
_FIRST_SEED = 121212  # elastix' own, so that seed 0 is its default
_MAPS = {"rigid": ("rigid",), "affine": ("affine",), "nonrigid": ("affine", "bspline")}


def displacement(
    fixed: Float[np.ndarray, "H W"], moving: Float[np.ndarray, "H W"], method: str, seed: int
) -> Float[np.ndarray, "H W 2"]:
    """x, y from each pixel of `fixed` to its place on `moving` (both in [0, 1]), in px."""
    try:
        import itk

        itk.elastix_registration_method  # noqa: B018 (itk is lazy: this is what loads elastix)
    except (ImportError, AttributeError):
        raise ValueError(
            'backend "elastix" wants itk-elastix: pip install "jaxdet[registration]" (1.8 GB);'
            ' backend "sitk" works without'
        ) from None
    pair = [itk.image_view_from_array(np.ascontiguousarray(image)) for image in (fixed, moving)]
    _, found = itk.elastix_registration_method(
        *pair, parameter_object=parameters(itk, method, seed), number_of_threads=1
    )
    field = itk.transformix_deformation_field(pair[1], found)
    return np.array(itk.array_view_from_image(field))


def parameters(itk: Any, method: str, seed: int) -> Any:
    """The maps of a method as an itk.ParameterObject."""
    parameters = itk.ParameterObject.New()
    for name in _MAPS[method]:
        chosen = parameters.GetDefaultParameterMap(name, _LEVELS, _GRID)
        chosen["RandomSeed"] = (str(_FIRST_SEED + seed),)
        if name == "bspline":
            chosen["GridSpacingSchedule"] = _SCHEDULE
        parameters.AddParameterMap(chosen)
    return parameters
