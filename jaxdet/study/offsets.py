"""Do the learned offsets mean registration? Those of the DC module against true displacements.

    RUN, four-phase phantom -> measure -> offsets and truth in mm at every place of the map
                            -> regress -> slope, r and interval a phase, with shuffled controls
                            -> against_truth: offsets.json and offsets.png

The sign. Tissue that the portal phase shows at q is shown by phase p at q + d_p(q), d_p being
`CtSlice.displacement_mm`; d_portal is 0. The op reads phase p at q + offset (ops.deform). So what
lays all phases on the portal one is offset_p = +d_p: a slope of 1.

The frame. Nothing tells the network on which phase to lay the others: a shift that all phases have
in common only moves what the heads see. Laid on the frame of f the offsets are d_p - d_f, taken
where f shows the tissue. So each row comes twice: "own", the offset as it is, and "to portal", less
the offset of the portal phase at the same place, which is d_p whatever f is, but for d being read
some mm beside, where it is nearly the same. "to portal" is the one to believe.

What it cannot show: displacements between slices (z), which no offset in a plane follows; those of
neighbours beyond the middle slice; and what attention has mixed between the phases before.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from jaxdet.config import Data
from jaxdet.data import sources
from jaxdet.data.builders import store
from jaxdet.data.misalignment import BLOCK_PX
from jaxdet.metrics import statistics
from jaxdet.report import alignment
from jaxdet.report.alignment import Line
from jaxdet.run import Run, write_json
from jaxdet.study.inside import REFERENCE, cells_of, check, sown
from jaxdet.train import evaluate as scoring
from jaxdet.train import parallel
from jaxdet.types import Array, CtSlice

AXES = ("y", "x", "both")
FRAMES = ("own", "to portal")
PAIRS = ("true", "other phases", "other patients")  # the last two are controls
ALL = "all"  # phases pooled
FLAT = 1e-9  # a variance below so much of the mean square is rounding
LEAST_MASK = 1e-12
TISSUE_HU = -400  # what is denser, in one piece with its holes, is body
NO_CASE = "make a four-phase phantom: `jaxdet data make phantom_multiphase`"

Where = Literal["liver", "body", "lesion"]
Taps = Literal["masked", "plain"]


class Measured(NamedTuple):
    """Offsets and truth of N data points at the h x w places of the aligned map, P phases."""

    names: tuple[str, ...]
    patients: tuple[str, ...]
    phases: tuple[str, ...]  # as the RUN has its channels
    offsets_mm: Float[np.ndarray, "N h w P 2"]  # mean over the taps, dy and dx in mm
    truths_mm: Float[np.ndarray, "N h w P 2"]  # displacement from the portal phase, dy and dx
    inside: Bool[np.ndarray, "N h w"]  # the places that count


def against_truth(
    run: Run,
    out: pathlib.Path,
    split: Literal["train", "val", "test"] = "test",
    *,
    which: Literal["best", "latest"] = "best",
    where: Where = "liver",
    taps: Taps = "masked",
    samples: int = 2000,
    seed: int = 0,
    name: str = "",
) -> dict[str, Any]:
    """Measures, regresses, and writes OUT/offsets.json and OUT/offsets.png; what the JSON holds.

    Keys: run (`name`; empty: its folder), weights, split, where, taps, level, phases (of the
    channels), data_points, patients, places (all that count), samples, seed, and rows as `regress`
    has them. The picture shows "to portal", a column a phase: the true pairs above, both controls
    below. ValueError as `measure`.
    """
    found = measure(run, split, which=which, where=where, taps=taps)
    rows = regress(found, samples=samples, seed=seed)
    told = {
        "run": name or run.path.name,
        "weights": which,
        "split": split,
        "where": where,
        "taps": taps,
        "level": run.experiment.model.align_at,
        "phases": list(found.phases),
        "data_points": len(found.names),
        "patients": len(set(found.patients)),
        "places": int(found.inside.sum()),
        "samples": samples,
        "seed": seed,
        "rows": rows,
    }
    if parallel.process()[0] == 0:
        write_json(out / "offsets.json", told)
        alignment.against_truth(_lines(found, rows, seed), out / "offsets.png")
    return told


def measure(
    run: Run,
    split: Literal["train", "val", "test"] = "test",
    *,
    which: Literal["best", "latest"] = "best",
    where: Where = "liver",
    taps: Taps = "masked",
) -> Measured:
    """Offsets of the RUN's DC module and the true displacements, on a split of its own data.

    where: the places that count. liver: of the portal phase; body: all tissue of the portal slice;
    lesion: whose tissue the annotated phase shows in a lesion (its mask, or its box).
    taps: "masked" is the mean of the nine offsets weighted by their masks, "plain" without. px of
    the map become px of the image that went in, of the original, and mm by its spacing.
    ValueError: a RUN that has no offsets of its phases (`check`), data that are no prepared set,
    one without displacements (real, or registered), without spacing, or without livers.
    FloatingPointError: offsets that are not finite; it names the first data point.
    """
    experiment, order = run.experiment, check(run)
    if where not in ("liver", "body", "lesion") or taps not in ("masked", "plain"):
        raise ValueError(
            f'where wants "liver", "body" or "lesion", taps "masked" or "plain"; got {where!r} and'
            f" {taps!r}"
        )
    case_of, dataset = _cases(experiment.data), sources.load(experiment.data, split)
    _check_case(case_of(dataset.records[0].name), where)  # before anything is computed
    program = parallel.map_detect(functools.partial(mean_offsets, experiment.model, taps=taps))
    answers = scoring.answers_of(
        program,
        parallel.replicate(run.all_weights(which)),
        dataset,
        experiment,
        title="offsets",
        progress=True,
    )
    rows = [(np.array(place, np.float32), offset) for place, (offset,) in answers]
    placed, offsets = scoring.together(rows, len(dataset))
    _refuse_broken(offsets, dataset)
    cells, shape = cells_of(experiment.model), offsets.shape[1:3]
    found: list[tuple[np.ndarray, ...]] = []
    for record, (gain, pad_x, pad_y, *_), offset in zip(
        dataset.records, placed, offsets, strict=True
    ):
        case = case_of(record.name)
        _check_case(case, where)
        y, x = (
            (cells.middles_px(np.arange(n, dtype=np.float64)) - pad) / gain
            for n, pad in zip(shape, (pad_y, pad_x), strict=True)
        )
        per_px = np.array(case.spacing_mm[1::-1]) * cells.step_px / gain  # y, x
        inside = places_inside(case, y, x, where)
        found.append((offset * per_px, displacements(case, order, y, x), inside))
    columns = (np.stack(column) for column in zip(*found, strict=True))
    names, patients = zip(*((r.name, r.patient) for r in dataset.records), strict=True)
    return Measured(names, patients, order, *columns)


def mean_offsets(
    cfg: Any, variables: Any, images: Float[Array, "B S S C"], taps: Taps = "masked"
) -> tuple[Float[Array, "B h w G 2"]]:
    """The mean offset over the taps of each phase at each place, (dy, dx) in px of the map.

    0 where all masks are.
    """
    _, offsets, mask = sown(cfg, variables, images)
    weights = mask if taps == "masked" else jnp.ones_like(mask)
    total = jnp.maximum(weights.sum(4), LEAST_MASK)[..., None]
    return ((offsets * weights[..., None]).sum(4) / total,)


def displacements(
    case: CtSlice,
    order: Sequence[str],
    y_px: Float[np.ndarray, "h"],
    x_px: Float[np.ndarray, "w"],
) -> Float[np.ndarray, "h w P 2"]:
    """dy and dx in mm from the portal phase to each of `order` at places of the original slice.

    Linear between the middles of its blocks, constant beyond the outermost.
    """
    at = np.meshgrid(y_px / BLOCK_PX - 0.5, x_px / BLOCK_PX - 0.5, indexing="ij")
    fields = case.displacement_mm[..., [1, 0]]  # to (dy, dx)
    found = [
        ndimage.map_coordinates(
            fields[:, :, case.phases.index(phase), k], at, order=1, mode="nearest"
        )
        for phase in order
        for k in (0, 1)
    ]
    return np.stack(found, axis=-1).reshape(len(y_px), len(x_px), len(order), 2)


def places_inside(
    case: CtSlice, y_px: Float[np.ndarray, "h"], x_px: Float[np.ndarray, "w"], where: Where
) -> Bool[np.ndarray, "h w"]:
    """Which places of the portal slice lie in the liver, the body, or a lesion; see `measure`."""
    y, x = np.meshgrid(y_px, x_px, indexing="ij")
    if where == "lesion":
        moved = displacements(case, (case.annotated,), y_px, x_px)[:, :, 0]
        moved = moved / np.array(case.spacing_mm[1::-1])
        y, x = y + moved[..., 0], x + moved[..., 1]
        return _looked_up(_lesions(case), y, x)
    if where == "liver":
        return _looked_up(case.livers[..., case.phases.index(REFERENCE)], y, x)
    return _looked_up(_body(alignment.middle_slices(case.hu, case.phases), case), y, x)


def regress(found: Measured, *, samples: int = 2000, seed: int = 0) -> list[dict[str, Any]]:
    """Offset = intercept + slope x displacement, with percentile intervals over patients.

    A row for each of: frame ("own", "to portal", see above); pairs; phase, the portal one left out
    because it does not move, and "all" of them pooled; axis (y, x, both pooled). pairs "true" are
    what is asked. Two controls say what comes by chance, and by what all patients have in common:
    "other phases", the offsets of a phase against the displacements of each other one, and "other
    patients", against those of a data point of somebody else, drawn by `seed` (intervals are then
    over the patients of the offsets alone).

    Keys beside these: n (places), slope, intercept, r (Pearson's), each with _low and _high (95 %),
    truth_rms_mm and offset_rms_mm, and why, where there is no interval. None where not defined:
    fewer than two phases or patients, no place inside, displacements that do not vary; r also where
    offsets do not. An interval takes two patients.
    """
    people = {patient: i for i, patient in enumerate(dict.fromkeys(found.patients))}
    owner = np.array([people[patient] for patient in found.patients])
    keys, tables = [], []
    for frame, pairs in ((f, p) for f in FRAMES for p in PAIRS):
        by_phase = {
            phase: _sums(found, _paired(found, frame, pairs, phase, seed), owner, len(people))
            for phase in _moving(found)
        }
        by_phase[ALL] = np.sum(list(by_phase.values()), axis=0)
        for phase, (axis, table) in ((p, a) for p, t in by_phase.items() for a in _axes(t)):
            keys.append({"frame": frame, "pairs": pairs, "phase": phase, "axis": axis})
            tables.append(table)
    stacked = np.stack(tables, axis=1)  # patients, rows, sums

    def fitted(weights: Int[np.ndarray, "S P"]) -> Float[np.ndarray, "S T"]:
        flat = weights @ stacked.reshape(len(stacked), -1)
        return _fit(flat.reshape(len(weights), -1, 6)).reshape(len(weights), -1)

    intervals = statistics.bootstrap(fitted, len(people), samples, seed)
    totals = stacked.sum(axis=0)
    return [_row(key, totals[i], intervals[3 * i : 3 * i + 3]) for i, key in enumerate(keys)]


def _cases(data: Data) -> Callable[[str], CtSlice]:
    """Reads the slice of a name out of the prepared set, whatever its split there."""
    if data.source != "tfds":
        raise ValueError(
            f'data.source is "{data.source}", which knows no displacements: {NO_CASE}, and give a'
            ' RUN trained on it (data.source="tfds")'
        )
    prepared = store.find(data.path, data.builder)
    places = {
        truth.name: (split, i)
        for split in prepared.splits
        for i, truth in enumerate(prepared.truths(split))
    }

    def case_of(name: str) -> CtSlice:
        split, i = places[name]
        return prepared.slices(split)[i]

    return case_of


def _check_case(case: CtSlice, where: Where) -> None:
    if case.displacement_mm is None:
        raise ValueError(
            f"{case.name}: its displacements are not known, as of real CT and of registered sets:"
            f" {NO_CASE}, and take it unregistered"
        )
    if not np.isfinite(case.spacing_mm[:2]).all():
        raise ValueError(f"{case.name}: without spacing there are no mm; {NO_CASE}")
    if where == "liver" and case.livers is None:
        raise ValueError(f'{case.name} has no liver masks: say where="body"')


def _refuse_broken(offsets: Float[np.ndarray, "N h w P 2"], dataset: sources.Dataset) -> None:
    broken = np.flatnonzero(~np.isfinite(offsets).all(axis=(1, 2, 3, 4)))
    if len(broken):
        raise FloatingPointError(
            f"the offsets on {dataset.records[broken[0]].name} and {len(broken) - 1} more data"
            " points are not finite: this training has gone wrong; take an earlier checkpoint"
        )


def _looked_up(
    mask: Bool[np.ndarray, "H W"], y: Float[np.ndarray, "h w"], x: Float[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """The mask at places in px; False beside the image."""
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    there = (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
    return there & mask[row.clip(0, mask.shape[0] - 1), column.clip(0, mask.shape[1] - 1)]


def _lesions(case: CtSlice) -> Bool[np.ndarray, "H W"]:
    if case.lesions is not None:
        return case.lesions > 0
    mask = np.zeros(case.hu.shape[:2], bool)
    for x0, y0, x1, y1 in np.rint(case.boxes_xyxy).astype(int):
        mask[max(y0, 0) : y1, max(x0, 0) : x1] = True
    return mask


def _body(slices_hu: np.ndarray, case: CtSlice) -> Bool[np.ndarray, "H W"]:
    """The largest piece of tissue in the portal slice with all that it encloses; table apart."""
    dense = slices_hu[case.phases.index(REFERENCE)] > TISSUE_HU
    pieces, count = ndimage.label(dense)
    if not count:
        return dense
    largest = 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    return ndimage.binary_fill_holes(pieces == largest)


def _moving(found: Measured) -> list[str]:
    """All phases but the portal one, in medical order."""
    order = [found.phases[i] for i in alignment.medical(found.phases)]
    return [phase for phase in order if phase != REFERENCE]


Pairs = list[tuple[Float[np.ndarray, "N h w 2"], Float[np.ndarray, "N h w 2"]]]


def _paired(found: Measured, frame: str, pairs: str, phase: str, seed: int) -> Pairs:
    """Offsets of a phase, and the displacements that they are held against."""
    p = found.phases.index(phase)
    offsets = found.offsets_mm[..., p, :]
    if frame == "to portal":
        offsets = offsets - found.offsets_mm[..., found.phases.index(REFERENCE), :]
    if pairs == "other phases":
        others = [found.phases.index(other) for other in _moving(found) if other != phase]
        return [(offsets, found.truths_mm[..., q, :]) for q in others]
    if pairs == "true":
        return [(offsets, found.truths_mm[..., p, :])]
    partner = _partners(found.patients, seed)
    return [] if partner is None else [(offsets, found.truths_mm[partner][..., p, :])]


def _partners(patients: Sequence[str], seed: int) -> Int[np.ndarray, "N"] | None:
    """For each data point one of another patient; None where there is no other."""
    names, rng = np.array(patients), np.random.default_rng(seed)
    if len(set(patients)) < 2:
        return None
    return np.array([rng.choice(np.flatnonzero(names != name)) for name in patients])


def _sums(
    found: Measured, pairs: Pairs, owner: Int[np.ndarray, "N"], people: int
) -> Float[np.ndarray, "P 2 6"]:
    """n, x, y, xx, xy, yy of each patient and axis (y, x): all that a line needs."""
    total = np.zeros((people, 2, 6))
    for offsets, truths in pairs:
        for i, inside in enumerate(found.inside):
            x, y = truths[i][inside].astype(np.float64), offsets[i][inside].astype(np.float64)
            terms = np.ones_like(x), x, y, x * x, x * y, y * y
            total[owner[i]] += np.stack([term.sum(axis=0) for term in terms], axis=1)
    return total


def _axes(table: Float[np.ndarray, "P 2 6"]) -> list[tuple[str, Float[np.ndarray, "P 6"]]]:
    return list(zip(AXES, (table[:, 0], table[:, 1], table.sum(axis=1)), strict=True))


def _fit(sums: Float[np.ndarray, "S R 6"]) -> Float[np.ndarray, "S R 3"]:
    """Slope, intercept and r of least squares; NaN where they are not defined."""
    n, x, y, xx, xy, yy = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        across, of_x, of_y = xy - x * y / n, xx - x * x / n, yy - y * y / n
        of_x = np.where(of_x > FLAT * xx, of_x, np.nan)
        slope = across / of_x
        r = across / np.sqrt(of_x * np.where(of_y > FLAT * yy, of_y, np.nan))
        return np.stack([slope, (y - slope * x) / n, r], axis=-1)


def _row(
    key: dict[str, str], total: Float[np.ndarray, "6"], intervals: Sequence[statistics.Interval]
) -> dict[str, Any]:
    n = int(total[0])
    row: dict[str, Any] = {**key, "n": n}
    for name, one in zip(("slope", "intercept", "r"), intervals, strict=True):
        row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
    truth, offset = (float(np.sqrt(total[k] / n)) if n else None for k in (3, 5))
    return row | {"truth_rms_mm": truth, "offset_rms_mm": offset, "why": intervals[0].why}


def _lines(found: Measured, rows: Sequence[Mapping[str, Any]], seed: int) -> list[list[Line]]:
    """Panels of the picture: a row the pairs, a column a phase; both axes, "to portal"."""
    shown = {
        (row["pairs"], row["phase"]): row
        for row in rows
        if (row["frame"], row["axis"]) == (FRAMES[1], AXES[2])
    }
    return [[_line(found, shown[pairs, p], seed) for p in _moving(found)] for pairs in PAIRS]


def _line(found: Measured, row: Mapping[str, Any], seed: int) -> Line:
    paired = _paired(found, row["frame"], row["pairs"], row["phase"], seed)
    offsets, truths = (
        np.concatenate([np.zeros(0), *(pair[k][found.inside].ravel() for pair in paired)])
        for k in (0, 1)
    )
    label = f"{alignment.LABELS.get(row['phase'], row['phase'])}, {row['pairs']}"
    if row["slope"] is None:
        return Line(label, truths, offsets, np.nan, np.nan, "not defined")
    told = f"slope {row['slope']:.2f}"
    if row["slope_low"] is not None:
        told += f" ({row['slope_low']:.2f} to {row['slope_high']:.2f})"
    told += "" if row["r"] is None else f", r {row['r']:.2f}"
    return Line(label, truths, offsets, row["slope"], row["intercept"], told)
