"""The prepared sets of a reproduction: a phantom, made where it is not there, or the user's own.

Beside a set there may be another of the same patients that has slices without a tumour too.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from jaxdet.config import Data
from jaxdet.data import builders
from jaxdet.data.builders import store
from jaxdet.study import asked as asking
from jaxdet.study.asked import Study
from jaxdet.train import parallel

Say = Callable[[str], None]


def check(study: Study) -> None:
    """Refuses what would be found late: a user's set that is not there, a phantom that is another.

    ValueError. A phantom is judged by what its metadata say of how it was made.
    """
    if not asking.is_phantom(study.data.builder):
        store.find(study.data.path, study.data.builder)
        return
    for free_slices in (0, study.scale.free_slices):  # the second is read after hours
        is_there(study.data, free_slices, 0)
    if asking.has_start(study):
        is_there(study.data, 0, asking.START_SEED)


def make(data: Data, free_slices: int, say: Say, seed: int = 0) -> str:
    """The name of the phantom that is read, with so many slices without a tumour; made if need be.

    A set that is no phantom is left as it is. ValueError for another phantom under that name.
    """
    builder = data.builder
    if not asking.is_phantom(builder):
        return builder
    there, (name, options) = (
        is_there(data, free_slices, seed),
        _recipe(builder, free_slices, seed),
    )
    wanted = builders.BUILDERS[name].plan(options).name
    parallel.wait(f"all have looked for {wanted}")
    if there:
        return wanted
    if parallel.process()[0] == 0:
        say(f"making {wanted} in {data.path}")
        builders.make(name, data.path, options)
    parallel.wait(f"{wanted} is made")
    return wanted


def lesion_free(study: Study, say: Say) -> str:
    """The name of the prepared set that has slices without a tumour of the same patients too."""
    free, builder = study.scale.free_slices, study.data.builder
    if asking.is_phantom(builder):
        return make(study.data, free, say)
    name = f"{builder}_free{free}"
    return name if (pathlib.Path(study.data.path) / name).is_dir() else builder


def is_there(data: Data, free_slices: int, seed: int) -> bool:
    """Whether the phantom lies ready; ValueError where another one does under its name."""
    name, options = _recipe(data.builder, free_slices, seed)
    plan = builders.BUILDERS[name].plan(options)
    if not (pathlib.Path(data.path) / plan.name / store.VERSION).is_dir():
        return False
    found = store.find(data.path, plan.name)
    has, wanted = _drawn(found.metadata), json.loads(json.dumps(_drawn(plan.metadata)))
    other = [key for key in wanted if has.get(key) != wanted[key]]
    if other:
        rows = "\n".join(
            f"  {key}: it has {has.get(key)!r}, wanted {wanted[key]!r}" for key in other
        )
        raise ValueError(
            f"{found.folder} is another phantom than the one that is made by its name now:\n{rows}"
            "\nRemove that folder, and it is made anew, or give --path elsewhere"
        )
    return True


def _recipe(builder: str, free_slices: int, seed: int) -> tuple[str, builders.Options]:
    """The builder of a phantom, and what it is told."""
    name, size = builder.split("/")
    return name, builders.Options(size=size, free_slices=free_slices, seed=seed)


def _drawn(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the slices of a phantom; of sets that are older than that, the seed alone."""
    return {"seed": metadata.get("seed"), **metadata.get("phantom", {})}
