"""What does a training step of GSSD++ or PixelLink++ cost, and is it quicker than to register?

    python scripts/bench/gssd.py [--peer-python PYTHON_WITH_TORCHVISION] [--parts grouped step ...]

grouped  the trunk's convolutions in 4 groups, forward and gradient, by the words of
         `model.grouping`: XLA's own (native), one a group (split), one dense (diagonal); PyTorch's
step     a training step: forward, loss, backward, SGD. Beside ours the same network of public
         PyTorch modules, with our weights: parameters and loss must be the same. PixelLink++ has
         no such peer here
memory   what XLA reserves for a step of GSSD++, compiled and not run. On a CPU that leaves out the
         scratch of its convolutions, and bfloat16 there is float32 inside
claim    from four unregistered phases to boxes: GSSD++ alone against non-rigid registration by
         SimpleITK, as `jaxdet data register` does it, and GSSD behind it

Sides are processes of their own, on the GPU if there is one; they take turns, so that drift of the
load hits all (steps on a GPU, and with --apart: one side after the other, for its memory). Their
answers must agree: of a convolution to 1e-5, its gradients to 1e-4 of the largest. On a GPU all is
timed with full float32 products, with TF32 and in bfloat16 (PyTorch: autocast). Seconds of the wall
clock. Prints all rows, and writes each to a JSON beside this file as soon as it is there.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
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

# JAX and torch are imported where they are used: one Python may lack either.

PARTS = ("grouped", "step", "memory", "claim")
PRECISIONS = ("float32", "tf32", "bfloat16")
WORDS, LAYOUTS = ("native", "split", "diagonal"), ("torch", "torch channels last")
WORK = ("forward", "gradient")
SIDE, CHANNELS, GROUPS = 300, 12, 4
TRUNK = {  # side in px, inputs, outputs, kernel, dilation; each kind that the trunk has
    "conv1_1": (300, 12, 64, 3, 1),
    "conv1_2": (300, 64, 64, 3, 1),
    "conv2_2": (150, 128, 128, 3, 1),
    "conv3_2": (75, 256, 256, 3, 1),
    "conv4_2": (38, 512, 512, 3, 1),
    "conv5_1": (19, 512, 512, 3, 1),
    "conv6": (19, 512, 1024, 3, 6),
    "conv7": (19, 1024, 1024, 1, 1),
    "conv1_2_quarter": (300, 16, 16, 3, 1),  # of a network of width 1/4: few inputs a group
    "conv2_2_quarter": (150, 32, 32, 3, 1),
}
PEERS = {"ssd": 23_767_476, "gssd": 8_340_084, "gssd_pp": 18_488_172}  # parameters, the official
PARAMETERS = PEERS | {"pixellink_pp": 12_591_250}  # code's; of this one gssd_torch has no network
# Outputs and gradients as shares of the largest, and losses as a share of ours
SAME = {"float32": (1e-5, 1e-4, 1e-3), "tf32": (3e-3, 1e-2, 2e-2), "bfloat16": (2e-2, 5e-2, 5e-2)}
MATMUL = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "highest"}  # JAX's words
FIT_BYTES = 40e9
PAUSE_S = 0.1  # torch's threads spin for a while after their work
BUDGET_S = 60.0  # what has been timed for so long is timed no more
BOXES = 2  # an image; ours are padded to Data.max_boxes, as in training


def conv_inputs(shape: tuple[int, ...], batch: int) -> list[np.ndarray]:
    """x, kernel and the output's cotangent, channels last, from one seed."""
    rng, (side, inputs, outputs, k, _) = np.random.default_rng(0), shape
    shapes = [(batch, side, side, inputs), (k, k, inputs // GROUPS, outputs)]
    shapes += [(batch, side, side, outputs)]
    x, kernel, ct = (rng.standard_normal(a, np.float32) for a in shapes)
    return [x, kernel / np.sqrt(kernel[..., 0].size, dtype=np.float32), ct]


def image_batch(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [B, 300, 300, 12] in [0, 1], and two boxes of each as fractions, xyxy [B, 2, 4]."""
    rng = np.random.default_rng(1)
    low, size = rng.uniform(0.05, 0.5, (batch, BOXES, 2)), rng.uniform(0.1, 0.4, (batch, BOXES, 2))
    boxes = np.concatenate([low, low + size], -1).astype(np.float32)
    return rng.random((batch, SIDE, SIDE, CHANNELS), np.float32), boxes


def mib(size: float) -> float:
    return round(size / 2**20, 1)


# our sides; a side gives its calls, its answers as NumPy in our layout, and what it is


def jax_about() -> dict:
    import jax

    from jaxdet import run as runs

    about = {"device": runs.device_name(), "platform": jax.devices()[0].platform}
    return about | {"versions": {"jax": jax.__version__}}


def jax_grouped(s: dict) -> tuple[dict[str, Callable], Callable, dict]:
    import jax
    import jax.numpy as jnp

    from jaxdet.nn import grouped

    dtype = "bfloat16" if s["precision"] == "bfloat16" else "float32"
    calls, temp = {}, {}
    for name, shape in s["trunk"].items():
        given = [jnp.asarray(a, dtype) for a in conv_inputs(shape, s["batch"])]
        last = -1 if name == "conv1_1" else -2  # nobody asks for an image's gradient
        for word in WORDS:
            how = {"padding": shape[3] // 2 * shape[4], "dilation": shape[4], "grouping": word}
            f = functools.partial(grouped.convolve, **how)

            def both(x: Any, kernel: Any, ct: Any, f: Callable = f, last: int = last) -> Any:
                y, pull = jax.vjp(f, x, kernel)
                return y, *pull(ct)[last:]

            for work_, g, some in ((WORK[0], f, given[:2]), (WORK[1], both, given)):
                with jax.default_matmul_precision(MATMUL[s["precision"]]):
                    program = jax.jit(g).lower(*some).compile()
                call = f"{name} {word} {work_}"
                calls[call] = lambda p=program, some=some: jax.block_until_ready(p(*some))
                temp[call] = mib(program.memory_analysis().temp_size_in_bytes)

    def answers() -> dict[str, np.ndarray]:
        return {
            f"{name}/{word}/{what}": np.asarray(part, np.float32)
            for name, word in itertools.product(s["trunk"], WORDS)
            for what, part in parts_of(calls[f"{name} {word} gradient"]()).items()
        }

    return calls, answers, jax_about() | {"temp_mib": temp}


def parts_of(answer: tuple) -> dict[str, Any]:
    """Output and gradients by name; of what is as large as the batch only the first image."""
    y, *image, kernel = answer
    return {"y": y[:1], **({"x": image[0][:1]} if image else {}), "kernel": kernel}


def weights(module: Any, images: Any) -> Any:
    """Random, scaled by fan in; gates are open, offsets about a pixel. No init is compiled."""
    import jax

    rng = np.random.default_rng(2)
    levels = {"var": 1.0, "scale": 1.0, "sigma": 0.4}

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = path[-1].key
        if name in ("kernel", "u", "v"):
            z = rng.standard_normal(leaf.shape, np.float32)
            length = np.prod(leaf.shape[:-1]) ** 0.5 if name == "kernel" else np.linalg.norm(z)
            return z / np.float32(length)
        level = 20.0 if path[-2].key == "l2_norm" else levels.get(name, 0.0)
        return np.full(leaf.shape, level, np.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def trainer(s: dict) -> tuple[Any, Callable, Any]:
    """The compiled step of the published recipe; variables to its state; the module."""
    import jax
    import jax.numpy as jnp

    from jaxdet import models
    from jaxdet.config import Data, Train
    from jaxdet.train import optim
    from jaxdet.train.step import init_state, make_step, of_detector
    from jaxdet.types import Batch

    batch = s["batch"]
    recipe = {"optimizer": "sgd", "lr": 1e-3, "momentum": 0.9, "nesterov": False, "decay": "all"}
    recipe |= {"schedule": "steps", "warmup_epochs": 0.0, "clip_norm": 0.0}
    train = Train(batch_size=batch, nominal_batch=batch, **recipe)
    plan = optim.plan(train, num_images=1, num_classes=1, steps_per_epoch=1000)
    detector = models.build(s["model"], **fields_of(s))
    begin = functools.partial(init_state, plan=plan)

    of, told = jax.ShapeDtypeStruct, (batch, Data().max_boxes)
    images = of((batch, SIDE, SIDE, CHANNELS), jnp.float32)
    truths = of((*told, 4), jnp.float32), of(told, jnp.int32), of((batch,), jnp.int32)
    variables = jax.eval_shape(detector.module.init, jax.random.key(0), images)
    with jax.default_matmul_precision(MATMUL[s["precision"]]):
        step = jax.jit(make_step(of_detector(detector), plan), donate_argnums=0)
        program = step.lower(jax.eval_shape(begin, variables), Batch(images, *truths)).compile()
    return program, begin, detector.module


def fields_of(s: dict) -> dict[str, Any]:
    dtype = "bfloat16" if s["precision"] == "bfloat16" else "float32"
    return {"width": s["width"], "grouping": s["grouping"], "dtype": dtype}


def jax_step(s: dict) -> tuple[dict[str, Callable], Callable, dict]:
    import jax
    import jax.numpy as jnp

    from jaxdet import bridge, models
    from jaxdet.config import Data
    from jaxdet.ops import priors
    from jaxdet.types import Batch

    program, begin, module = trainer(s)
    images, boxes = image_batch(s["batch"])
    variables, layout = weights(module, images), priors.SSD[SIDE]
    if s["model"] in PEERS:
        shapes = [(level.side, level.side) for level in layout.levels]
        named = bridge.to_torch(s["model"], variables, width=s["width"])
        np.savez(s["weights"], priors=priors.ssd(shapes, layout), **named)

    more = ((0, 0), (0, Data().max_boxes - BOXES))
    labels = np.pad(np.zeros(boxes.shape[:2], np.int32), more, constant_values=-1)
    batch = Batch(images, np.pad(boxes * SIDE, (*more, (0, 0))), labels, np.arange(len(images)))
    batch = jax.device_put(batch._replace(index=batch.index.astype(np.int32)))
    kept = [jax.tree.map(jnp.array, begin(variables))]  # copies: each buffer is given away

    def call() -> float:
        kept[0], losses = jax.block_until_ready(program(kept[0], batch))
        return float(losses["total"])

    def count(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))

    whole = models.build(s["model"]).module
    whole = jax.eval_shape(whole.init, jax.random.key(0), images[:1])
    counts = {"parameters": count(variables), "whole_parameters": count(whole)}
    return {s["side"]: call}, dict, jax_about() | counts


# the peer's sides


def torch_device(s: dict) -> tuple[str, dict]:
    """Where to compute, with the products that were asked for; and what it is."""
    import torch
    import torchvision

    gpu = torch.cuda.is_available() and s["platform"] != "cpu"
    torch.backends.cuda.matmul.allow_tf32 = s["precision"] == "tf32"
    torch.backends.cudnn.allow_tf32 = s["precision"] == "tf32"
    torch.backends.cudnn.benchmark = True  # XLA chooses by trying, too
    about = {"device": torch.cuda.get_device_name() if gpu else "cpu"}
    about |= {"platform": "gpu" if gpu else "cpu", "threads": torch.get_num_threads()}
    about["versions"] = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    return "cuda" if gpu else "cpu", about


def torch_wait(where: str) -> None:
    import torch

    if where == "cuda":
        torch.cuda.synchronize()


def torch_layout(side: str) -> Any:
    import torch

    return torch.channels_last if side == LAYOUTS[1] else torch.contiguous_format


def torch_grouped(s: dict) -> tuple[dict[str, Callable], Callable, dict]:
    import torch

    where, about = torch_device(s)
    dtype, calls = torch.bfloat16 if s["precision"] == "bfloat16" else torch.float32, {}
    for (name, shape), side in itertools.product(s["trunk"].items(), LAYOUTS):
        axes = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
        arrays = zip(conv_inputs(shape, s["batch"]), axes, strict=True)
        tensors = [torch.from_numpy(a.transpose(to)).to(where, dtype) for a, to in arrays]
        given = [a.contiguous(memory_format=torch_layout(side)) for a in tensors]
        wanted = given[1:2] if name == "conv1_1" else given[:2]
        for tensor in wanted:
            tensor.requires_grad_()
        how = {"padding": shape[3] // 2 * shape[4], "dilation": shape[4], "groups": GROUPS}
        f = functools.partial(torch.nn.functional.conv2d, *given[:2], **how)

        def forward(f: Callable = f) -> None:
            with torch.no_grad():
                f()
            torch_wait(where)

        def gradient(f: Callable = f, wanted: list = wanted, ct: Any = given[2]) -> tuple:
            y = f()
            grads = torch.autograd.grad(y, wanted, ct)
            torch_wait(where)
            return y, *grads

        calls |= {f"{name} {side} forward": forward, f"{name} {side} gradient": gradient}

    def answers() -> dict[str, np.ndarray]:
        return {
            f"{name}/{side}/{what}": part.detach().float().cpu().numpy().transpose(to)
            for name, side in itertools.product(s["trunk"], LAYOUTS)
            for what, part in parts_of(calls[f"{name} {side} gradient"]()).items()
            for to in [(2, 3, 1, 0) if what == "kernel" else (0, 2, 3, 1)]
        }

    return calls, answers, about


def torch_step(s: dict) -> tuple[dict[str, Callable], Callable, dict]:
    import gssd_torch
    import torch

    where, about = torch_device(s)
    net, stored = gssd_torch.network(s["model"], s["width"]), np.load(s["weights"])
    net.load_state_dict({name: torch.from_numpy(stored[name]) for name in net.state_dict()})
    net = net.to(device=where, memory_format=torch_layout(s["side"]))
    images, boxes = map(torch.from_numpy, image_batch(s["batch"]))
    images = images.permute(0, 3, 1, 2).to(where).contiguous(memory_format=torch_layout(s["side"]))
    boxes, priors = boxes.to(where), torch.from_numpy(stored["priors"]).to(where)
    sgd = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    half = {"dtype": torch.bfloat16, "enabled": s["precision"] == "bfloat16"}

    def call() -> float:
        with torch.autocast(where, **half):
            deltas, logits = gssd_torch.forward(net, images)
        loss = gssd_torch.loss(deltas, logits, priors, boxes)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        torch_wait(where)
        return loss.item()

    def count(net: Any) -> int:
        return sum(parameter.numel() for parameter in net.parameters())

    with torch.device("meta"):
        whole = count(gssd_torch.network(s["model"], 1.0))
    return {s["side"]: call}, dict, about | {"parameters": count(net), "whole_parameters": whole}


# a worker: a side, or more, in a process of its own

KINDS = {
    "jax grouped": jax_grouped,
    "torch grouped": torch_grouped,
    "jax step": jax_step,
    "torch step": torch_step,
}


def work(kind: str, s: dict) -> None:
    """Answers each line of the input by one of JSON: a call's name, or the file for the answers."""
    calls, answers, about = KINDS[kind](s)
    with contextlib.suppress(OSError):  # where the kernel does not reset the peak, it is from start
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    memory = functools.partial(held, kind.split()[0], about["platform"])
    print(json.dumps(about | {"calls": list(calls), "before_mib": memory()[0]}), flush=True)
    for line in map(str.strip, sys.stdin):
        if line in calls:
            start = time.perf_counter()
            value = calls[line]()
            took = time.perf_counter() - start
            told = {"value": value if isinstance(value, float) else None}
            print(json.dumps({"seconds": took, "peak_mib": memory()[1], **told}), flush=True)
        else:
            np.savez(line, **answers())
            print(json.dumps({}), flush=True)


def held(framework: str, platform: str) -> tuple[float, float]:
    """MiB of the device, or of this process on a CPU, now and at the peak."""
    if platform == "cpu":
        status = pathlib.Path("/proc/self/status").read_text()
        now, peak = (int(re.search(rf"{k}:\s+(\d+)", status)[1]) for k in ("VmRSS", "VmHWM"))
        return mib(1024 * now), mib(1024 * peak)
    if framework == "jax":
        import jax

        stats = jax.devices()[0].memory_stats()
        return mib(stats["bytes_in_use"]), mib(stats["peak_bytes_in_use"])
    import torch

    return mib(torch.cuda.memory_allocated()), mib(torch.cuda.max_memory_allocated())


class Worker:
    """A process of this file, by the protocol of `work`."""

    def __init__(self, kind: str, s: dict, peer: str):
        python = peer if kind.startswith("torch") else sys.executable
        call = [python, __file__, "--worker", kind, "--setting", json.dumps(s)]
        pipe = subprocess.PIPE
        self.kind, self.side = kind, s.get("side", kind)
        self.process = subprocess.Popen(call, stdin=pipe, stdout=pipe, text=True)
        self.about = self.answer()

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
def workers(sides: list[tuple[str, dict]], peer: str) -> Iterator[list[Worker]]:
    """One for each (kind, setting), without those of torch if there is no peer; ours come first."""
    started: list[Worker] = []
    try:
        for kind, s in sides:
            if peer or kind.startswith("jax"):
                started.append(Worker(kind, s, peer))
                if (got := started[-1].about["platform"]) != s["platform"]:
                    raise SystemExit(f"{kind} is wanted on a {s['platform']}; it has a {got}")
        yield started
    finally:
        for worker in started:
            worker.close()


def timed(turns: list[tuple[Worker, str]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, in turn; one at least, and not many of what takes minutes."""
    times: dict[str, list[float]] = {call: [] for _, call in turns}
    for _, (worker, call) in itertools.product(range(repeats), turns):
        if sum(times[call]) < BUDGET_S:
            time.sleep(PAUSE_S)
            times[call].append(worker.ask(call)["seconds"])
    return times


def share(a: np.ndarray, b: np.ndarray) -> float:
    return float(f"{abs(a - b).max() / abs(a).max():.1e}")


def check_close(what: str, far: float, most: float) -> float:
    if not far <= most:
        raise SystemExit(f"{what} must agree to {most}; they differ by {far:.1e}")
    return far


# grouped


def grouped(args: argparse.Namespace) -> Iterator[dict]:
    """Milliseconds of each convolution by every word and both layouts of PyTorch."""
    trunk, batch = TRUNK, 1 if args.platform == "cpu" else args.batch
    if args.quick:
        trunk = {
            name: (max(side // 8, 5), max(i // 8, CHANNELS), max(o // 8, GROUPS), *rest)
            for name, (side, i, o, *rest) in TRUNK.items()
        }
    for precision in args.precisions:
        s = {"trunk": trunk, "batch": batch, "precision": precision, "platform": args.platform}
        with workers([("jax grouped", s), ("torch grouped", s)], args.peer) as team:
            args.about += [worker.about for worker in team]
            yield from grouped_rows(team, s, args.repeats)


def grouped_rows(team: list[Worker], s: dict, repeats: int) -> Iterator[dict]:
    far = convolutions_agree(team, s["precision"])
    turns = [(worker, call) for worker in team for call in worker.about["calls"]]
    # Convolution by convolution, forward and gradient apart: sides that are compared are neighbours
    turns.sort(key=lambda turn: (turn[1].split()[0], turn[1].split()[-1]))
    for worker, call in turns:
        worker.ask(call)
    times, temp = timed(turns, repeats), team[0].about["temp_mib"]
    sides = [*WORDS, *(LAYOUTS if len(team) > 1 else ())]
    for name, (side, i, o, k, dilation) in s["trunk"].items():
        row = {"what": name, "image": [s["batch"], side, side, i], "kernel": [k, k, i // GROUPS, o]}
        row |= {"dilation": dilation, "products": s["precision"]}
        for of, work_ in itertools.product(sides, WORK):
            call = f"{name} {of} {work_}"
            told = {"best_ms": ms(min(times[call]))}
            told |= {"median_ms": ms(statistics.median(times[call]))}
            told |= {"temp_mib": temp[call]} if call in temp else {}
            row.setdefault(of, {})[work_] = told
        for of in sides:
            if of != "split":
                pairs = [(row[of][w]["best_ms"], row["split"][w]["best_ms"]) for w in WORK]
                row[f"{of} / split"] = [round(a / max(b, 0.001), 2) for a, b in pairs]
        yield row | {"largest_difference": far[name]}


def ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def convolutions_agree(team: list[Worker], precision: str) -> dict[str, float]:
    """The largest difference of any side to split, of each convolution."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for worker in team:
            worker.ask(file := f"{folder}/{worker.kind}.npz")
            with np.load(file) as arrays:
                for key in arrays.files:
                    name, side, what = key.split("/")
                    found.setdefault(f"{name}/{what}", {})[side] = arrays[key]
    far: dict[str, float] = {}
    for key, sides in found.items():
        (name, what), ours = key.split("/"), sides.pop("split")
        most = SAME[precision][0 if what == "y" else 1]
        for side, other in sides.items():
            differ = check_close(f"{key} of split and {side}", share(ours, other), most)
            far[name] = max(far.get(name, 0.0), differ)
    return far


# step and memory


def step(args: argparse.Namespace) -> Iterator[dict]:
    """Images per second of each model, in our words and PyTorch's layouts; memory of each side."""
    for model, precision in itertools.product(args.models, args.precisions):
        ours = {"jaxdet": "auto"} if model == "ssd" else {f"jaxdet {w}": w for w in WORDS}
        with tempfile.TemporaryDirectory() as folder:
            s = {"model": model, "batch": args.batch, "precision": precision, "width": args.width}
            s |= {"weights": f"{folder}/weights.npz", "platform": args.platform}
            sides = [("jax step", s | {"side": k, "grouping": w}) for k, w in ours.items()]
            if model in PEERS:
                sides += [("torch step", s | {"side": layout}) for layout in LAYOUTS]
            apart = args.apart or args.platform != "cpu"
            found: dict[str, dict] = {}
            for some in [[side] for side in sides] if apart else [sides]:
                with workers(some, args.peer) as team:
                    found |= steps_of(team, args.repeats)
        args.about += [of["about"] for of in found.values()]
        yield step_row(found, s)


def steps_of(team: list[Worker], repeats: int) -> dict[str, dict]:
    """What each side is, its first step and the seconds of those after it."""
    first = {worker.side: worker.ask(worker.side) for worker in team}
    times = timed([(worker, worker.side) for worker in team], repeats)
    return {
        w.side: {"about": w.about, "first": first[w.side], "times": times[w.side]} for w in team
    }


def step_row(found: dict[str, dict], s: dict) -> dict:
    counted = check_parameters({side: of["about"] for side, of in found.items()}, s["model"])
    losses = {side: of["first"]["value"] for side, of in found.items()}
    ours = next(iter(losses.values()))
    far = max(abs(loss / ours - 1) for loss in losses.values())
    check_close(f"the losses {losses} of a step", far, SAME[s["precision"]][2])
    row = {"model": s["model"], "batch": s["batch"], "precision": s["precision"]}
    row |= {"parameters": counted, "loss": ours, "largest_difference": float(f"{far:.1e}")}
    for side, of in found.items():
        median_s = statistics.median(of["times"])
        row[side] = {
            "images_per_s": round(s["batch"] / median_s, 3),
            "median_s": round(median_s, 4),
            "best_s": round(min(of["times"]), 4),
            "steps_timed": len(of["times"]),
            "first_s": round(of["first"]["seconds"], 3),
            "peak_mib": of["first"]["peak_mib"],
            "before_mib": of["about"]["before_mib"],
        }
    theirs = [min(found[layout]["times"]) for layout in LAYOUTS if layout in found]
    for side in [side for side in found if theirs and side not in LAYOUTS]:
        row[f"best torch / {side}"] = round(min(theirs) / min(found[side]["times"]), 2)
    return row


def check_parameters(about: dict[str, dict], model: str) -> int:
    """All sides have as many, and at full width those of the official code."""
    found = {side: of["parameters"] for side, of in about.items()}
    whole = {side: of["whole_parameters"] for side, of in about.items()}
    if set(whole.values()) != {PARAMETERS[model]} or len(set(found.values())) > 1:
        raise SystemExit(
            f"{model} has {PARAMETERS[model]:,} parameters; at full width these have {whole}, at "
            f"the width that is timed {found}"
        )
    return next(iter(found.values()))


def memory(args: argparse.Namespace) -> Iterator[dict]:
    """MiB of a step of GSSD++ by XLA's account; `total` is all that lives in it together."""
    for batch, dtype in itertools.product(args.memory_batches, ("float32", "bfloat16")):
        s = {"model": "gssd_pp", "batch": batch, "precision": dtype, "width": args.width}
        program, *_ = trainer(s | {"grouping": "auto"})
        plan = program.memory_analysis()
        state = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
        total = state + plan.temp_size_in_bytes
        row = {"model": "gssd_pp", "batch": batch, "dtype": dtype, "state_mib": mib(state)}
        row |= {"working_mib": mib(plan.temp_size_in_bytes), "total_mib": mib(total)}
        yield row | {"fits in 40 GB": total <= FIT_BYTES}


# claim


def claim(args: argparse.Namespace) -> Iterator[dict]:
    """Seconds from the HU of a data point to its boxes, with and without registration."""
    try:
        import SimpleITK
    except ImportError as error:
        yield {"not measured": str(error)}
        return
    args.about.append({"versions": {"SimpleITK": SimpleITK.Version_VersionString()}})
    find = {name: finder(name, args.width) for name in ("gssd_pp", "gssd")}
    for case, per_slice in itertools.product(data_points(args), (True, False)):
        yield claim_row(case, find, per_slice, args.repeats)


def finder(name: str, width: float) -> Callable[[Any], np.ndarray]:
    """A CtSlice to boxes in its own pixels: windowed, resized, detected by a compiled program."""
    import jax

    from jaxdet import models
    from jaxdet.config import Data
    from jaxdet.data import batch, images, slices

    detector = models.build(name, width=width)
    empty = np.zeros((1, SIDE, SIDE, CHANNELS), np.float32)
    variables = jax.device_put(weights(detector.module, empty))
    program = jax.jit(detector.detect).lower(variables, empty).compile()
    data = Data(image_size=SIDE, channels=CHANNELS)

    def find(case: Any) -> np.ndarray:
        image = images.to_range(case.hu, slices.WINDOW_GSSD, case.name)
        image, place = batch.model_input(image, data, case.name)
        found = jax.device_get(program(variables, image[None]))
        return place.to_original(found.boxes_xyxy[0])

    return find


def data_points(args: argparse.Namespace) -> Iterator[Any]:
    """Evenly spread ones of the prepared set, or one a patient of the phantom, 512 px."""
    if args.set:
        from jaxdet.data.builders import store

        prepared = store.find(*args.set)
        split = "test" if "test" in prepared.splits else next(iter(prepared.splits))
        slices = prepared.slices(split)
        for i in range(args.points):
            yield slices[int((i + 0.5) / args.points * len(slices))]
        return
    from jaxdet.data import phantom

    which = phantom.SETS["multiphase"]["tiny" if args.quick else "paper"]
    for number in range(args.points):
        yield phantom.cases(which, 0, number, most=1)[0]


def claim_row(case: Any, find: dict[str, Callable], per_slice: bool, repeats: int) -> dict:
    from jaxdet.data.registration import dice, portal

    # Only what leads to boxes is timed: masks and truth need not follow.
    nothing = {name: getattr(case, name)[:0] for name in ("boxes_xyxy", "labels", "diameters_mm")}
    bare = dataclasses.replace(case, livers=None, lesions=None, **nothing)
    start = time.perf_counter()
    found = portal.transforms(bare, "nonrigid", per_slice=per_slice)
    register_s = time.perf_counter() - start
    registered = portal.warp(bare, found)
    warp_s = time.perf_counter() - start - register_s
    alone_s, after_s = (
        statistics.median(seconds(find[name], one, repeats))
        for name, one in (("gssd_pp", bare), ("gssd", registered))
    )
    depth = case.hu.shape[2] // len(case.phases)
    row = {"data point": case.name, "px": case.hu.shape[0], "per slice": per_slice}
    row |= {"registrations": (len(case.phases) - 1) * (depth if per_slice else 1)}
    row |= {"register_s": round(register_s, 3), "warp_s": round(warp_s, 3)}
    row |= {"gssd_s": round(after_s, 4), "gssd_pp_s": round(alone_s, 4)}
    whole = register_s + warp_s + after_s
    row |= {"registration + GSSD, s": round(whole, 3)}
    row |= {"registration + GSSD / GSSD++": round(whole / alone_s, 1)}
    if case.livers is not None:
        moved = portal.warp(dataclasses.replace(bare, livers=case.livers), found)
        pair = [dice.mismatch(one.livers, case.phases).values() for one in (case, moved)]
        row["liver_dice, before and after"] = [round(dice.average(list(v)).mean, 4) for v in pair]
    return row


def seconds(call: Callable, given: Any, repeats: int) -> list[float]:
    """Of each call but the first."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call(given)
        times.append(time.perf_counter() - start)
    return times[1:]


# all of it


def show(row: dict) -> None:
    print("\n".join(f"  {k}: {v}" for k, v in row.items()) + "\n", flush=True)


def look_for_peer(python: str) -> tuple[str, str]:
    """The Python that has torchvision, or none and why."""
    look = [python, "-c", "import torch, torchvision.ops"]
    try:
        found = subprocess.run(look, capture_output=True, text=True)
    except OSError as error:
        raise SystemExit(f"--peer-python: {error}") from None
    if not found.returncode:
        return python, ""
    return "", f"PyTorch not measured: {(found.stderr.strip().splitlines() or [''])[-1]}"


def earlier(file: pathlib.Path | None, device: str) -> dict[str, Any]:
    """The result that --merge names: empty without one; of another device it is refused."""
    if file is None:
        return {"results": {}, "versions": {}, "notes": []}
    told = json.loads(file.read_text())
    if told["device"] != device:
        raise SystemExit(f"{file} was measured on {told['device']}; this is {device}")
    return told


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with torchvision")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--models", nargs="+", choices=PARAMETERS, default=[*PARAMETERS])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, help="default: float32; all")
    parser.add_argument("--batch", type=int, help="default: 4 on a CPU, 32 on a GPU")
    parser.add_argument("--memory-batches", type=int, nargs="+", default=[4, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--points", type=int, default=3, help="data points of part claim")
    parser.add_argument("--set", nargs=2, metavar=("PATH", "NAME"), help="theirs; else a phantom's")
    parser.add_argument("--quick", action="store_true", help="a small size: does everything run?")
    parser.add_argument("--apart", action="store_true", help="steps: one side after the other")
    parser.add_argument("--merge", type=pathlib.Path, help="a JSON of this device, to be added to")
    parser.add_argument("--out", type=pathlib.Path, help="JSON (default: results/ beside this)")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--setting", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


RUN = {"grouped": grouped, "step": step, "memory": memory, "claim": claim}


def main() -> None:
    args = arguments()
    if args.worker:
        work(args.worker, args.setting)
        return
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # a GPU has to serve all
    load = round(os.getloadavg()[0], 2)  # of the minute before
    here = jax_about()
    args.platform, args.about, cpu = here["platform"], [here], here["platform"] == "cpu"
    args.peer, note = look_for_peer(args.peer_python)
    args.precisions = args.precisions or (["float32"] if cpu else [*PRECISIONS])
    args.width, args.batch = 1.0, args.batch or (4 if cpu else 32)
    if args.quick:
        args.width, args.batch, args.memory_batches, args.points = 1 / 8, 2, [2], 1
    slug = re.sub(r"\W+", "_", here["device"].lower()).strip("_") + "_quick" * args.quick
    out = args.out or pathlib.Path(__file__).parent / "results" / f"gssd_{slug}.json"
    before, named = earlier(args.merge, here["device"]), ("jaxlib", "flax", "optax", "numpy")
    versions = {name: importlib.metadata.version(name) for name in named}
    told = ("parts", "models", "precisions", "batch", "repeats", "points", "set", "width", "apart")
    result = {
        "what": "GSSD and GSSD++: convolutions, training steps, and boxes without registration",
        "wanted": {"a step of GSSD++ at batch 32 in float32 or bfloat16, GB at most": 40},
        "paper": "30 s to register one slice among four phases, on 2 E5-2690v4",
        "device": here["device"],
        "cores": os.cpu_count(),
        "load_average": load,
        "date": datetime.date.today().isoformat(),
        "config": {name: getattr(args, name) for name in told},
        "versions": {**before["versions"], "python": platform.python_version(), **versions},
        "notes": sorted({*before["notes"], *([note] if note else [])}),
        "results": before["results"],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    for part in args.parts:
        print(f"{part}\n", flush=True)
        for row in RUN[part](args):
            show(row)
            result["results"].setdefault(part, []).append(row)
            for about in args.about:
                result["versions"] |= about["versions"]
            out.write_text(json.dumps(result, indent=2) + "\n")  # what is kept if a side breaks off
    print(note, f"written: {out}", sep="\n" * bool(note))


if __name__ == "__main__":
    main()
