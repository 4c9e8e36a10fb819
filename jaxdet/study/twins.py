"""A set of four phases and its registered twins: made where they are not there, looked at, told of.

phantom_multiphase/tiny beside tiny_rigid, tiny_affine, tiny_nonrigid
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdet.config import Data
from jaxdet.data.builders import registered, store
from jaxdet.data.registration import dice
from jaxdet.study import asked, prepared
from jaxdet.study.papers_gssd import UNREGISTERED
from jaxdet.train import parallel

Say = Callable[[str], None]
_OF_A_TWIN = ("registration", "dtype", "faults")  # of metadata: what its set need not have alike


def check(data: Data) -> None:
    """ValueError for a set that is not there and is no phantom's, or is another phantom."""
    if asked.is_phantom(data.builder):
        prepared.is_there(data, 0, 0)
    else:
        store.find(data.path, data.builder)


def make_set(data: Data, say: Say) -> str:
    """The name of the set; made if it is a phantom's that is not there."""
    return prepared.make(data, 0, say)


def is_there(data: Data, kind: str) -> bool:
    """Whether the twin lies ready; the set itself always does here. ValueError as in `_checked`."""
    return kind == UNREGISTERED or _twin(data.path, data.builder, kind) is not None


def make(data: Data, kind: str, per_slice: bool, say: Say) -> None:
    """Registers the set, unless that was done. One that was made otherwise is said to be so.

    ValueError for a twin of another set, and what `registered.make` refuses.
    """
    there = _twin(data.path, data.builder, kind)
    parallel.wait(f"all have looked for the {kind} twin")
    if there is not None:
        told = there.metadata["registration"]
        if told["per_slice"] != per_slice:
            say(f"{there.name} lies ready and is taken as it is: {told}")
        return
    if parallel.process()[0] == 0:
        say(f"registering {data.builder} in {data.path}: {kind}")
        registered.make(store.find(data.path, data.builder), data.path, kind, per_slice=per_slice)
    parallel.wait(f"the {kind} twin is made")


def told(data: Data, kinds: Sequence[str]) -> dict[str, Any]:
    """How each twin that is there was made."""
    found = {kind: _twin(data.path, data.builder, kind) for kind in kinds}
    return {kind: twin.metadata["registration"] for kind, twin in found.items() if twin}


def livers(path: str, builder: str) -> dict[str, Any] | None:
    """The Dice of the phases' livers with the portal one, over all slices of a set, without zeros.

    None if the set is not there. ValueError for one whose livers are not known.
    """
    if not (pathlib.Path(path) / builder / store.VERSION).is_dir():
        return None
    found = store.find(path, builder)
    values = []
    for split in found.splits:
        for case in found.slices(split):
            if case.livers is None:
                raise ValueError(
                    f"{builder} does not know the livers ({case.name}): Table II wants a phantom,"
                    " or a set with liver masks"
                )
            values += dice.mismatch(case.livers, case.phases).values()
    agreement = dice.average(np.array(values))
    return {
        "dice": agreement.mean,
        "pairs": agreement.counted,
        "left_out": agreement.left_out,
    }


def _twin(path: str, builder: str, kind: str) -> store.Prepared | None:
    """The registered twin, if it is there; ValueError where it is not of this set."""
    name = f"{builder}_{kind}"
    if not (pathlib.Path(path) / name / store.VERSION).is_dir():
        return None
    twin, whole = store.find(path, name), store.find(path, builder)
    kept = {key: value for key, value in whole.metadata.items() if key not in _OF_A_TWIN}
    other = [key for key, value in kept.items() if twin.metadata.get(key) != value]
    if other or twin.metadata.get("registration", {}).get("method") != kind:
        raise ValueError(
            f"{twin.folder} is not {builder} registered by {kind}:"
            f" {', '.join(other) or 'registration'} differs. Remove that folder, and it is made"
            " anew, or give --path elsewhere"
        )
    return twin
