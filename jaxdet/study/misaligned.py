"""What does misalignment cost? Average precision as a curve over millimetres.

    in_bins        data points by how far their phases lie apart where their lesion is; against the
                   same data points registered, with the RUN that was trained on those, it is the
                   sensitivity of Lee 2021 (Eq. 6), bin by bin instead of once for a whole set
    against_shift  one checkpoint, its test set, and phases that are moved by so many mm more

Eq. 6 compares two trainings. Where there is only one, its lowest bin, or no shift, is what it is
compared with, and the number has another name: "loss". Lesions far apart may be harder for another
reason too (large livers breathe deeper); of shifts the mm alone differ, but no network of this
world was trained on rigid ones. Intervals are over patients, one draw for a whole curve.
"""

import dataclasses
import itertools
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from jaxdet.data import sources
from jaxdet.data.sources import Dataset, Record
from jaxdet.metrics import statistics
from jaxdet.metrics.average_precision import judge, prepare
from jaxdet.metrics.facts import patient_of
from jaxdet.metrics.protocols import protocol_named
from jaxdet.metrics.resampled import average_precision_resampled
from jaxdet.metrics.strata import MISALIGNED_MM
from jaxdet.report import alignment
from jaxdet.run import Run, write_json
from jaxdet.train import evaluate as scoring
from jaxdet.train import parallel, unseen
from jaxdet.types import Detections

PROTOCOL = "l0sg"
OVERLAPS = {"iou50": "iou", "iobb50": "iobb"}  # of paper 2's test set
AT = np.array([0.5])
SHIFTS_MM = (0.0, 2.0, 4.0, 8.0, 16.0)
EQ6 = "sensitivity (Eq. 6)"
APART = "mm between the phases at the lesion"
SHIFTED = "mm that each other phase was shifted"

Split = Literal["train", "val", "test"]
Which = Literal["best", "latest"]
Area = Callable[[Int[np.ndarray, "S P"]], Float[np.ndarray, "S"]]  # AP under weights of patients


class Seen(NamedTuple):
    """What a RUN found on a data set."""

    name: str  # of the RUN, or of the row that it is
    dataset: Dataset
    found: Detections  # [N, D, ...] in px of the original images


def see(run: Run, split: Split = "test", which: Which = "best", *, name: str = "") -> Seen:
    """Detections of a RUN on a split of its own data; patients it was trained on are refused.

    name: what curves call it; empty: its folder.
    """
    dataset = _unseen(run, split)
    detect, variables = _program(run, which)
    found = scoring.found_in(detect, variables, dataset, run.experiment, progress=True)
    return Seen(name or run.path.name, dataset, found)


def in_bins(
    seen: Seen,
    registered: Seen | None = None,
    *,
    lower_mm: Mapping[str, float] = MISALIGNED_MM,
    protocol: str = PROTOCOL,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The curve of a RUN over bins of misalignment, a dict that JSON can hold.

    A data point lies in the bin of its worst lesion; `lower_mm` are lower ends by name, which
    belong to their bin (those of metrics.strata, where false boxes of all images count in every
    bin; here a bin has its own images only, so that rare bins are not worse for being rare). Data
    points whose misalignment is not known, or without a lesion, are in none and counted.

    registered: the RUN that was trained and has looked on the registered set. Its AP on the same
    data points, found by name, is what a bin is compared with: Eq. 6. Without it that is the lowest
    bin that has any.

    Keys: name (of `seen`), along, lost_is, compared_with (the name of `registered`, or of the
    lowest bin), protocol, data_points, unknown, samples, seed, and points: name, mm (median),
    data_points, patients, and ap, compared and lost = 1 - ap / compared, each by overlap (iou50,
    iobb50) an Interval of statistics. Bins without a data point are left out. ValueError: no data
    point in any bin, lower ends that do not rise, a data point that `registered` lacks.
    """
    apart = np.array([_apart(record) for record in seen.dataset.records])
    bins = _bins(apart, lower_mm)
    owner = patient_of(len(seen.dataset), scoring.facts_of(seen.dataset))
    there = None if registered is None else _same(seen, registered)
    curve, areas, others = [], [], []
    for name, rows in bins.items():
        curve.append({"name": name, "mm": float(np.median(apart[rows])), **_counts(rows, owner)})
        areas.append(_areas(seen, rows, owner[rows], protocol))
        if there is not None:
            others.append(_areas(registered, there[rows], owner[rows], protocol))
    points = _points(curve, areas, others or [areas[0]] * len(areas), owner, samples, seed)
    return {
        "name": seen.name,
        "along": APART,
        "lost_is": "loss against the lowest bin" if registered is None else EQ6,
        "compared_with": points[0]["name"] if registered is None else registered.name,
        "protocol": protocol,
        "data_points": len(seen.dataset),
        "unknown": int(np.isnan(apart).sum()),
        "samples": samples,
        "seed": seed,
        "points": points,
    }


def against_shift(
    run: Run,
    split: Split = "test",
    which: Which = "best",
    *,
    shifts_mm: Sequence[float | int] = SHIFTS_MM,
    protocol: str = PROTOCOL,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The curve of one checkpoint over millimetres by which `shifted` moves the phases.

    No sensitivity of Eq. 6, which takes two trainings (facts, gssd_baselines 8.8): "loss against
    the first shift", 0 mm unless said otherwise. What lay apart before stays apart, so mm are added
    to the set's own. Keys as of `in_bins`; every point has all data points. ValueError: no shift, a
    RUN whose phases are not known, and as `shifted`.
    """
    order, dataset = run.phases()[0], _unseen(run, split)
    if not order or not shifts_mm:
        raise ValueError(
            f"{run.path}: shifts want 1 number of mm or more ({list(shifts_mm)}) and the phases of"
            f" its channels ({', '.join(order) or 'not known'}): train on a prepared set, or write"
            " phase_order into its run.json"
        )
    detect, variables = _program(run, which)
    owner, rows = patient_of(len(dataset), scoring.facts_of(dataset)), np.arange(len(dataset))
    curve, areas = [], []
    for mm in shifts_mm:
        moved = shifted(dataset, order, mm, seed)
        found = scoring.found_in(detect, variables, moved, run.experiment, progress=True)
        curve.append({"name": f"{mm:g} mm", "mm": float(mm), **_counts(rows, owner)})
        areas.append(_areas(Seen(run.path.name, moved, found), rows, owner, protocol))
    return {
        "name": run.path.name,
        "along": SHIFTED,
        "lost_is": "loss against the first shift",
        "compared_with": curve[0]["name"],
        "protocol": protocol,
        "data_points": len(dataset),
        "unknown": 0,
        "samples": samples,
        "seed": seed,
        "points": _points(curve, areas, [areas[0]] * len(areas), owner, samples, seed),
    }


def shifted(dataset: Dataset, order: Sequence[str], mm: float | int, seed: int = 0) -> Dataset:
    """The data set with each phase that is not the annotated one `mm` away from where it was.

    Each phase of an image goes in a direction of its own in the plane of the slice, all its
    neighbours together, drawn from (seed, image, phase): the same one whatever `mm`. The annotated
    phase and the boxes stay. order: the phases in the order of the channels; a phase that comes
    twice moves as one. Linear between pixels; what comes in from beyond the edge has the least
    value of the image, in CT air. 0 mm changes nothing. `misaligned_mm` is no longer known.
    ValueError, with the image, where the size of a pixel or the annotated phase is not known, or
    where channels do not fall into phases.
    """
    if not 0 <= mm < np.inf:
        raise ValueError(f"a shift wants 0 mm or more, finite; got {mm}")
    for record in dataset.records:
        if record.pixel_mm is None or not record.phase:
            raise ValueError(
                f"{record.name}: a shift in mm wants the size of a pixel and the phase on which"
                f" the lesions were drawn; got {record.pixel_mm} and {record.phase!r}. Take a"
                " prepared set of several phases (`jaxdet data list`)"
            )

    def pixels(index: int) -> Shaped[np.ndarray, "H W C"]:
        return _moved(dataset.pixels(index), dataset.records[index], order, float(mm), seed)

    records = tuple(dataclasses.replace(r, misaligned_mm=None) for r in dataset.records)
    return dataclasses.replace(dataset, records=records, pixels=pixels, cache=None)


def write(curves: Sequence[Mapping[str, Any]], out: pathlib.Path, name: str) -> None:
    """OUT/NAME.json, and OUT/NAME_iou50.png and _iobb50.png with a line a RUN; the first process.

    Curves are of one kind: all of `in_bins` with, or all without `registered`, or `against_shift`.
    """
    if parallel.process()[0] != 0:
        return
    write_json(out / f"{name}.json", {"curves": list(curves)})
    for overlap in OVERLAPS:
        alignment.over_mm(curves, out / f"{name}_{overlap}.png", overlap)


def _unseen(run: Run, split: Split) -> Dataset:
    parallel.check_batch(run.experiment.evaluate.batch_size, "evaluate.batch_size")
    dataset = sources.load(run.experiment.data, split)
    unseen.check_unseen(run, dataset)
    return dataset


def _program(run: Run, which: Which) -> tuple[Callable, Any]:
    return parallel.map_detect(run.program()), parallel.replicate(run.all_weights(which))


def _apart(record: Record) -> float:
    """Of the worst lesion; NaN where one is not known, or there is none."""
    known = record.misaligned_mm
    return float(np.max(known)) if known is not None and len(known) else float("nan")


def _bins(
    apart: Float[np.ndarray, "N"], lower_mm: Mapping[str, float]
) -> dict[str, Int[np.ndarray, "_"]]:
    """The data points of each bin that has any."""
    ends = [*lower_mm.values(), np.inf]
    if not lower_mm or not all(a < b for a, b in itertools.pairwise(ends)):
        raise ValueError(f"bins want lower ends in mm that rise; got {dict(lower_mm)}")
    found = {
        name: np.flatnonzero((apart >= low) & (apart < high))
        for name, low, high in zip(lower_mm, ends[:-1], ends[1:], strict=True)
    }
    kept = {name: rows for name, rows in found.items() if len(rows)}
    if not kept:
        raise ValueError(
            f"of {len(apart)} data points none has a known misalignment in {dict(lower_mm)}: it is"
            " known of four-phase phantoms that are not registered"
            " (`jaxdet data make phantom_multiphase`)"
        )
    return kept


def _same(seen: Seen, registered: Seen) -> Int[np.ndarray, "N"]:
    """Where `registered` has the data points of `seen`."""
    place = {record.name: i for i, record in enumerate(registered.dataset.records)}
    lacking = [r.name for r in seen.dataset.records if r.name not in place]
    if lacking:
        raise ValueError(
            f"{registered.name} has looked at other data points than {seen.name}: it lacks"
            f" {len(lacking)}, such as {lacking[0]}. Register the very set, and split it alike"
        )
    return np.array([place[record.name] for record in seen.dataset.records])


def _counts(rows: Int[np.ndarray, "R"], owner: Int[np.ndarray, "N"]) -> dict[str, int]:
    return {"data_points": len(rows), "patients": len(np.unique(owner[rows]))}


def _areas(
    seen: Seen, rows: Int[np.ndarray, "R"], owner: Int[np.ndarray, "R"], protocol: str
) -> dict[str, Area]:
    """By overlap, the AP of these data points alone; `owner` is the patient of each."""
    rules, whole = protocol_named(protocol), scoring.truths_of(seen.dataset)
    found = jax.tree.map(lambda field: np.asarray(field)[rows], seen.found)

    def area(overlap: str) -> Area:
        cases = prepare([found], [whole[i] for i in rows], rules, overlap)
        verdict = judge(cases, AT, rules)
        return lambda weights: average_precision_resampled(verdict, rules, owner, weights)[:, 0]

    return {name: area(overlap) for name, overlap in OVERLAPS.items()}


def _points(
    curve: Sequence[Mapping[str, Any]],
    areas: Sequence[Mapping[str, Area]],
    others: Sequence[Mapping[str, Area]],
    owner: Int[np.ndarray, "N"],
    samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """The points with ap, compared and lost, all under the same resampled patients."""
    kinds = ("ap", "compared", "lost")

    def statistic(weights: Int[np.ndarray, "S P"]) -> Float[np.ndarray, "S T"]:
        columns = []
        for mine, other in zip(areas, others, strict=True):
            for overlap in OVERLAPS:
                ap, compared = mine[overlap](weights), other[overlap](weights)
                some = np.where(compared > 0, compared, np.nan)  # as statistics.sensitivity
                columns += [ap, compared, 1 - ap / some]
        return np.stack(columns, axis=1)

    intervals = iter(statistics.bootstrap(statistic, int(owner.max()) + 1, samples, seed))
    points = []
    for point in curve:
        told: dict[str, Any] = {kind: {} for kind in kinds}
        for overlap in OVERLAPS:
            for kind in kinds:
                told[kind][overlap] = next(intervals)._asdict()
        points.append({**point, **told})
    return points


def _moved(
    image: Shaped[np.ndarray, "H W C"],
    record: Record,
    order: Sequence[str],
    mm: float,
    seed: int,
) -> Shaped[np.ndarray, "H W C"]:
    if mm == 0:
        return image
    if image.shape[2] % len(order):
        raise ValueError(
            f"{record.name}: {image.shape[2]} channels do not fall into {len(order)} phases"
            f" ({', '.join(order)}): give the phases in the order of the channels"
        )
    each, out = image.shape[2] // len(order), image.copy()
    for i, phase in enumerate(order):
        if phase != record.phase:
            channels = slice(each * i, each * (i + 1))
            move_px = mm * _direction(record, phase, seed) / np.array(record.pixel_mm)
            out[..., channels] = _translated(image[..., channels], move_px, image.min())
    return out


def _direction(record: Record, phase: str, seed: int) -> Float[np.ndarray, "2"]:
    """A unit vector (x, y) that is always the same for this phase of this image."""
    told = zlib.crc32(f"{record.patient}\0{record.name}\0{phase}".encode())
    angle = np.random.default_rng([seed, told]).uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _translated(
    image: Shaped[np.ndarray, "H W C"], move_px: Float[np.ndarray, "2"], outside: Any
) -> Shaped[np.ndarray, "H W C"]:
    """Moved by (x, y) px, channel by channel, in its own type; integers are rounded."""
    matrix = np.array([[1.0, 0.0, move_px[0]], [0.0, 1.0, move_px[1]]])
    size, border = image.shape[1::-1], {"borderValue": float(outside)}
    parts = [
        cv2.warpAffine(np.float32(image[..., c]), matrix, size, flags=cv2.INTER_LINEAR, **border)
        for c in range(image.shape[2])
    ]
    moved = np.stack(parts, axis=-1)
    return (np.rint(moved) if image.dtype.kind in "iu" else moved).astype(image.dtype)
