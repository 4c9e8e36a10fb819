"""How many augmented 512 x 512 four-channel images a second does the input pipeline deliver?

    python scripts/bench/input.py [--images 400] [--out FILE]

Images of 640 x 640 lie decoded in memory, so this times what jaxdet does and not the disk. Every
image is brought to 512 with the default augmentation: mosaic of four (or letterbox, with mosaic
off), affine, flip, and the collation into batches of 16. "Per core" divides by the CPU seconds of
the whole process, the other rate by the clock. Prints JSON and writes it beside this file.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import time

import cv2
import grain
import numpy as np

from jaxdet import run as runs
from jaxdet.config import Augment, Data
from jaxdet.data.batch import train_batches
from jaxdet.types import Example

BATCH = 16
SOURCE, SIZE, CHANNELS = 640, 512, 4


class InMemory:
    """Decoded random images with eight boxes each."""

    def __init__(self, n: int, dtype: type):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (n, SOURCE, SOURCE, CHANNELS), np.uint8)
        images = pixels if dtype == np.uint8 else pixels.astype(np.float32) / 255
        low = rng.uniform(0, SOURCE - 120, (n, 8, 2))
        boxes = np.concatenate([low, low + rng.uniform(10, 120, (n, 8, 2))], 2).astype(np.float32)
        labels = np.zeros(8, np.int32)
        self.examples = [
            Example(image, box, labels, f"random {i}", "none")
            for i, (image, box) in enumerate(zip(images, boxes, strict=True))
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def measure(dataset: InMemory, *, images: int, threads: int, mosaic: bool) -> dict:
    augment = Augment(mosaic=float(mosaic), close_mosaic=0)
    cfg = Data(image_size=SIZE, channels=CHANNELS, max_boxes=64, threads=threads, augment=augment)
    epochs = -(-(images + BATCH) // len(dataset))
    batches = train_batches(dataset, cfg, batch_size=BATCH, epochs=epochs, seed=0)
    next(batches)  # starts the threads
    wall, cpu, count = time.perf_counter(), time.process_time(), 0
    while count < images:
        count += len(next(batches).index)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "dtype": str(dataset[0].image.dtype),
        "mosaic": mosaic,
        "threads": threads,
        "images": count,
        "images_per_second": round(count / wall, 1),
        "images_per_second_per_core": round(count / cpu, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400, help="timed images a setting")
    parser.add_argument(
        "--out", type=pathlib.Path, help="JSON file (default: results/ beside this)"
    )
    args = parser.parse_args()
    device = runs.device_name()
    slug = re.sub(r"\W+", "_", device.lower()).strip("_")
    out = args.out or pathlib.Path(__file__).parent / "results" / f"input_{slug}.json"
    rows = []
    for dtype in (np.uint8, np.float32):
        dataset = InMemory(64, dtype)
        for mosaic in (True, False):
            for threads in (1, 2):
                rows.append(measure(dataset, images=args.images, threads=threads, mosaic=mosaic))
    versions = {"python": platform.python_version()}
    versions |= {m.__name__: m.__version__ for m in (np, cv2, grain)}
    result = {
        "what": f"{SOURCE}x{SOURCE}x{CHANNELS} in memory to augmented {SIZE}x{SIZE}x{CHANNELS}",
        "device": device,
        "cores": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
        "seed": 0,
        "batch_size": BATCH,
        "versions": versions,
        "results": rows,
    }
    text = json.dumps(result, indent=2)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
