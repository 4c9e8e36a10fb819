"""What trained GSSD networks do inside: the paper's Figs. 4, 6 and 7, and two questions of ours.

On any set of four phases:
    detections.png                        boxes of all rows side by side, by score
    gate_I.png, samples_I.png             the gate over each phase, and where each phase is sampled
Where the set knows what they ask; of real CT that is at most the size of a pixel, for shifted:
    misaligned.json, ..._iou50.png        AP over millimetres between the phases
    shifted.json, ..._iou50.png           the same networks, and phases shifted by so much more
    sensitivity.json, ..._iou50.png       Eq. 6 over millimetres, of rows that have registered twins
    offsets.json, offsets.png             the learned offsets against the true displacement
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdet import models
from jaxdet.report import alignment
from jaxdet.run import Run
from jaxdet.study import inside, misaligned, offsets
from jaxdet.study.misaligned import Seen
from jaxdet.train import parallel

FOLDER = "figures/gssd-inside"
SHOWN = 4  # data points of a picture


def write(
    plain: Mapping[str, Run],
    registered: Mapping[str, Run],
    out: pathlib.Path,
    say: Callable[[str], None],
    *,
    samples: int = 2000,
) -> list[dict[str, str]]:
    """All that can be drawn of these RUNs on their test patients; {"file"} below `out`.

    plain and registered: by title, RUNs in OUT/rows/KEY/seed_S that were trained on the set as it
    is, one or more, and on a registered one; files call them by KEY. What cannot be had, such as
    anything in mm where the size of a pixel is not known, is in the list with the "why".
    """
    folder = out / FOLDER
    found = {title: misaligned.see(run, name=_key(run)) for title, run in plain.items()}
    files = [{"file": name} for name in _pictures(plain, found, folder)]
    say("detections, gates and sampling points: done")
    parts: dict[str, Callable[[], list[str]]] = {
        "misaligned": lambda: _misaligned(found, folder, samples),
        "shifted": lambda: _shifted(plain, folder, samples),
        "sensitivity": lambda: _sensitivity(found, registered, folder, samples),
        "offsets": lambda: _offsets(plain, folder, samples),
    }
    for name, part in parts.items():
        try:
            files += [{"file": file} for file in part()]
            say(f"{name}: done")
        except ValueError as error:  # hours of training are behind: the other parts are wanted yet
            files.append({"file": f"{name}.json", "why": str(error)})
            say(f"{name}: not done: {error}")
    return [{**one, "file": f"{FOLDER}/{one['file']}"} for one in files]


def _pictures(
    plain: Mapping[str, Run], found: Mapping[str, Seen], folder: pathlib.Path
) -> list[str]:
    """Figs. 4, 6 and 7, of any set; their names, which the first process alone knows."""
    if parallel.process()[0] != 0:
        return []
    shown = _shown(next(iter(found.values())))
    _detections(found, shown, folder / "detections.png")
    names = ["detections.png"]
    title = _aligning(plain)
    if title is not None:
        looked = inside.look(plain[title], found[title].dataset, shown)
        names += [path.name for path in inside.draw(plain[title], looked, folder)]
    return names


def _misaligned(found: Mapping[str, Seen], folder: pathlib.Path, samples: int) -> list[str]:
    curves = [misaligned.in_bins(seen, samples=samples) | {"name": n} for n, seen in found.items()]
    return _drawn(curves, folder, "misaligned")


def _shifted(plain: Mapping[str, Run], folder: pathlib.Path, samples: int) -> list[str]:
    curves = [
        misaligned.against_shift(run, samples=samples) | {"name": n} for n, run in plain.items()
    ]
    return _drawn(curves, folder, "shifted")


def _sensitivity(
    found: Mapping[str, Seen], registered: Mapping[str, Run], folder: pathlib.Path, samples: int
) -> list[str]:
    """Of rows that were trained on both sets."""
    both = {n: run for n, run in registered.items() if n in found}
    if not both:
        raise ValueError("no row has a registered twin yet")
    curves = []
    for n, run in both.items():
        twin = misaligned.see(run, name=_key(run))
        curves.append(misaligned.in_bins(found[n], twin, samples=samples) | {"name": n})
    return _drawn(curves, folder, "sensitivity")


def _drawn(curves: Sequence[Mapping[str, Any]], folder: pathlib.Path, name: str) -> list[str]:
    misaligned.write(curves, folder, name)
    return [f"{name}.json", *(f"{name}_{overlap}.png" for overlap in misaligned.OVERLAPS)]


def _offsets(plain: Mapping[str, Run], folder: pathlib.Path, samples: int) -> list[str]:
    title = _aligning(plain)
    if title is None:
        raise ValueError("no row that is trained aligns the phases")
    offsets.against_truth(plain[title], folder, samples=samples, name=_key(plain[title]))
    return ["offsets.json", "offsets.png"]


def _key(run: Run) -> str:
    """OUT/rows/KEY/seed_S: the row and its registration; seeds are called alike in all rows."""
    return run.path.parent.name


def _aligning(plain: Mapping[str, Run]) -> str | None:
    """The first row that aligns phase by phase."""
    return next((title for title, run in plain.items() if _aligns(run)), None)


def _aligns(run: Run) -> bool:
    cfg = run.experiment.model
    return models.aligned(cfg) is not None and cfg.align_groups > 1


def _shown(seen: Seen) -> list[int]:
    """Data points evenly over the test patients' lesions, by size."""
    areas = [record.area.max(initial=0.0) for record in seen.dataset.records]
    order = np.argsort(areas, kind="stable")
    places = np.linspace(0, len(order) - 1, min(SHOWN, len(order)))
    return [int(order[round(place)]) for place in places]


def _detections(found: Mapping[str, Seen], shown: list[int], path: pathlib.Path) -> None:
    first = next(iter(found.values())).dataset
    examples = [first[i] for i in shown]
    parts: dict[str, Any] = {
        name: type(seen.found)(*(np.asarray(part)[shown] for part in seen.found))
        for name, seen in found.items()
    }
    alignment.detections(
        [example.image[..., 7] for example in examples],  # the portal phase's middle slice
        [example.boxes_xyxy for example in examples],
        parts,
        [example.name for example in examples],
        path,
    )
