"""How long does average precision take, beside pycocotools and faster-coco-eval?

    pip install pycocotools faster-coco-eval
    python scripts/bench/metrics.py [--images 5000] [--classes 1 80] [--ragged 2500] [--out FILE]

Random detections, 100 an image, half of them near one of up to 14 truths; then a ragged case of 5
classes and 0 to 300 detections and 0 to 19 truths an image. IoU at 0.5, 0.55 to 0.95; all sides
count one range of areas and 100 detections of an image and class. `whole` goes from detections in
memory to AP: jaxdet from padded Detections in batches of 100 images, the peers from their lists of
dicts (made beforehand) through loadRes, evaluate and accumulate. `matching` leaves out reading:
evaluate and accumulate, and all that jaxdet does after rows.read. `jaxdet host` is the same without
the device. Median of three calls after one that warms up (pycocotools: one call); `first` is that
first call, with compilation of the `programs` that no case before has compiled. All three must
agree on AP to 1e-6. Prints JSON and writes it beside this file.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from jaxdet import run as runs
from jaxdet.metrics import average_precision, on_device
from jaxdet.metrics.protocols import COCO_THRESHOLDS
from jaxdet.metrics.rows import read
from jaxdet.types import Detections

try:
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
except ImportError as error:
    raise SystemExit(f"{error}: pip install pycocotools faster-coco-eval") from error

DETECTIONS, BATCH, CALLS, SEED = 100, 100, 3, 0


RAGGED_CLASSES, MOST_RAGGED = 5, 300


def case(images: int, classes: int, ragged: bool) -> tuple[list[Detections], list[tuple]]:
    """Detections in batches, and one (boxes_xyxy, labels) an image."""
    rng, found, truths = np.random.default_rng(SEED), [], []
    rows = MOST_RAGGED if ragged else DETECTIONS
    for _ in range(images):
        many = rng.integers(*((0, 20) if ragged else (1, 15)))
        low = rng.uniform(0, 500, (many, 2))
        true = np.concatenate([low, low + rng.uniform(8, 120, (many, 2))], 1).astype(np.float32)
        labels, mine = rng.integers(0, classes, many), rng.integers(0, max(many, 1), rows)
        low, near = rng.uniform(0, 500, (rows, 2)), rng.random(rows) < 0.5 * (many > 0)
        boxes = np.concatenate([low, low + rng.uniform(8, 120, (rows, 2))], 1)
        boxes[near] = true[mine[near]] + rng.normal(0, 5, (rows, 4))[near]
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        named = rng.integers(0, classes, rows)
        named[near] = labels[mine[near]]
        scores = np.sort(rng.random(rows))[::-1]
        if ragged:
            named[rng.integers(0, rows + 1) :] = -1  # padding
        found.append((boxes.astype(np.float32), scores.astype(np.float32), named.astype(np.int32)))
        truths.append((true, labels))
    columns = [np.stack(column) for column in zip(*found, strict=True)]
    batches = [Detections(*(c[i : i + BATCH] for c in columns)) for i in range(0, images, BATCH)]
    return batches, truths


def as_coco(batches: list[Detections], truths: list[tuple], classes: int) -> tuple[dict, list]:
    """The same as a COCO annotation file and a result file, in memory."""
    truth, results = [], []
    for image, (boxes, labels) in enumerate(truths):
        for (x0, y0, x1, y1), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            row = {"image_id": image, "category_id": label, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            truth.append(row | {"id": len(truth) + 1, "area": (x1 - x0) * (y1 - y0), "iscrowd": 0})
    rows = (row for batch in batches for row in zip(*batch, strict=True))
    for image, columns in enumerate(rows):
        real = columns[2] >= 0
        plain = (column[real].tolist() for column in columns)
        for (x0, y0, x1, y1), score, label in zip(*plain, strict=True):
            row = {"image_id": image, "category_id": label, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            results.append(row | {"score": score})
    world = {"images": [{"id": i} for i in range(len(truths))], "annotations": truth}
    return world | {"categories": [{"id": k} for k in range(classes)]}, results


def peer(
    world: dict, results: list, make: type, evaluate: type, **options: bool
) -> Callable[[], tuple[float, float, float]]:
    """A call that gives the seconds of the whole and of evaluate and accumulate, and AP."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = make()
        truth.dataset = world
        truth.createIndex()

    def call() -> tuple[float, float, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            start = time.perf_counter()
            found = truth.loadRes(results)
            run = evaluate(truth, found, "bbox", **options)
            run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
            run.params.maxDets = [DETECTIONS]
            middle = time.perf_counter()
            run.evaluate()
            run.accumulate()
            end = time.perf_counter()
        precision = run.eval["precision"]
        return end - start, end - middle, float(precision[precision > -1].mean())

    return call


def jaxdet(batches: list[Detections], truths: list[tuple]) -> tuple[float, float, float]:
    """Seconds of the whole and of all but reading, and AP."""
    start = time.perf_counter()
    areas = average_precision(batches, truths, thresholds=COCO_THRESHOLDS, protocol="coco")
    whole = time.perf_counter() - start
    start = time.perf_counter()
    read(batches, truths)
    return whole, whole - (time.perf_counter() - start), float(areas.mean())


@contextlib.contextmanager
def without_device() -> Iterator[None]:
    """Nothing is worth a compilation."""
    least, on_device.LEAST_PAIRS = on_device.LEAST_PAIRS, sys.maxsize
    try:
        yield
    finally:
        on_device.LEAST_PAIRS = least


def on_host(batches: list[Detections], truths: list[tuple]) -> tuple[float, float, float]:
    with without_device():
        return jaxdet(batches, truths)


def measure(images: int, classes: int, ragged: bool = False) -> dict:
    """Times, AP and ratios of all sides, their calls in turn."""
    batches, truths = case(images, classes, ragged)
    coco = as_coco(batches, truths, classes)
    sides = {
        "jaxdet": lambda: jaxdet(batches, truths),
        "jaxdet host": lambda: on_host(batches, truths),
        "faster-coco-eval": peer(*coco, FasterCOCO, COCOeval_faster),
    }
    programs = on_device._match._cache_size()
    first = {name: call() for name, call in sides.items()}
    programs = on_device._match._cache_size() - programs
    calls = {name: [] for name in sides}
    for _ in range(CALLS):
        for name, call in sides.items():
            calls[name].append(call())
    calls["pycocotools"] = [peer(*coco, COCO, COCOeval)()]
    row = {"images": images, "classes": classes, "programs": programs}
    row["detections"] = f"0 to {MOST_RAGGED}" if ragged else DETECTIONS
    for name, times in calls.items():
        whole, matching, ap = (statistics.median(column) for column in zip(*times, strict=True))
        row[name] = {"whole_s": round(whole, 3), "matching_s": round(matching, 3), "ap": ap}
        if name in first:
            row[name]["first_s"] = round(first[name][0], 3)
    check_same({name: row[name]["ap"] for name in calls})
    row["peer / jaxdet"] = {
        f"{name}, {part}": round(row[name][f"{part}_s"] / row["jaxdet"][f"{part}_s"], 2)
        for name in calls
        for part in ("whole", "matching")
        if name != "jaxdet"
    }
    return row


def check_same(areas: dict[str, float]) -> None:
    if max(areas.values()) - min(areas.values()) > 1e-6:
        raise SystemExit(f"the sides must agree on AP to 1e-6; got {areas}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 80])
    parser.add_argument("--ragged", type=int, default=2500, help="images of the ragged case")
    parser.add_argument(
        "--out", type=pathlib.Path, help="JSON file (default: results/ beside this)"
    )
    args = parser.parse_args()
    device = runs.device_name()
    slug = re.sub(r"\W+", "_", device.lower()).strip("_")
    out = args.out or pathlib.Path(__file__).parent / "results" / f"metrics_{slug}.json"
    load = round(os.getloadavg()[0], 2)
    names = ("jax", "numpy", "pycocotools", "faster-coco-eval")
    result = {
        "what": "average precision, IoU 0.5 to 0.95, in seconds",
        "device": device,
        "cores": os.cpu_count(),
        "load_average": load,  # of the minute before; above 0.3 a core the times say too much
        "date": datetime.date.today().isoformat(),
        "seed": SEED,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in names},
        "results": [measure(args.images, classes) for classes in args.classes]
        + [measure(args.ragged, RAGGED_CLASSES, ragged=True)],
    }
    text = json.dumps(result, indent=2)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
