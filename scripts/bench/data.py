"""How fast is a prepared set read, against np.load of the same array?

    python scripts/bench/data.py [--examples 8] [--repeats 5] [--out FILE]

Writes made-up examples of 12 channels of 512 x 512 int16, as the four-phase sets hold them, and
reads each: the pixels as training does, everything as TFDS does, and np.load of one npy file an
example. The files come from the page cache, so this times the reader and not the disk; np.load is
told both ways, with its array let go at once and with all arrays kept (fresh memory each). Prints
JSON and writes it beside this file.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np

from jaxdet import run as runs
from jaxdet.data.builders import store
from jaxdet.types import PHASES, CtSlice

SIZE, CHANNELS = 512, 12
WANTED = 3.0  # times np.load, at most


def made_up(number: int) -> CtSlice:
    rng = np.random.default_rng(number)
    lesions = np.zeros((SIZE, SIZE), np.uint8)
    lesions[200:240, 150:200] = 1
    return CtSlice(
        hu=rng.normal(50, 15, (SIZE, SIZE, CHANNELS)).astype(np.int16),
        boxes_xyxy=np.array([[150, 200, 200, 240]], np.float32),
        labels=np.zeros(1, np.int32),
        diameters_mm=np.array([45], np.float32),
        lesions=lesions,
        livers=np.repeat(lesions[..., None] > 0, len(PHASES), 2),
        displacement_mm=np.zeros((SIZE // 8, SIZE // 8, len(PHASES), 3), np.float32),
        spacing_mm=(0.7, 0.7, 2.5),
        phases=PHASES,
        annotated="portal",
        touching=0,
        patient=str(number),
        name=f"patient {number} slice 0",
        z=0,
    )


def per_example_ms(read: Callable[[int], object], count: int, repeats: int, keep: bool) -> float:
    """The median over the repeats of the mean time of an example."""
    times = []
    for _ in range(repeats):
        kept = []
        start = time.perf_counter()
        for i in range(count):
            one = read(i)
            if keep:
                kept.append(one)
        times.append((time.perf_counter() - start) / count * 1e3)
    return round(statistics.median(times), 3)


def measure(folder: pathlib.Path, count: int, repeats: int) -> list[dict]:
    start = time.perf_counter()
    examples = (("whole", made_up(i)) for i in range(count))
    prepared = store.write(folder, "bench/made_up", examples, {"class_names": ["tumour"]})
    write = (time.perf_counter() - start) / count * 1e3
    start = time.perf_counter()
    truths = prepared.truths("whole")
    opened = (time.perf_counter() - start) / count * 1e3
    slices = prepared.slices("whole")
    for i, truth in enumerate(truths):
        np.save(folder / f"{i}.npy", prepared.pixels(truth))
    readers = {
        "np.load": lambda i: np.load(folder / f"{i}.npy"),
        "pixels of a prepared set": lambda i: prepared.pixels(truths[i]),
        "everything of an example, by TFDS": lambda i: slices[i],
    }
    rows = []
    for keep in (False, True):
        own = {name: per_example_ms(read, count, repeats, keep) for name, read in readers.items()}
        for name, ms in own.items():
            ratio = round(ms / own["np.load"], 2)
            rows.append({"what": name, "arrays_kept": keep, "ms": ms, "times_np_load": ratio})
    rows.append({"what": "writing, made-up pixels included", "ms": round(write, 1)})
    rows.append({"what": "truth without pixels, first reading", "ms": round(opened, 2)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--out", type=pathlib.Path, help="JSON file (default: results/ beside this)"
    )
    args = parser.parse_args()
    device = runs.device_name()
    slug = re.sub(r"\W+", "_", device.lower()).strip("_")
    out = args.out or pathlib.Path(__file__).parent / "results" / f"data_{slug}.json"
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(pathlib.Path(folder), args.examples, args.repeats)
    packages = ("numpy", "tensorflow_datasets", "array_record")
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in packages}
    result = {
        "what": f"{SIZE}x{SIZE}x{CHANNELS} int16 examples of a prepared set, from the page cache",
        "wanted": f"pixels at most {WANTED} times np.load",
        "device": device,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "date": datetime.date.today().isoformat(),
        "examples": args.examples,
        "repeats": args.repeats,
        "versions": versions,
        "results": rows,
    }
    text = json.dumps(result, indent=2)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
