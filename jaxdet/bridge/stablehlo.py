"""A detector as one file of StableHLO with its weights: it runs without this package.

The file is a plain zip: `module.bin` (what jax.export serialises, the batch size left open), the
weights as `weights.safetensors`, and `meta.json` with the shape that goes in and the names that
come out.
"""

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from jax import export as jax_export
from jaxtyping import Shaped

from jaxdet.bridge import parity
from jaxdet.bridge.write import write_zip
from jaxdet.types import Array

PLATFORMS = ("cpu", "cuda", "tpu")
ENTRIES = ("module.bin", "weights.safetensors", "meta.json")


def export(
    apply: Callable[[Any, Array], Any],
    variables: Mapping[str, Any],
    example_images: Shaped[Array, "B H W C"],
    path: str | os.PathLike[str],
) -> None:
    """Writes `apply(variables, images)` for images [any, H, W, C] of the example's type.

    `apply` answers with a NamedTuple of arrays, such as Detections; what is None is left out.
    The file is read back and run on the example: a difference to `apply` of more than 1e-4 is a
    ValueError, and the file is removed.
    """
    weights = traverse_util.flatten_dict(jax.device_get(dict(variables)), sep="/")

    def program(flat: dict[str, Array], images: Array) -> dict[str, Array]:
        return parity.answers(apply(traverse_util.unflatten_dict(flat, sep="/"), images))

    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *example_images.shape[1:]), example_images.dtype)
    shapes = {k: jax.ShapeDtypeStruct(np.shape(v), v.dtype) for k, v in weights.items()}
    exported = jax_export.export(jax.jit(program), platforms=PLATFORMS)(shapes, images)
    meta = {
        "images": ["batch", *example_images.shape[1:]],
        "dtype": str(example_images.dtype),
        "platforms": PLATFORMS,
        "jax": jax.__version__,
    }
    contents = (
        bytes(exported.serialize()),
        safetensors.numpy.save({k: np.asarray(v, order="C") for k, v in weights.items()}),
        json.dumps(meta, indent=1).encode(),
    )
    write_zip(path, zip(ENTRIES, contents, strict=True))
    wanted = parity.answers(jax.jit(apply)(variables, jnp.asarray(example_images)))
    parity.check(path, wanted, load(path)(example_images))


def load(path: str | os.PathLike[str]) -> Callable[[Shaped[Array, "B H W C"]], dict[str, Array]]:
    """The program of a file that `export` wrote: images to arrays by name, for any batch size.

    The names are the fields of what was exported, so `Detections(**program(images))` where that was
    a whole detector. ValueError when the file is not one of ours, or for images of another shape or
    type.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            module, weights, meta = (archive.read(name) for name in ENTRIES)
    except (zipfile.BadZipFile, KeyError) as fault:
        raise ValueError(f"{path}: no exported detector, wanted a zip of {ENTRIES}") from fault
    exported = jax_export.deserialize(bytearray(module))
    flat, images_in = safetensors.numpy.load(weights), json.loads(meta)
    shape, dtype = tuple(images_in["images"][1:]), images_in["dtype"]
    call = jax.jit(exported.call)

    def run(images: Shaped[Array, "B H W C"]) -> dict[str, Array]:
        if images.shape[1:] != shape or str(images.dtype) != dtype:
            raise ValueError(
                f"{path} wants {dtype} images [B, {', '.join(map(str, shape))}]; "
                f"got {images.dtype} {images.shape}"
            )
        return call(flat, images)

    return run
