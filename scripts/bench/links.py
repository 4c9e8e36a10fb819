"""How long does it take to find the lesions in what PixelLink says, beside OpenCV and plain Python?

    python scripts/bench/links.py [--batch 32] [--repeats 20] [--sides 75 150] [--out FILE]

From a batch of logits to boxes with scores, all in memory of the machine, or for jaxdet of its
device. Maps of 75 x 75 and 150 x 150 cells (stride 4 and 2 of 300 px):

lesions    3 ellipses a map with all links inside, as a trained network answers
dense      half of the cells positive at random, a link in five: thousands of components
spiral     one path that never touches itself, the longest way that news can go

jaxdet     ops.links.components_of, jitted, the whole batch at once, room for 100 components
python     union-find over the positive cells and their links, as PixelLink's decoders write it:
           a dict from a cell to its parent, loops over cells and neighbours; thresholds by NumPy
opencv     connectedComponentsWithStats of the positive cells, which knows no links, and the mean
           scores by NumPy; so `dense` has other answers there and is not compared

Boxes and scores of the compared sides must agree. The sides take turns of CALLS calls, as a loop
over batches makes them: of one call after another side's work most is the waking of the threads.
Python's turns are of one call, `--slow` of them. Seconds of the wall clock for one map, medians;
ratios are of the medians, above 1 jaxdet is faster. Wanted: at least 20 times python. Prints a
table, writes JSON beside this file.
"""

import argparse
import datetime
import functools
import json
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable

import cv2
import jax
import numpy as np

from jaxdet import run as runs
from jaxdet.ops import links
from jaxdet.ops.components import NEIGHBOURS

SEED, ROOM, WANTED = 0, 100, 20.0
CALLS = 10  # in a turn
PIXEL, LINK = 0.2, 0.8  # thresholds
COMPARED = {"lesions": ("python", "opencv"), "dense": ("python",), "spiral": ("python", "opencv")}

Logits = tuple[np.ndarray, np.ndarray]
Rows = list[np.ndarray]  # for each map: x0, y0, x1, y1 in cells and the score


def lesions(side: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    cells = np.zeros((side, side), bool)
    for _ in range(3):
        (cy, cx), (a, b) = rng.uniform(0, side, 2), rng.uniform(2, 8, 2) * side / 75
        cells |= ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1
    return cells


def dense(side: int, rng: np.random.Generator) -> np.ndarray:
    return rng.random((side, side)) < 0.5


def spiral(side: int, rng: np.random.Generator) -> np.ndarray:
    """Rings two cells apart, each open at one place and led to the next."""
    cells = np.zeros((side, side), bool)
    for low in range(0, side // 2, 2):
        cells[low : side - low, low : side - low] = True
        cells[low + 1 : side - low - 1, low + 1 : side - low - 1] = False
        cells[low + 1, low] = False  # the ring is open here
        if low + 2 < side // 2:
            cells[low + 2, low + 1] = True  # and goes on into the next one
    return cells


def logits_of(kind: str, side: int, batch: int) -> Logits:
    """Sure answers with some noise, so that scores differ."""
    rng = np.random.default_rng(SEED)
    make = {"lesions": lesions, "dense": dense, "spiral": spiral}[kind]
    cells = np.stack([make(side, rng) for _ in range(batch)])
    joined = rng.random((*cells.shape, 8)) < (0.2 if kind == "dense" else 1.0)
    answers = []
    for yes in (cells[..., None], joined):
        lead = np.where(yes, 3, -3) + 0.2 * rng.standard_normal(yes.shape)
        pairs = np.stack([rng.standard_normal(yes.shape), np.zeros(yes.shape)], -1)
        pairs[..., 1] = pairs[..., 0] + lead
        answers.append(pairs.reshape(*cells.shape, -1).astype(np.float32))
    return answers[0], answers[1]


def read(pixels: np.ndarray, joins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positive cells, links and probabilities of one map, by NumPy."""
    lead = pixels[..., 1] - pixels[..., 0]
    joined = joins[..., 1::2] - joins[..., ::2] > np.log(LINK / (1 - LINK))
    return lead > np.log(PIXEL / (1 - PIXEL)), joined, 1 / (1 + np.exp(-lead))


def union_find(pixels: np.ndarray, joins: np.ndarray) -> np.ndarray:
    positive, joined, prob = read(pixels, joins)
    cells = [(y, x) for y, x in np.argwhere(positive).tolist()]
    parent = {cell: cell for cell in cells}

    def root(cell: tuple[int, int]) -> tuple[int, int]:
        while parent[cell] != cell:
            parent[cell] = cell = parent[parent[cell]]
        return cell

    for y, x in cells:
        for k, (dy, dx) in enumerate(NEIGHBOURS):
            other = y + dy, x + dx
            if other in parent and joined[y, x, k]:
                one, two = root((y, x)), root(other)
                if one != two:
                    parent[max(one, two)] = min(one, two)
    groups = {}
    for cell in cells:
        groups.setdefault(root(cell), []).append(cell)
    rows = []
    for group in groups.values():
        y, x = zip(*group, strict=True)
        score = sum(prob[cell] for cell in group) / len(group)
        rows.append((min(x), min(y), max(x) + 1, max(y) + 1, score))
    return np.array(rows, np.float64).reshape(-1, 5)


def by_opencv(pixels: np.ndarray, joins: np.ndarray) -> np.ndarray:
    lead = pixels[..., 1] - pixels[..., 0]
    positive = (lead > np.log(PIXEL / (1 - PIXEL))).astype(np.uint8)
    prob = 1 / (1 + np.exp(-lead))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(positive, connectivity=8)
    scores = np.bincount(labels.ravel(), prob.ravel(), len(stats)) / np.maximum(stats[:, 4], 1)
    boxes = np.concatenate([stats[:, :2], stats[:, :2] + stats[:, 2:4]], 1)
    return np.concatenate([boxes, scores[:, None]], 1)[1:]


def one_by_one(find: Callable, pixels: np.ndarray, joins: np.ndarray) -> Rows:
    return [find(*pair) for pair in zip(pixels, joins, strict=True)]


def check_same(found: links.Components, rows: Rows, kind: str, side: str) -> None:
    """The components that jaxdet had room for are the best of `rows`, and as many are counted."""
    cells, scores, _, count = (np.asarray(part) for part in found)
    for image, theirs in enumerate(rows):
        theirs = theirs[np.argsort(-theirs[:, 4], kind="stable")]
        n = min(len(theirs), ROOM)
        if count[image] != len(theirs) or np.abs(scores[image, :n] - theirs[:n, 4]).max() > 1e-5:
            raise SystemExit(f"{kind}: {side} finds other components than jaxdet in map {image}")
        # Scores that agree to the last digits may stand in another order: compare where none does.
        apart = np.diff(theirs[: n + 1, 4], prepend=np.inf, append=-np.inf)
        clear = (-apart[:n] > 1e-5) & (-apart[1 : n + 1] > 1e-5)
        if not np.array_equal(cells[image, :n][clear], theirs[:n, :4][clear]):
            raise SystemExit(f"{kind}: {side} draws other boxes than jaxdet in map {image}")


def seconds(call: Callable) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def measure(kind: str, side: int, batch: int, repeats: int, slow: int) -> dict:
    """Seconds for a map and ratios, once the answers are the same."""
    said = logits_of(kind, side, batch)
    here = jax.device_put(said)
    find = jax.jit(
        functools.partial(
            links.components_of, most=ROOM, pixel_threshold=PIXEL, link_threshold=LINK
        )
    )
    calls = {
        "jaxdet": lambda: find(*here),
        "python": lambda: one_by_one(union_find, *said),
        "opencv": lambda: one_by_one(by_opencv, *said),
    }
    first = seconds(calls["jaxdet"])
    found = jax.device_get(calls["jaxdet"]())
    for name in COMPARED[kind]:
        check_same(found, calls[name](), kind, name)
    times = {name: [] for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            if name != "python":
                times[name] += [seconds(call) / batch for _ in range(CALLS)]
            elif turn < slow:
                times[name].append(seconds(call) / batch)
    row = {"maps": kind, "side": side, "batch": batch, "first_s": round(first, 3)}
    row["components"] = float(np.mean(found.count))
    for name, took in times.items():
        row[name] = {
            "median_s": statistics.median(took),
            "fastest_s": min(took),
            "calls": len(took),
        }
    for name in ("python", "opencv"):
        ratio = row[name]["median_s"] / row["jaxdet"]["median_s"]
        row[f"{name} / jaxdet"] = float(f"{ratio:.3g}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16, help="maps in a call")
    parser.add_argument("--repeats", type=int, default=20, help="turns of a side")
    parser.add_argument("--slow", type=int, default=3, help="turns of python")
    parser.add_argument("--sides", type=int, nargs="+", default=[75, 150], help="cells")
    parser.add_argument("--maps", nargs="+", default=list(COMPARED), choices=list(COMPARED))
    parser.add_argument(
        "--out", type=pathlib.Path, help="JSON file (default: results/ beside this)"
    )
    args = parser.parse_args()
    device = runs.device_name()
    slug = re.sub(r"\W+", "_", device.lower()).strip("_")
    out = args.out or pathlib.Path(__file__).parent / "results" / f"links_{slug}.json"
    load, rows = round(os.getloadavg()[0], 2), []
    for side in args.sides:
        for kind in args.maps:
            row = measure(kind, side, args.batch, args.repeats, args.slow)
            rows.append(row)
            print(
                f"{kind:8} {side:4}: jaxdet {1e6 * row['jaxdet']['median_s']:7.0f} us a map, "
                f"python {row['python / jaxdet']:7.1f} times as long, "
                f"opencv {row['opencv / jaxdet']:6.2f} times"
            )
    result = {
        "what": "PixelLink logits to boxes and scores, seconds for a map",
        "device": device,
        "cores": os.cpu_count(),
        "load_average": load,  # of the minute before; above 0.3 a core the times say too much
        "date": datetime.date.today().isoformat(),
        "seed": SEED,
        "turns": {"repeats": args.repeats, "calls": CALLS, "slow": args.slow},
        "wanted": {"python / jaxdet": WANTED},
        "versions": {"python": platform.python_version()}
        | {module.__name__: module.__version__ for module in (jax, np, cv2)},
        "results": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
