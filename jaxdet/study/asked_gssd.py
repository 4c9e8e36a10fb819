"""From what `jaxdet reproduce gssd-...` was asked to the experiment of each row and seed.

Asked -> Study: the scale with its overrides, where the set lies -> Experiment of a row and a seed
"""

import dataclasses
import pathlib
from typing import Any

from jaxdet import models
from jaxdet.config import Data, Evaluate, Experiment
from jaxdet.study import papers_gssd, scales_gssd
from jaxdet.study.papers_gssd import Row
from jaxdet.study.scales import Name
from jaxdet.study.scales_gssd import PROTOCOL, Scale

MOVABLE = ("path",)  # of `flags`: where the set lies


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the verb was told; None and empty mean as the scale says."""

    table: str
    scale: Name = "tiny"
    seed: int = 0  # of the split, and of the first weights of the first of `seeds`
    seeds: int = 1  # trainings of each row, from `seed` on
    epochs: int | None = None
    path: str = ""  # the folder of prepared sets; OUT/sets
    builder: str = ""  # the prepared set; the phantom of the scale
    rows: tuple[str, ...] = ()  # all


@dataclasses.dataclass(frozen=True)
class Study:
    """A scale with all overrides, and its unregistered data."""

    scale: Scale
    data: Data
    seeds: tuple[int, ...]


def study(asked: Asked, out: pathlib.Path) -> Study:
    """What was asked, resolved. ValueError for numbers that mean nothing."""
    if asked.seeds < 1:
        raise ValueError(f"--seeds wants 1 or more; got {asked.seeds}")
    scale = scales_gssd.SCALES[asked.scale]
    if asked.epochs is not None:
        train = dataclasses.replace(scale.train, epochs=asked.epochs)
        scale = dataclasses.replace(scale, train=train, steps=0)
    data = scales_gssd.data(scale, asked.path or str(out / "sets"), asked.builder, asked.seed)
    return Study(scale, data, tuple(range(asked.seed, asked.seed + asked.seeds)))


def flags(asked: Asked, study: Study) -> dict[str, Any]:
    """What decides the numbers of all tables in a folder, as reproduce.json keeps it.

    Which table, which rows and how many seeds is not in it: a folder may hold several tables, which
    share rows, and get more seeds later.
    """
    return {
        "paper": "gssd",
        "scale": asked.scale,
        "seed": asked.seed,
        "path": study.data.path,
        "builder": study.data.builder,
        **scales_gssd.flags(study.scale),
    }


def is_built(row: Row) -> bool:
    """Whether the row's detector exists yet."""
    return row.model in models.DETECTORS


def builder_of(study: Study, registration: str) -> str:
    """The prepared set, or its registered twin."""
    plain = study.data.builder
    return plain if registration == papers_gssd.UNREGISTERED else f"{plain}_{registration}"


def data_of(study: Study, row: Row) -> Data:
    """How the row's set is read."""
    builder = builder_of(study, row.registration)
    return dataclasses.replace(study.data, builder=builder, phases=row.phases)


def experiment(
    study: Study, row: Row, seed: int, *, classes: int, images: int | None = None
) -> Experiment:
    """What trains a row from one seed; `images` to learn from decide the epochs of some scales.

    A field of the scale that the row's Config does not have, or that is None, is left out.
    """
    known = {field.name for field in dataclasses.fields(models.config(row.model))}
    usual = {
        "num_classes": classes,
        "width": study.scale.width,
        "image_size": study.data.image_size,
        "channels": study.data.channels,
        "gate_pool": study.scale.gate_pool,
        "border": study.scale.border,
        "score": study.scale.score,
        "trunk_start": study.scale.trunk_start,
        "fuse_norm": study.scale.fuse_norm,
    }
    fields = {k: value for k, value in usual.items() if k in known and value is not None}
    model = models.config(row.model, **{**fields, **row.fields})
    train = scales_gssd.train_of(study.scale, model, images, seed)
    return Experiment(
        model=model,
        data=data_of(study, row),
        train=train,
        evaluate=Evaluate(protocol=PROTOCOL, batch_size=train.batch_size, split="test"),
    )


def folder(row: Row, seed: int, out: pathlib.Path) -> pathlib.Path:
    """OUT/rows/KEY/seed_S, a RUN that tables share."""
    return out / "rows" / row.key / f"seed_{seed}"
