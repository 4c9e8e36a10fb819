"""jaxdet evaluate RUN [--split val] [--protocol coco]."""

import dataclasses
from typing import Literal

import tyro

from jaxdet import models
from jaxdet import run as runs
from jaxdet.cli import arguments
from jaxdet.config import Data, Protocol
from jaxdet.report import scorecard, tables
from jaxdet.train import evaluate as scoring
from jaxdet.train import siamese


def main(argv: list[str]) -> None:
    """Scores a RUN."""
    tyro.cli(evaluate, prog="jaxdet evaluate", args=argv)


def evaluate(
    run: arguments.RunFolder,
    split: Literal["train", "val", "test"] | None = None,
    protocol: Protocol | None = None,
    which: Literal["best", "latest"] = "best",
    boxes: Literal["model", "official"] | None = None,
    source: Literal["coco", "yolo", "voc", "csv", "tfds"] | None = None,
    path: str | None = None,
    builder: str | None = None,
    other_patients: bool = False,
) -> None:
    """Scores a RUN on a split and prints all that there is to say.

    Writes RUN/metrics/SPLIT_PROTOCOL.json (SPLIT_PROTOCOL_official.json of official boxes), a row a
    patient (_patients.csv) and the detections (_detections.npz), and RUN/pictures: errors, FROC,
    precision and recall. Refuses a patient that the RUN was trained on; the split train is all of
    them, and the table says so. Of a Siamese network's RUN the patches are scored,
    RUN/metrics/SPLIT_patches.json.

    Args:
        run: the RUN folder.
        split: default: the experiment's own.
        protocol: default: the experiment's own.
        which: the best checkpoint or the latest.
        boxes: official draws lesions of PixelLink and MSCR as their code does, on the host.
        source: the format of other data, whose own lists are the splits; an imported RUN needs it.
            A prepared set (tfds) is split as the experiment splits the prepared set it was
            trained on, if it was.
        path: where those data, or else the experiment's own, lie.
        builder: another prepared set, such as phantom_multiphase/tiny_rigid; means --source tfds.
        other_patients: the other data hold other people than the training set, whatever the names.
    """
    opened = runs.open_run(run)
    experiment = opened.experiment
    other = _other(experiment.data, source, builder)
    if "imported_from" in opened.facts and not other:
        raise ValueError(f"{run} was imported and has no data of its own: add --source and --path")
    # The RUN's own names: data whose classes differ are refused, another order of them is followed.
    data = _replaced(experiment.data, path=path, classes=opened.class_names, **other)
    wanted = _replaced(experiment.evaluate, split=split, protocol=protocol, boxes=boxes)
    experiment = dataclasses.replace(experiment, evaluate=wanted, data=data)
    changed = dataclasses.replace(opened, experiment=experiment)
    if other_patients and not other:
        raise ValueError("--other-patients is about other data: add --source or --builder")
    if models.is_scorer(experiment.model):
        _patches(opened, changed, which, other=bool(other), protocol=protocol)
        return
    scored = scoring.score_run(
        changed, which, other_data=bool(other), other_patients=other_patients
    )
    by_whom = "_official" if wanted.boxes == "official" else ""
    scoring.write(opened, f"{wanted.split}_{wanted.protocol}{by_whom}", scored)
    print(scorecard.text(scored.card.numbers))


def _patches(opened: runs.Run, changed: runs.Run, which: str, *, other: bool, protocol) -> None:
    """Scores the patches of a Siamese RUN: it has no boxes, so no protocol."""
    if other or protocol:
        raise ValueError(
            f"{opened.path} is a Siamese network, which scores patches of its own data: leave"
            " --source, --builder and --protocol out"
        )
    summary = siamese.score_run(changed, which)
    opened.write_metrics(f"{summary['split']}_patches", summary)
    print(tables.pairs_table(summary))


def _other(data: Data, source: str | None, builder: str | None) -> dict[str, str]:
    """The fields of Data that name other data; empty where the experiment's own are meant."""
    source = source or ("tfds" if builder else None)
    if source is None:
        return {}
    if builder and source != "tfds":
        raise ValueError(f"--builder names a prepared set, not {source} data: leave --source out")
    if source != "tfds":
        return {"source": source, "split": "given", "patient_pattern": ""}
    if not (builder or data.builder):
        raise ValueError("--source tfds wants --builder, a set that `jaxdet data list` names")
    # Two prepared sets often are the same patients (registered, say): drawn by the same rule they
    # fall into the same splits, and nobody that was trained on is scored.
    split = data.split if data.source == "tfds" else "given"
    return {"source": source, "builder": builder or data.builder, "split": split}


def _replaced(part: object, **told: object) -> object:
    """A part of the experiment with what was told on the command line in place."""
    return dataclasses.replace(part, **{k: v for k, v in told.items() if v is not None})
