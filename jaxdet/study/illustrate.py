"""The paper's figures from what a table has trained: fold 0's test patients, OUT/figures/TABLE.

examples.png     Fig. 1   slices with their true boxes
detections.png   Fig. 3   what each row found
errors_NAME.png  Fig. 4   what went wrong, a sheet a row
by_size.png      Fig. 5   small, medium and large lesions side by side
attention.png    Fig. 6   the map of PCA-YOLO over a slice; attention_rows.png: of every row

A table of Siamese networks alone has the examples and no other.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import jax
import numpy as np
from jaxtyping import Float, UInt8

from jaxdet.data import batch, sources
from jaxdet.data.sources import Dataset
from jaxdet.models import pca_yolo, siamese
from jaxdet.report import attention, lesions
from jaxdet.report.attention import Attended, Map
from jaxdet.run import Run
from jaxdet.study import asked, kept, lesion_free, papers
from jaxdet.study.asked import PROTOCOL, Study
from jaxdet.study.papers import Row, Scores
from jaxdet.train import evaluate as scoring
from jaxdet.train import parallel
from jaxdet.types import Detections

FOLD = 0
EXAMPLES, DETECTIONS, ATTENDED = 8, 4, 4  # slices of the figures


@dataclasses.dataclass(frozen=True)
class _Seen:
    """Fold 0 of a study: its test slices, and what the rows of a table have found there."""

    dataset: Dataset
    data: Any  # Data of one channel
    runs: Mapping[str, Run]  # by row
    found: Mapping[str, Detections]
    threshold: Mapping[str, float]
    no_rows: str  # why there are no runs, if there are none


def draw(
    study: Study,
    table: str,
    rows: Sequence[Row] | Sequence[Scores],
    path: pathlib.Path,
    say: Callable[[str], None],
) -> list[dict[str, str]]:
    """Draws all figures into `path`/figures/`table`; of each its file, or `why` there is none.

    `rows` are those of the table, trained or not built; without a trained detector among them there
    are the examples alone. The first process draws.
    """
    if parallel.process()[0] != 0:
        return []
    place = f"figures/{table}"
    seen, folder = _seen(study, table, rows, path), path / place
    folder.mkdir(parents=True, exist_ok=True)
    told = []
    for name, figure in FIGURES.items():
        try:
            written = figure(seen, folder / name)
            told += [{"figure": name, "file": f"{place}/{file}"} for file in written]
        except ValueError as error:
            say(f"{place}/{name}: not drawn, {error}")
            told.append({"figure": name, "why": str(error)})
    return told


def _seen(
    study: Study, table: str, rows: Sequence[Row] | Sequence[Scores], path: pathlib.Path
) -> _Seen:
    data = dataclasses.replace(study.data, fold=FOLD)
    built = [row.name for row in rows if isinstance(row, Row) and asked.is_built(row)]
    runs = {name: kept.fold_run(path / "rows" / name / f"fold_{FOLD}") for name in built}
    no_rows = "none of the rows is built"
    if isinstance(rows[0], Scores):
        no_rows = f"{table} scores patches alone, and has no boxes; a table of detectors draws it"
    found, threshold = {}, {}
    for name, run in runs.items():
        with np.load(run.path / "metrics" / f"test_{PROTOCOL}_detections.npz") as stored:
            found[name] = Detections(*(stored[field] for field in Detections._fields))
        folds = kept.result(path / "rows" / name)["folds"]
        threshold[name] = lesion_free.score_of(folds[FOLD])
    return _Seen(sources.load(data, "test"), data, runs, found, threshold, no_rows)


def _examples(seen: _Seen, file: pathlib.Path) -> list[str]:
    chosen = _spread(seen.dataset, EXAMPLES)
    _write(file, lesions.examples(*_images(seen, chosen)))
    return [file.name]


def _detections(seen: _Seen, file: pathlib.Path) -> list[str]:
    _want_rows(seen)
    chosen = _spread(seen.dataset, DETECTIONS)
    images, truths, names = _images(seen, chosen)
    found = {name: Detections(*(field[chosen] for field in of)) for name, of in seen.found.items()}
    classes = seen.dataset.class_names
    _write(file, lesions.detections(images, truths, found, classes, names, seen.threshold))
    return [file.name]


def _errors(seen: _Seen, file: pathlib.Path) -> list[str]:
    """The sheets that scoring has drawn, brought together."""
    _want_rows(seen)
    written = []
    for name, run in seen.runs.items():
        copy = file.with_name(f"{file.stem}_{name}{file.suffix}")
        shutil.copyfile(run.path / "pictures" / f"test_{PROTOCOL}_errors.png", copy)
        written.append(copy.name)
    return written


def _by_size(seen: _Seen, file: pathlib.Path) -> list[str]:
    _want_rows(seen)
    records = seen.dataset.records
    sheet = lesions.by_size(
        lambda i: seen.dataset[i].image,
        scoring.truths_of(seen.dataset),
        scoring.facts_of(seen.dataset).diameters_mm,
        seen.found,
        seen.dataset.class_names,
        [record.name for record in records],
        seen.threshold,
    )
    _write(file, sheet)
    return [file.name]


def _attention(seen: _Seen, file: pathlib.Path) -> list[str]:
    """One slice under the paper's own row, and some under every row that has a map."""
    _want_rows(seen)
    mapped = {n: r for n, r in seen.runs.items() if isinstance(r.experiment.model, pca_yolo.Config)}
    if not mapped:
        raise ValueError("no row with an attention map is among those that are trained")
    chosen = _spread(seen.dataset, ATTENDED)
    samples = [batch.letterboxed(seen.dataset, seen.data, int(i))[0] for i in chosen]
    slices = np.stack([sample.image for sample in samples])
    maps = {name: _maps(run, slices) for name, run in mapped.items()}
    rows = [
        Attended(
            seen.dataset.records[i].name,
            sample.image,
            sample.boxes_xyxy,
            {name: of[place] for name, of in maps.items()},
        )
        for place, (i, sample) in enumerate(zip(chosen, samples, strict=True))
    ]
    name = papers.OURS if papers.OURS in maps else next(iter(maps))
    one = rows[len(rows) // 2]
    shown = one.maps[name]
    _write(file, attention.attention(one.image, shown.values, one.truths_xyxy, shown.scores))
    sheet = file.with_name(f"{file.stem}_rows{file.suffix}")
    _write(sheet, attention.attention_sheet(rows))
    return [file.name, sheet.name]


FIGURES: dict[str, Callable[[_Seen, pathlib.Path], list[str]]] = {
    "examples.png": _examples,
    "detections.png": _detections,
    "errors.png": _errors,
    "by_size.png": _by_size,
    "attention.png": _attention,
}


def _maps(run: Run, slices: Float[np.ndarray, "N S S 1"]) -> list[Map]:
    """The maps that the RUN's detector sees beside these slices, with the scores of its patches."""
    cfg, weights = run.experiment.model, run.all_weights("best")["siamese"]
    variables = {"params": weights["params"]}
    values = jax.jit(lambda some, images: pca_yolo.attention_map(cfg, some, images))
    scores = jax.jit(lambda some, images: siamese.score(cfg.siamese, some, images))
    parts = slices.shape[1] // cfg.siamese.patches.side
    of_patches = np.asarray(scores(variables, slices)).reshape(-1, parts, parts)
    return [
        Map(*one)
        for one in zip(np.asarray(values(variables, slices))[..., 0], of_patches, strict=True)
    ]


def _images(seen: _Seen, chosen: np.ndarray) -> tuple[list, list, list[str]]:
    """Pictures, truths and names of some slices."""
    truths, records = scoring.truths_of(seen.dataset), seen.dataset.records
    return (
        [seen.dataset[int(i)].image for i in chosen],
        [truths[i] for i in chosen],
        [records[i].name for i in chosen],
    )


def _spread(dataset: Dataset, count: int) -> np.ndarray:
    """Some slices, from the one whose largest box is smallest to the one where it is largest."""
    sides = [
        (r.boxes_xyxy[:, 2:] - r.boxes_xyxy[:, :2]).max() if len(r.labels) else np.nan
        for r in dataset.records
    ]
    return lesions.spread_by_size(np.array(sides, np.float64), count)


def _want_rows(seen: _Seen) -> None:
    if not seen.runs:
        raise ValueError(seen.no_rows)


def _write(file: pathlib.Path, rgb: UInt8[np.ndarray, "Y X 3"]) -> None:
    if not cv2.imwrite(str(file), rgb[..., ::-1]):
        raise OSError(f"{file} cannot be written")
