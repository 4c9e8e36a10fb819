"""A set of several phases with every phase registered to the portal one, as a set of its own.

phantom_multiphase/tiny -> npz files in DIR/phantom_multiphase/tiny_nonrigid.work -> tiny_nonrigid
"""

import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from jaxdet.data.builders import store
from jaxdet.data.registration import sets
from jaxdet.types import CtSlice


def make(
    prepared: store.Prepared,
    folder: str | pathlib.Path,
    method: str,
    *,
    per_slice: bool = True,
    backend: str = "sitk",
    seed: int = 0,
    workers: int | None = None,
) -> store.Prepared:
    """Registers every slice of a set and writes NAME/CONFIG_METHOD below `folder`.

    What is done stays in a folder CONFIG_METHOD.work until the set is whole, so an interrupted
    call goes on where it stopped. ValueError for a set of one phase, one that is registered
    already, a result that is there, and what `registration.sets.register_all` refuses.
    """
    name = f"{prepared.name}_{method}"
    if "portal" not in prepared.phases or len(set(prepared.phases)) < 2:
        raise ValueError(
            f"{prepared.name} has the phases {', '.join(prepared.phases)}: registration wants the "
            "portal one and others"
        )
    if "registration" in prepared.metadata:
        raise ValueError(f"{prepared.name} is registered already; name the set that it was made of")
    final = pathlib.Path(folder) / name
    if (final / store.VERSION).exists():
        raise ValueError(f"{final} is there already: delete it to make it again")
    work = final.with_name(final.name + ".work")
    settings = sets.Settings(method, _identity(prepared), per_slice, backend, seed)
    files = {
        split: sets.register_all(
            prepared.slices(split), work / split, settings, workers=workers or os.cpu_count() or 1
        )
        for split in prepared.splits
    }
    told = {"method": method, "backend": backend, "per_slice": per_slice, "seed": seed}
    made = store.write(folder, name, _read(files), {**prepared.metadata, "registration": told})
    shutil.rmtree(work)
    return made


def _read(files: dict[str, list[pathlib.Path]]) -> Iterator[tuple[str, CtSlice]]:
    for split, each in files.items():
        for file in each:
            yield split, sets.read(file)


def _identity(prepared: store.Prepared) -> str:
    """Another set under the same name has another one."""
    told = (prepared.folder / "dataset_info.json").read_bytes()
    return f"{prepared.name} {hashlib.sha256(told).hexdigest()[:16]}"
