"""jaxdet predict RUN INPUT... --out DIR."""

from typing import Annotated, Literal

import tyro

from jaxdet import models
from jaxdet import run as runs
from jaxdet.cli import arguments
from jaxdet.predict import predict as predicting


def main(argv: list[str]) -> None:
    """Predicts with a RUN."""
    tyro.cli(predict, prog="jaxdet predict", args=argv)


def predict(
    run: arguments.RunFolder,
    inputs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="INPUT...")],
    out: str,
    score: float = 0.25,
    which: Literal["best", "latest"] = "best",
    batch_size: int = 8,
    series_uid: str | None = None,
    missing: Literal["error", "zero", "portal"] = "error",
    nan: Literal["error", "fill"] = "error",
    gaps: Literal["error", "allow"] = "error",
) -> None:
    """Finds lesions and writes detections.json (COCO results), overlays and a contact sheet.

    Args:
        run: the RUN folder.
        inputs: PNG, JPEG, TIFF, npy, NIfTI, a DICOM folder, or folders of those; of a RUN on
            several CT phases the patients' folders, one a patient.
        out: where the results go.
        score: boxes below this probability are left out.
        which: the best checkpoint or the latest.
        batch_size: slices that are computed together.
        series_uid: which series of a DICOM folder that holds several.
        missing: what stands for a phase that a patient lacks: nothing, air, or the portal phase.
        nan: whether voxels that are no number are an error or become air.
        gaps: whether uneven or missing DICOM slices are an error or interpolated.
    """
    opened = runs.open_run(run)
    if models.is_scorer(opened.experiment.model):
        raise ValueError(
            f"{run} is a Siamese network, which has no boxes; predict with the RUN that holds it,"
            f" or train a PCA-YOLO on it with --model.siamese-from {run}"
        )
    told = predicting.predict(
        opened,
        inputs,
        out,
        score_threshold=score,
        which=which,
        batch_size=batch_size,
        series_uid=series_uid,
        missing=missing,
        nan=nan,
        gaps=gaps,
    )
    print(f"{told['detections']} detections on {told['images']} images: {out}/detections.json")
    if told["full"]:
        print(
            f"{told['full']} images hold as many detections as fit (model.max_detections): less "
            "sure ones may be missing"
        )
