"""jaxdet export RUN --format torch|onnx|stablehlo --out FILE."""

import dataclasses
import pathlib
from typing import Literal

import numpy as np
import tyro

from jaxdet import bridge, models
from jaxdet import run as runs
from jaxdet.bridge import onnx, read, stablehlo, write
from jaxdet.cli import arguments


def main(argv: list[str]) -> None:
    """Exports a RUN."""
    tyro.cli(export, prog="jaxdet export", args=argv)


def export(
    run: arguments.RunFolder,
    format: Literal["torch", "onnx", "stablehlo"],
    out: str,
    which: Literal["best", "latest"] = "best",
) -> None:
    """Writes a RUN's weights or program for others, and checks that it gives the same answers.

    torch: the official state dict, to .safetensors, .pth or .pt, read back and compared bit for
    bit. stablehlo: images to Detections, any batch. onnx: images to the model's raw outputs, batch
    of one.

    Args:
        run: the RUN folder.
        format: torch, onnx or stablehlo.
        out: the file to write.
        which: the best checkpoint or the latest.
    """
    opened = runs.open_run(run)
    variables, detector = opened.weights(which), opened.detector()
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    if format == "torch":
        _torch(opened, variables, out)
    else:
        data = opened.experiment.data
        shape = (1, data.image_size, data.image_size, data.channels)
        example = np.random.default_rng(0).random(shape, np.float32)
        if format == "onnx":
            onnx.export(detector.module.apply, variables, example, out)
        else:
            stablehlo.export(detector.detect, variables, example, out)
    print(f"{out}: {format}, checked against {run}")


def _torch(opened: runs.Run, variables: dict, out: str) -> None:
    name = models.name_of(opened.experiment.model)
    fields = dataclasses.asdict(opened.experiment.model)
    state = bridge.to_torch(name, variables, **fields)
    write.write_state_dict(out, state)
    again = read.read_state_dict(out)
    wrong = [k for k in state if k not in again or state[k].tobytes() != again[k].tobytes()]
    if wrong:
        raise ValueError(f"{out} does not read back as it was written: {', '.join(wrong[:5])}")
