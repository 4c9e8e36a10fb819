"""Where does each point of the fixed slice lie on the moving one?"""

import dataclasses

import numpy as np
from jaxtyping import Float, Shaped

AIR_HU = -1024  # the least that CT stores: what lies around a scanned field


@dataclasses.dataclass(frozen=True)
class Transform:
    """A displacement for each pixel of the fixed slice, whatever method it came from.

    It belongs to slices of this one shape, and can be pickled.
    """

    displacement_px: Float[np.ndarray, "H W 2"]  # float32 x, y: moving point minus fixed point

    def warp(
        self, image: Shaped[np.ndarray, "H W"], outside: float | int = AIR_HU
    ) -> Shaped[np.ndarray, "H W"]:
        """The moving image on the fixed one's grid: linear, in its own type (integers rounded).

        What lies beyond the moving image is `outside`: air, which a soft-tissue window shows as
        black, as the official scripts leave it (facts, gssd_baselines 8.2). A shape that is not
        that of the transform, and an `outside` that the type cannot hold, are a ValueError.
        """
        from scipy import ndimage

        points = self._points_yx(image)
        kind = image.dtype
        if kind.kind in "iu" and not np.iinfo(kind).min <= outside <= np.iinfo(kind).max:
            raise ValueError(f"outside is {outside}, which {kind} pixels cannot hold; name another")
        # "grid-constant" fades to `outside` over a pixel; "constant" jumps at the last centre, and
        # there a rounding error would decide between tissue and air.
        found = ndimage.map_coordinates(
            image.astype(np.float64), points, order=1, mode="grid-constant", cval=outside
        )
        return (np.rint(found) if kind.kind in "iu" else found).astype(kind)

    def warp_mask(self, mask: Shaped[np.ndarray, "H W"]) -> Shaped[np.ndarray, "H W"]:
        """The moving mask on the fixed one's grid: the nearest pixel's value; 0 beyond the image.

        Departs: the official scripts warp masks by cubic splines, which rings around 0 and 1.
        """
        y, x = np.rint(self._points_yx(mask)).astype(np.int64)
        inside = (y >= 0) & (y < mask.shape[0]) & (x >= 0) & (x < mask.shape[1])
        warped = np.zeros_like(mask)
        warped[inside] = mask[y[inside], x[inside]]
        return warped

    def _points_yx(self, image: np.ndarray) -> np.ndarray:
        if image.shape != self.displacement_px.shape[:2]:
            raise ValueError(
                f"a transform of slices {self.displacement_px.shape[:2]} got one of {image.shape};"
                " register at the size that is warped"
            )
        return np.indices(image.shape) + np.moveaxis(self.displacement_px[..., ::-1], -1, 0)


def identity(shape: tuple[int, int]) -> Transform:
    """Every point stays where it is."""
    return Transform(np.zeros((*shape, 2), np.float32))
