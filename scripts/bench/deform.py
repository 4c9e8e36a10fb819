"""Is the deformable convolution faster than torchvision's, and how much memory does it take?

    python scripts/bench/deform.py [--peer-python PYTHON_WITH_TORCHVISION] [--repeats 7] [--quick]

Modulated, 3x3, padding 1, 4 groups of offsets, 512 outputs, 38x38 places, batch 2, offsets of 3 px.

jaxdet         ops.deform.deform_conv: a tap at a time
full columns   the usual form in JAX: the columns of all taps, then one product of matrices
torchvision    ops.deform_conv2d of --peer-python (default: this one), if it can be imported there

forward        inputs and outputs on the device, each side in its own layout
gradient       forward, and backward to all five inputs

Each side is a process of its own, on the GPU if both have one; they take turns, so that drift of
the load hits all. Outputs and gradients must agree before anything is timed. On a GPU all is timed
twice: full float32 products, and TF32. Seconds of the wall clock. temp_mib is XLA's account;
peak_mib is how far memory rose above the state with all inputs made and programs compiled.
Prints a table, writes JSON beside this file.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# JAX and torch are imported by the worker that wants them: one Python may lack either.

SIDES = ("jaxdet", "full columns", "torchvision")
WORK = ("forward", "gradient")
NAMES = ("y", "x", "offsets", "mask", "kernel", "bias")
SAME = {"float32": (1e-5, 1e-4), "tf32": (3e-3, 1e-2)}  # output and gradients, of the largest
PAUSE_S = 0.1  # torch's threads spin for a while after their work
WANTED = {
    "torchvision / jaxdet": {"cpu": 3.0, "gpu": 1.0},
    "temp of jaxdet / full columns, at most": 0.333,
}


def inputs_of(s: dict) -> list[np.ndarray]:
    """x, offsets, mask, kernel, bias and the output's cotangent, channels last, from one seed."""
    rng = np.random.default_rng(0)
    places = s["batch"], s["side"], s["side"]
    taps = *places, s["groups"], 9
    shapes = [(*places, s["channels"]), (*taps, 2), taps, (3, 3, s["channels"], s["outputs"])]
    shapes += [(s["outputs"],), (*places, s["outputs"])]
    x, offsets, mask, kernel, bias, ct = (rng.standard_normal(a, np.float32) for a in shapes)
    kernel /= np.sqrt(9 * s["channels"], dtype=np.float32)
    return [x, 3 * offsets, 1 / (1 + np.exp(-mask)), kernel, bias, ct]


# the sides; each gives its calls, its answers as NumPy in jaxdet's layout, and what it is


def full_columns(x: Any, offsets: Any, mask: Any, kernel: Any, bias: Any) -> Any:
    import jax.numpy as jnp

    from jaxdet.ops import deform

    (batch, height, width, channels), (*_, split, taps, _) = x.shape, offsets.shape
    points = deform.sample_points(offsets, kernel.shape[:2])
    low, size = jnp.floor(points), np.array([height, width])
    image, group = jnp.arange(batch)[:, None, None, None, None], jnp.arange(split)[:, None]
    flat, columns = x.reshape(-1, channels // split), 0
    for corner in itertools.product((0, 1), (0, 1)):
        at = low + np.array(corner)
        share = jnp.prod(1 - abs(points - at), -1) * mask
        share = jnp.where(((at >= 0) & (at < size)).all(-1), share, 0)
        y, x_ = jnp.moveaxis(jnp.clip(at, 0, size - 1).astype(jnp.int32), -1, 0)
        rows = ((image * height + y) * width + x_) * split + group
        columns += jnp.take(flat, rows, axis=0, mode="clip") * share[..., None]
    columns = jnp.swapaxes(columns, 3, 4).reshape(batch, height, width, taps * channels)
    return columns @ kernel.reshape(taps * channels, -1) + bias


def jax_side(side: str, s: dict) -> tuple[dict[str, Callable], Callable, dict]:
    import jax

    from jaxdet import run as runs
    from jaxdet.ops import deform

    f = {"jaxdet": deform.deform_conv, "full columns": full_columns}[side]
    *inputs, ct = jax.device_put(inputs_of(s))

    def both(*given: Any) -> Any:
        y, pull = jax.vjp(f, *given[:5])
        return y, *pull(given[5])

    words = {"float32": "highest", "tf32": "tensorfloat32"}
    with jax.default_matmul_precision(words[s["precision"]]):
        programs = {
            "forward": jax.jit(f).lower(*inputs).compile(),
            "gradient": jax.jit(both).lower(*inputs, ct).compile(),
        }
    given = {"forward": inputs, "gradient": [*inputs, ct]}
    calls = {w: lambda w=w: jax.block_until_ready(programs[w](*given[w])) for w in WORK}
    temp = {w: mib(p.memory_analysis().temp_size_in_bytes) for w, p in programs.items()}
    device = jax.devices()[0]
    about = {"device": runs.device_name(), "platform": device.platform, "temp_mib": temp}
    about["versions"] = {"jax": jax.__version__}
    if device.platform == "gpu":
        calls["memory"] = lambda: device.memory_stats()
    return calls, lambda: dict(zip(NAMES, jax.device_get(calls["gradient"]()), strict=True)), about


def torch_side(side: str, s: dict) -> tuple[dict[str, Callable], Callable, dict]:
    import torch
    import torchvision

    gpu = torch.cuda.is_available() and s["platform"] != "cpu"
    torch.backends.cuda.matmul.allow_tf32 = s["precision"] == "tf32"
    x, offsets, mask, kernel, bias, ct = inputs_of(s)
    first = [a.reshape(*a.shape[:3], -1).transpose(0, 3, 1, 2) for a in (x, offsets, mask, ct)]
    order = [*first[:3], kernel.transpose(3, 2, 0, 1), bias, first[3]]
    made = [torch.tensor(np.ascontiguousarray(a)).to("cuda" if gpu else "cpu") for a in order]
    *inputs, ct = made
    for tensor in inputs:
        tensor.requires_grad_()

    def conv() -> Any:
        x, offsets, mask, kernel, bias = inputs
        return torchvision.ops.deform_conv2d(x, offsets, kernel, bias, padding=1, mask=mask)

    def forward() -> None:
        with torch.no_grad():
            conv()
        torch.cuda.synchronize() if gpu else None

    def gradient() -> tuple:
        y = conv()
        grads = torch.autograd.grad(y, inputs, ct)
        torch.cuda.synchronize() if gpu else None
        return y, *grads

    def answers() -> dict[str, np.ndarray]:
        y, x, offsets, mask, kernel, bias = (a.detach().cpu().numpy() for a in gradient())
        last = [a.transpose(0, 2, 3, 1) for a in (y, x, offsets, mask)]
        return dict(zip(NAMES, [*last, kernel.transpose(2, 3, 1, 0), bias], strict=True))

    kind = torch.cuda.get_device_name() if gpu else "cpu"
    about = {
        "device": kind,
        "platform": "gpu" if gpu else "cpu",
        "threads": torch.get_num_threads(),
    }
    about["versions"] = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    calls = {"forward": forward, "gradient": gradient}
    if gpu:
        names = {"bytes_in_use": "allocated_bytes.all.current"}
        names["peak_bytes_in_use"] = "allocated_bytes.all.peak"
        calls["memory"] = lambda: {k: torch.cuda.memory_stats()[v] for k, v in names.items()}
    return calls, answers, about


# a worker: one side in a process of its own


def work(side: str, s: dict) -> None:
    """Answers each line of the input by one of JSON: a call's name, or the file for the answers."""
    calls, answers, about = (torch_side if side == "torchvision" else jax_side)(side, s)
    memory = calls.get("memory", resident)
    with contextlib.suppress(OSError):  # where the kernel does not reset the peak, it is from start
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = memory()["bytes_in_use"]
    print(json.dumps(about), flush=True)
    for line in map(str.strip, sys.stdin):
        if line in WORK:
            start = time.perf_counter()
            calls[line]()
            took = time.perf_counter() - start
            peak = mib(memory()["peak_bytes_in_use"] - before)
            print(json.dumps({"seconds": took, "peak_mib": peak}), flush=True)
        else:
            np.savez(line, **answers())
            print(json.dumps({}), flush=True)


def resident() -> dict[str, int]:
    """This process's memory now and at its peak, as Linux tells it."""
    status = pathlib.Path("/proc/self/status").read_text()
    now, peak = (int(re.search(rf"{k}:\s+(\d+)", status)[1]) * 1024 for k in ("VmRSS", "VmHWM"))
    return {"bytes_in_use": now, "peak_bytes_in_use": peak}


def mib(size: float) -> float:
    return round(size / 2**20, 1)


# the parent


class Worker:
    """A side in a process of its own, by the protocol of `work`."""

    def __init__(self, side: str, s: dict, python: str):
        call = [python, __file__, "--worker", side, "--setting", json.dumps(s)]
        own = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # a GPU has to serve three
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            call, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **own}
        )
        self.side, self.about = side, self.answer()

    def ask(self, line: str) -> dict:
        """Sends a line and waits for its answer."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict:
        """The next answer; the end of this program if the process has ended."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.side} ended; its error is above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process, which stops when its input does."""
        self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def workers(sides: tuple[str, ...], s: dict, peer: str) -> Iterator[list[Worker]]:
    started: list[Worker] = []
    try:
        for side in sides:
            started.append(Worker(side, s, peer if side == "torchvision" else sys.executable))
            s = {**s, "platform": started[0].about["platform"]}
        yield started
    finally:
        for worker in started:
            worker.close()


def check_same(team: list[Worker], precision: str) -> dict[str, float]:
    """The largest difference to jaxdet, of output and gradients, as a share of the largest."""
    found, most = {}, dict(zip(NAMES, [SAME[precision][0], *[SAME[precision][1]] * 5], strict=True))
    with tempfile.TemporaryDirectory() as folder:
        for worker in team:
            worker.ask(f"{folder}/{worker.side}.npz")
        ours = np.load(f"{folder}/{team[0].side}.npz")
        for worker in team[1:]:
            other = np.load(f"{folder}/{worker.side}.npz")
            for name in NAMES:
                a, b = ours[name], other[name].reshape(ours[name].shape)
                far = float(abs(a - b).max() / abs(a).max())
                if not far <= most[name]:
                    raise SystemExit(
                        f"{name} of {worker.side} must agree with jaxdet to {most[name]}; they "
                        f"differ by {far:.1e} of the largest"
                    )
                found[worker.side] = max(found.get(worker.side, 0), float(f"{far:.1e}"))
    return found


def row_of(s: dict, sides: tuple[str, ...], peer: str, repeats: int) -> tuple[dict, dict]:
    """One setting on all sides: times, memory and ratios; and what the workers are."""
    with workers(sides, s, peer) as team:
        row = {"channels": s["channels"], "products": s["precision"]}
        rows, kinds = {}, {worker.about["platform"] for worker in team}
        if len(kinds) > 1:
            raise SystemExit(f"all sides want the same kind of device; got {sorted(kinds)}")
        for word in WORK:  # first calls, and the memory of each before anything larger ran
            for w in team:
                mine = rows.setdefault(w.side, {}).setdefault(word, {})
                mine["peak_mib"] = w.ask(word)["peak_mib"]
                if "temp_mib" in w.about:
                    mine["temp_mib"] = w.about["temp_mib"][word]
        row["largest_difference"] = check_same(team, s["precision"])
        for word in WORK:
            times: dict[str, list[float]] = {w.side: [] for w in team}
            for _, w in itertools.product(range(repeats), team):
                time.sleep(PAUSE_S)
                times[w.side].append(1e3 * w.ask(word)["seconds"])
            for side, ms in times.items():
                rows[side][word] |= {"best_ms": round(min(ms), 2)}
                rows[side][word] |= {"median_ms": round(statistics.median(ms), 2)}
        return row | rows | ratios(rows), {w.side: w.about for w in team}


def ratios(rows: dict) -> dict:
    """Of the best times, above 1: jaxdet is faster; and of what XLA reserves."""
    found = {}
    for word, side in itertools.product(WORK, rows):
        if side != "jaxdet":
            ratio = rows[side][word]["best_ms"] / max(rows["jaxdet"][word]["best_ms"], 0.01)
            found[f"{side} / jaxdet, {word}"] = round(ratio, 2)
    for word in WORK:
        temp = [rows[side][word]["temp_mib"] for side in ("jaxdet", "full columns")]
        found[f"temp of jaxdet / full columns, {word}"] = round(temp[0] / max(temp[1], 0.1), 3)
    return found


def measure(args: argparse.Namespace) -> tuple[list[dict], dict, str]:
    """The rows, what the sides are, and a note on a peer that is not there."""
    look = [args.peer_python, "-c", "import torch, torchvision.ops"]
    found = subprocess.run(look, capture_output=True, text=True)
    why = (found.stderr.strip().splitlines() or [""])[-1]
    note = "" if not found.returncode else f"torchvision not measured: {why}"
    sides = SIDES[:2] if note else SIDES
    s = {"batch": args.batch, "side": 38, "groups": 4, "outputs": 512, "platform": ""}
    s |= {"side": 10, "outputs": 8} if args.quick else {}
    rows, about, todo = [], {}, [("float32", c) for c in ([16] if args.quick else args.channels)]
    while todo:
        precision, channels = todo.pop(0)
        now = {**s, "channels": channels, "precision": precision}
        row, about = row_of(now, sides, args.peer_python, args.repeats)
        if about["jaxdet"]["platform"] == "gpu" and precision == "float32":
            todo.append(("tf32", channels))
        rows.append(row)
        print("\n".join(f"  {k}: {v}" for k, v in row.items()) + "\n", flush=True)
    return rows, about, note


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with torchvision")
    parser.add_argument("--channels", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a small size: does everything run?")
    parser.add_argument("--out", type=pathlib.Path, help="JSON (default: results/ beside this)")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--setting", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.setting)
        return
    load = round(os.getloadavg()[0], 2)  # of the minute before
    rows, about, note = measure(args)
    print(note, end="\n" * bool(note))
    device = about["jaxdet"]["device"]
    slug = re.sub(r"\W+", "_", device.lower()).strip("_") + ("_quick" if args.quick else "")
    out = args.out or pathlib.Path(__file__).parent / "results" / f"deform_{slug}.json"
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    result = {
        "what": "modulated deformable convolution: milliseconds of the wall clock and MiB",
        "wanted": WANTED,
        "device": device,
        "cores": os.cpu_count(),
        "load_average": load,
        "date": datetime.date.today().isoformat(),
        "config": {"batch": args.batch, "repeats": args.repeats, "quick": args.quick},
        "versions": versions | {k: v for a in about.values() for k, v in a["versions"].items()},
        "notes": [note] if note else [],
        "results": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
