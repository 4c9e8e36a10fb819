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
    bit. stablehlo: images to Detections, any batch, all stages. onnx: images to the model's raw
    outputs, batch of one. torch and onnx are of the detector, of PCA-YOLO's too, whose images have
    the map already.

    Args:
        run: the RUN folder.
        format: torch, onnx or stablehlo.
        out: the file to write.
        which: the best checkpoint or the latest.
    """
    opened = runs.open_run(run)
    if models.is_scorer(opened.experiment.model):
        raise ValueError(
            f"{run} is a Siamese network, which scores patches and has no boxes: export the RUN"
            " that holds it"
        )
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    if format == "torch":
        _torch(opened, opened.weights(which), out)
    elif format == "onnx":
        example = _images(opened, opened.experiment.model.channels)
        onnx.export(opened.detector().module.apply, opened.weights(which), example, out)
    else:
        example = _images(opened, opened.experiment.data.channels)
        stablehlo.export(opened.program(), opened.all_weights(which), example, out)
    print(f"{out}: {format}, checked against {run}")


def _images(opened: runs.Run, channels: int) -> np.ndarray:
    side = opened.experiment.data.image_size
    return np.random.default_rng(0).random((1, side, side, channels), np.float32)


def _torch(opened: runs.Run, variables: dict, out: str) -> None:
    name = models.name_of(opened.experiment.model)
    model = opened.experiment.model
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    state = bridge.to_torch(name, variables, **fields)
    write.write_state_dict(out, state)
    again = read.read_state_dict(out)
    wrong = [k for k in state if k not in again or state[k].tobytes() != again[k].tobytes()]
    if wrong:
        raise ValueError(f"{out} does not read back as it was written: {', '.join(wrong[:5])}")
