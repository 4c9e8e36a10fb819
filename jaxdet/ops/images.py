"""How do pixels become what a network reads?"""

import jax.numpy as jnp
from jaxtyping import Float, Shaped

from jaxdet.types import Array


def to_unit(images: Shaped[Array, "..."]) -> Float[Array, "..."]:
    """uint8 to float32 in [0, 1]; floats, which the data room has windowed, stay as they are.

    Only this and its NumPy twin, data.transforms.to_unit, divide by 255. Integers other than uint8
    are an error: they need a window, which the data room applies (data.window_hu).
    """
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255.0
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be uint8 or float in [0, 1]; got {images.dtype}. Set data.window_hu"
        )
    return images
