"""What trained GSSD networks do inside: the paper's Figs. 4, 6 and 7, and two questions of ours.

detections.png                        boxes of all rows side by side, by score
gate_I.png, samples_I.png             the gate over each phase, and where each phase is sampled
offsets.json, offsets.png             the learned offsets against the true displacement
misaligned.json, ..._iou50.png        AP over millimetres between the phases
shifted.json, ..._iou50.png           the same networks, and phases shifted by so much more
sensitivity.json, ..._iou50.png       Eq. 6 over millimetres, of rows that have registered twins
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdet.models import gssd
from jaxdet.report import alignment
from jaxdet.run import Run
from jaxdet.study import inside, misaligned, offsets
from jaxdet.study.misaligned import Seen
from jaxdet.train import parallel

SHOWN = 4  # data points of a picture


def write(
    plain: Mapping[str, Run],
    registered: Mapping[str, Run],
    out: pathlib.Path,
    say: Callable[[str], None],
    *,
    samples: int = 2000,
) -> list[dict[str, str]]:
    """All that can be drawn of these RUNs on their test patients; {"file"} below `out`, or "why".

    plain and registered: by title, RUNs trained on the set as it is and on a registered one.
    """
    found = {title: misaligned.see(run) for title, run in plain.items()}
    folder = out / "figures" / "gssd-inside"
    shown = _shown(next(iter(found.values())))
    files: list[dict[str, str]] = []

    def told(*names: str) -> None:
        files.extend({"file": str((folder / name).relative_to(out))} for name in names)

    if parallel.process()[0] == 0:
        _detections(found, shown, folder / "detections.png")
    told("detections.png")
    curves = [misaligned.in_bins(seen, samples=samples) | {"name": n} for n, seen in found.items()]
    misaligned.write(curves, folder, "misaligned")
    told("misaligned.json", "misaligned_iou50.png", "misaligned_iobb50.png")
    say("AP over millimetres between the phases: done")
    moved = [
        misaligned.against_shift(run, samples=samples) | {"name": n} for n, run in plain.items()
    ]
    misaligned.write(moved, folder, "shifted")
    told("shifted.json", "shifted_iou50.png", "shifted_iobb50.png")
    say("AP over millimetres of shift: done")
    both = [
        misaligned.in_bins(found[n], misaligned.see(run), samples=samples) | {"name": n}
        for n, run in registered.items()
        if n in found
    ]
    if both:
        misaligned.write(both, folder, "sensitivity")
        told("sensitivity.json", "sensitivity_iou50.png", "sensitivity_iobb50.png")
    else:
        files.append({"file": "sensitivity.json", "why": "no row has a registered twin yet"})
    for title, run in plain.items():
        if _aligns(run):
            offsets.against_truth(run, folder, samples=samples)
            told("offsets.json", "offsets.png")
            if parallel.process()[0] == 0:
                looked = inside.look(run, found[title].dataset, shown)
                told(*(path.name for path in inside.draw(run, looked, folder)))
            say(f"{title}: its gate, its sampling points, its offsets against the truth: done")
            break
    else:
        files.append({"file": "offsets.json", "why": "no row that is trained aligns the phases"})
    return files


def _aligns(run: Run) -> bool:
    cfg = run.experiment.model
    return isinstance(cfg, gssd.Config) and cfg.align == "deform" and cfg.align_groups > 1


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
