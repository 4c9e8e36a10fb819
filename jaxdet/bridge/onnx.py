"""A detector's network as ONNX, for runtimes without JAX. Needs pip install 'jaxdet[onnx]'."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from jaxdet.bridge import parity
from jaxdet.types import Array

SEVERE = 3  # onnxruntime's scale: errors only; its warnings count in thousands here


def export(
    apply: Callable[[Any, Array], Any],
    variables: Mapping[str, Any],
    example_images: Shaped[Array, "B H W C"],
    path: str | os.PathLike[str],
) -> None:
    """Writes `apply(variables, images)` with the weights in it, one file, for the example's exact
    shape.

    `apply` answers with a NamedTuple of arrays: the module itself, or boxes and probabilities. The
    suppression loop of a decode does not convert (jax2onnx 0.17), so suppress after the network.
    Input `images` as in the example, outputs by their field names. The file is run with onnxruntime
    on the example: a difference to `apply` of more than 1e-4 is a ValueError and the file is
    removed. ImportError without the extra; ValueError, with the converter's reason, for what cannot
    be converted.
    """
    jax2onnx, onnxruntime = _libraries()
    path = pathlib.Path(path)
    for old in (path, path.with_name(path.name + ".data")):  # weights of an earlier export
        old.unlink(missing_ok=True)
    wanted = parity.answers(jax.jit(apply)(variables, jnp.asarray(example_images)))
    try:
        jax2onnx.to_onnx(
            lambda images: tuple(parity.answers(apply(variables, images)).values()),
            inputs=[jax.ShapeDtypeStruct(example_images.shape, example_images.dtype)],
            input_names=["images"],
            output_names=list(wanted),
            return_mode="file",
            output_path=str(path),
            export_mode="web",  # all in one file
        )
    except Exception as fault:  # whatever the converter could not do
        path.unlink(missing_ok=True)
        raise ValueError(f"{path}: this model does not convert to ONNX: {fault}") from fault
    got = _run(onnxruntime, path, np.asarray(example_images))
    parity.check(path, wanted, dict(zip(wanted, got, strict=True)))


def _run(onnxruntime: Any, path: pathlib.Path, images: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SEVERE
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, {"images": images})
    except Exception as fault:  # a graph that the converter built wrongly
        path.unlink()
        raise ValueError(f"{path}: the converted model does not run: {fault}") from fault


def _libraries() -> tuple[Any, Any]:
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as fault:
        raise ImportError(
            f"ONNX export needs jax2onnx and onnxruntime ({fault}): pip install 'jaxdet[onnx]'"
        ) from fault
    return jax2onnx, onnxruntime
