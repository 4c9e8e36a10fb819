"""How long do the phantom's sets take, and how much memory?

    python scripts/bench/phantom.py [--sets phantom_sltd/paper phantom_multiphase/tiny] [--out FILE]

Makes each set as `jaxdet data make` does, with one process a core, into a folder that is deleted
again. Memory is the most that this process and its workers held together, sampled ten times a
second (proportional set size, so shared pages count once). Prints JSON and writes it beside this
file.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import tempfile
import threading
import time

import cv2

from jaxdet import run as runs
from jaxdet.data import builders

WANTED = {
    "phantom_sltd/paper": "at most 240 s on 2 cores",
    "phantom_multiphase/tiny": "at most 180 s on 2 cores",
    "memory": "below 3 GiB at any size",
}


class Memory(threading.Thread):
    """Samples the memory of this process and its children until `stop` is set."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.stop = 0, threading.Event()

    def run(self) -> None:
        """What the thread does: started by `start`."""
        while not self.stop.wait(0.1):
            self.most = max(self.most, sum(map(_pss_kib, [os.getpid(), *_children(os.getpid())])))


def _children(pid: int) -> list[int]:
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        own = [int(child) for child in task.read_text().split()]
        found += own + [deeper for child in own for deeper in _children(child)]
    return found


def _pss_kib(pid: int) -> int:
    try:
        told = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has just ended
        return 0
    match = re.search(r"^Pss:\s+(\d+)", told, re.MULTILINE)
    return int(match[1]) if match else 0


def measure(name: str, workers: int) -> dict:
    builder, size = name.split("/")
    memory = Memory()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        memory.start()
        prepared = builders.make(builder, folder, builders.Options(size=size), workers)
        seconds = time.perf_counter() - start
        memory.stop.set()
        memory.join()
        used = sum(file.stat().st_size for file in prepared.folder.iterdir())
    slices = sum(prepared.splits.values())
    return {
        "set": name,
        "slices": slices,
        "seconds": round(seconds, 1),
        "seconds_a_slice": round(seconds / slices, 3),
        "peak_gib": round(memory.most / 2**20, 2),
        "disk_gib": round(used / 2**30, 2),
        "wanted": WANTED.get(name, ""),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sets", nargs="+", default=["phantom_sltd/paper", "phantom_multiphase/tiny"]
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    device = runs.device_name()
    slug = re.sub(r"\W+", "_", device.lower()).strip("_")
    out = args.out or pathlib.Path(__file__).parent / "results" / f"phantom_{slug}.json"
    load = os.getloadavg()[0]
    rows = [measure(name, args.workers) for name in args.sets]
    packages = ("numpy", "scipy", "tensorflow_datasets", "array_record")
    result = {
        "what": "phantom sets made by one process a core",
        "wanted": WANTED["memory"],
        "device": device,
        "cores": os.cpu_count(),
        "workers": args.workers,
        "load_average_before": load,
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version()}
        | {"cv2": cv2.__version__}
        | {name: importlib.metadata.version(name) for name in packages},
        "results": rows,
    }
    text = json.dumps(result, indent=2)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
