"""What does the attention of PCA-YOLO cost: the Siamese on a slice, its training step, its map?

    python scripts/bench/siamese.py [--patches 8] [--repeats 2] [--parts convolve score step ...]

One 512x512 slice and m = 64, random weights. The words of `convolution` must agree to 1e-5, and
their gradients to 1e-4, of the largest; the differences are in the result.

convolve  each convolution of a tower alone, and conv1 of an upscaled patch with the bicubic folded
          into its kernel (possible only where nothing is clipped)
score     64 probabilities: one tower for the slice against naive pairs, of which only so many
          --patches are timed and the time multiplied
memory    what XLA reserves for a training step of 16 patches: forward, loss, backward, Adam
step      such a step in a process of its own, with its peak of resident memory: what the compiler
          reserves is not all, XLA's own convolutions unfold their images beside it
map       attention map and detector of one slice: stage by stage, and as one program
bicubic   64 patches from 64 to 512 px against cv2.resize

Seconds of the wall clock, the best of the repeats. Prints a table, writes JSON beside this file.
"""

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxdet import models
from jaxdet import run as runs
from jaxdet.config import Patches
from jaxdet.models import pca_yolo, siamese
from jaxdet.nn import pool
from jaxdet.ops import fourier, patches, resample

PARTS = ("convolve", "score", "memory", "step", "map", "bicubic")
WORDS = ("direct", "fourier")
AT_ONCE, PAIRS = 16, 16  # patches in memory together, as siamese.score has it; of a training step
TOWERS = 4  # images of a convolution that is timed alone
SAME, SAME_GRADIENT = 1e-5, 1e-4  # as a share of the largest; probabilities as they are
WANTED = {"naive / shared": 1.8, "training step, MiB at most": 4096}


def settings(quick: bool) -> tuple[siamese.Config, int]:
    """The network and the slice's side in px; --quick is of no use but to see that all runs."""
    if quick:
        return siamese.Config(input_size=116, width=1 / 16, patches=Patches(side=16)), 64
    return siamese.Config(), 512


def slice_of(side: int) -> np.ndarray:
    """A grey slice [1, S, S, 1]: smooth, with noise, black outside a disc."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side - 0.5
    body = 0.5 + 0.2 * np.sin(17 * x) * np.cos(11 * y) + 0.05 * rng.standard_normal((side, side))
    grey = np.clip(np.where(np.hypot(x, y) < 0.45, body, 0), 0, 1)
    return grey[None, ..., None].astype(np.float32)


def weights(module: Any, *inputs: np.ndarray) -> Any:
    """Random weights scaled by fan in; no init is compiled."""
    rng = np.random.default_rng(1)

    def draw(path: Any, leaf: Any) -> jax.Array:
        if path[-1].key == "kernel":
            kernel = rng.standard_normal(leaf.shape, np.float32)
            return jnp.asarray(kernel / np.float32(np.sqrt(np.prod(leaf.shape[:-1]))))
        return jnp.full(leaf.shape, 1.0 if path[-1].key in ("scale", "var") else 0.0)

    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def compiled(f: Callable, *inputs: Any, **options: Any) -> Any:
    return jax.jit(f, **options).lower(*inputs).compile()


def best(call: Callable, *inputs: Any, repeats: int) -> tuple[float, Any]:
    """Least seconds of a call that is compiled already, and its answer."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        answer = jax.block_until_ready(call(*inputs))
        times.append(time.perf_counter() - start)
    return min(times), answer


def mib(size: float) -> float:
    return round(size / 2**20, 1)


def temp_mib(program: Any) -> float:
    return mib(program.memory_analysis().temp_size_in_bytes)


def check_same(what: str, difference: float, most: float = SAME) -> float:
    if not difference <= most:
        raise SystemExit(f"{what} must agree to {most}; they differ by {difference:.1e}")
    return float(f"{difference:.1e}")


# convolve


def direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
    how = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=how)


def convolve(cfg: siamese.Config, repeats: int) -> list[dict]:
    """Milliseconds a tower, forward and backward, of each convolution of Koch's trunk."""
    rng, side, inputs, rows = np.random.default_rng(2), cfg.input_size, cfg.channels, []
    for i, stage in enumerate(siamese.TRUNKS[cfg.trunk], 1):
        shape = (stage.kernel, stage.kernel, inputs, max(round(stage.features[0] * cfg.width), 1))
        x = jnp.asarray(rng.random((TOWERS, side, side, inputs), np.float32))
        kernel = jnp.asarray(rng.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[:3])))
        wanted = "xk" if i > 1 else "k"  # nobody asks for a slice's gradient
        words = {"direct": direct, "fourier": fourier.conv}
        sides = {word: alone(f, x, kernel, wanted, repeats) for word, f in words.items()}
        rows.append({"what": f"conv{i}", "image": [side, side, inputs], "kernel": list(shape)})
        rows[-1] |= compared(f"conv{i}", sides)
        side, inputs = (side - stage.kernel + 1) // (2 if stage.pool else 1), shape[-1]
    return [*rows, folded(cfg, repeats)]


def alone(f: Callable, x: Any, kernel: Any, grads_of: str, repeats: int) -> tuple[dict, list]:
    """Times and memory of f, and its output, and its gradients by "x" and "k", if wanted."""
    forward = compiled(f, x, kernel)
    forward_s, y = best(forward, x, kernel, repeats=repeats + 1)
    row = {"forward_ms": round(1e3 * forward_s / len(x), 2), "forward_temp_mib": temp_mib(forward)}
    if not grads_of:
        return row, [y]

    def pull(x: Any, kernel: Any, ct: Any) -> list:
        grads = jax.vjp(f, x, kernel)[1](ct)
        return [grad for grad, name in zip(grads, "xk", strict=True) if name in grads_of]

    ct = jnp.asarray(np.random.default_rng(4).standard_normal(y.shape, np.float32))
    backward = compiled(pull, x, kernel, ct)
    backward_s, grads = best(backward, x, kernel, ct, repeats=repeats)
    row |= {"backward_ms": round(1e3 * backward_s / len(x), 2)}
    return row | {"backward_temp_mib": temp_mib(backward)}, [y, *grads]


def compared(what: str, sides: dict[str, tuple[dict, list]]) -> dict:
    """Both sides' rows and their ratios; the answers must be the same."""
    (first, plain), (second, other) = sides.values()
    shares = [float(abs(a - b).max() / abs(a).max()) for a, b in zip(plain, other, strict=True)]
    far = [
        check_same(f"{what} of {' and '.join(sides)}", share, SAME_GRADIENT if i else SAME)
        for i, share in enumerate(shares)
    ]
    ratio = [round(first[n] / max(second[n], 0.1), 2) for n in first if n.endswith("_ms")]
    rows = {name: row for name, (row, _) in sides.items()}
    return rows | {" / ".join(sides): ratio, "largest_difference": far}


def folded(cfg: siamese.Config, repeats: int) -> dict:
    """conv1 and its pooling on patches grown 8 times, and on the patches themselves.

    A phase of the output grid sees 6x6 pixels, so 36 products instead of 100. It leaves out the
    clip to [0, 1] that `Siamese.enter` has, as OpenCV has on bytes: no exact way with it.
    """
    m, scale, k = cfg.input_size // 8, 8, siamese.TRUNKS["koch"][0].kernel
    rng = np.random.default_rng(3)
    tiles = jnp.asarray(rng.random((TOWERS, m, m, 1), np.float32))
    shape = (k, k, 1, max(round(64 * cfg.width), 1))
    kernel = jnp.asarray(rng.standard_normal(shape, np.float32) / k)
    reach = scale + k - 1  # grown pixels that the phases of one pixel see
    taps = resample.bicubic_matrix(32, 32 * scale)[16 * scale : 16 * scale + reach]
    used = np.flatnonzero(abs(taps).sum(0))
    taps, before = taps[:, used], 16 - used[0]
    cells = -(-(m * scale - k + 1) // scale)  # the last phases of the last cells are cut off
    after = cells - before + len(used) - 1 - m

    def plain(x: Any, w: Any) -> Any:
        return pool.halve(direct(resample.bicubic(x, m * scale, m * scale), w))

    def fold(x: Any, w: Any) -> Any:
        phases = [
            jnp.pad(w[:, :, 0], ((p, scale - 1 - p), (q, scale - 1 - q), (0, 0)))
            for p in range(scale)
            for q in range(scale)
        ]
        how = {"precision": lax.Precision.HIGHEST}
        w = jnp.einsum("ra,pruo,ub->abpo", taps, jnp.stack(phases), taps, **how)
        # Phases of one pooled pixel outermost: its maximum is one of four blocks of channels.
        half, n = scale // 2, len(used)
        w = w.reshape(n, n, half, 2, half, 2, -1).transpose(0, 1, 3, 5, 2, 4, 6).reshape(n * n, -1)
        x = jnp.pad(x[..., 0], ((0, 0), (before, after), (before, after)), mode="edge")
        near = [x[:, a : a + cells, b : b + cells] for a in range(n) for b in range(n)]
        y = jnp.einsum("nhwk,ko->nhwo", jnp.stack(near, -1), w, **how)
        y = functools.reduce(jnp.maximum, jnp.split(y, 4, -1))
        y = y.reshape(len(x), cells, cells, half, half, -1).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(len(x), cells * half, cells * half, -1)
        pooled = (m * scale - k + 1) // 2
        return y[:, :pooled, :pooled]

    both = {"plain": plain, "folded": fold}
    sides = {name: alone(f, tiles, kernel, "", repeats) for name, f in both.items()}
    row = {"what": "bicubic, conv1, pooling", "image": [m, m, 1], "kernel": list(shape)}
    return row | compared("bicubic folded into conv1", sides)


# score


def naive(cfg: siamese.Config, variables: Any, x: Any, tiles: Any) -> Any:
    """Every pair by itself, two towers each, so many in memory as `score` has."""
    call = functools.partial(siamese.build(cfg).apply, variables)
    most = next(k for k in range(min(AT_ONCE, len(tiles)), 0, -1) if len(tiles) % k == 0)

    def some(pair: tuple[Any, Any]) -> Any:
        of_slice, of_patch = (call(images, method="embed") for images in pair)
        return call(of_slice, of_patch[:, None], method="compare")[:, 0]

    # The slices come as data of the loop: a constant would be embedded once, in front of it.
    pairs = jnp.repeat(x, len(tiles), axis=0), tiles
    parts = jax.tree.map(lambda a: a.reshape(-1, most, *a.shape[1:]), pairs)
    return jax.nn.sigmoid(lax.map(some, parts).reshape(-1))


def score(cfg: siamese.Config, side: int, timed: int, repeats: int) -> list[dict]:
    """Seconds a slice of the shared tower and of naive pairs, by each word."""
    x = jnp.asarray(slice_of(side))
    (tiles,) = patches.crop(x, cfg.patches.side)
    variables, rows, answers = weights(siamese.build(cfg), *siamese.example(cfg, side)), [], {}
    some = tiles[:timed]
    for word in WORDS:
        worded = dataclasses.replace(cfg, convolution=word)
        shared = compiled(functools.partial(siamese.score, worded, at_once=AT_ONCE), variables, x)
        pairs = compiled(functools.partial(naive, worded), variables, x, some)
        shared_s, (answers[f"{word}, shared"],) = best(shared, variables, x, repeats=repeats)
        pairs_s, answers[f"{word}, pairs"] = best(pairs, variables, x, some, repeats=repeats)
        naive_s = pairs_s * len(tiles) / len(some)
        row = {"convolution": word, "patches": len(tiles), "shared_s": round(shared_s, 3)}
        row |= {"naive_s": round(naive_s, 3), "naive_patches_timed": len(some)}
        row |= {"naive / shared": round(naive_s / shared_s, 2), "shared_temp_mib": temp_mib(shared)}
        rows.append(row)
    first = answers["direct, shared"]
    rows[1]["largest_difference"] = [
        check_same(f"probabilities, {name}", float(abs(answer - first[: len(answer)]).max()))
        for name, answer in answers.items()
    ]
    rows[1]["direct / fourier, shared"] = round(rows[0]["shared_s"] / rows[1]["shared_s"], 2)
    rows[1]["spread_of_probabilities"] = round(float(jnp.ptp(first)), 4)
    return rows


# memory and step


def training(cfg: siamese.Config, side: int) -> tuple[Callable, tuple]:
    """One step of Adam on 16 patches of one slice, and the shapes of what it takes."""
    module, adam, m = siamese.build(cfg), optax.adam(1e-4), cfg.patches.side

    def step(params: Any, state: Any, slices: Any, tiles: Any, labels: Any) -> tuple:
        def total(params: Any) -> Any:
            logits = module.apply({"params": params}, slices, tiles, train=True)
            return siamese.loss(logits, labels, jnp.ones_like(labels), params, cfg=cfg)["total"]

        value, grads = jax.value_and_grad(total)(params)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    of = jax.ShapeDtypeStruct
    example = of((1, side, side, 1), jnp.float32), of((1, PAIRS, m, m, 1), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), *example)["params"]
    state = jax.eval_shape(adam.init, params)
    return step, (params, state, *example, of((1, PAIRS), jnp.float32))


def size_of(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def memory(cfg: siamese.Config, side: int) -> list[dict]:
    """MiB of a training step by XLA's account; `total` is all that lives in it together."""
    rows = []
    for word in WORDS:
        for again in (True, False):
            worded = dataclasses.replace(cfg, convolution=word, rematerialise=again)
            step, inputs = training(worded, side)
            plan = compiled(step, *inputs, donate_argnums=(0, 1)).memory_analysis()
            given = plan.argument_size_in_bytes + plan.output_size_in_bytes
            total = given - plan.alias_size_in_bytes + plan.temp_size_in_bytes
            row = {"convolution": word, "rematerialise": again, "patches": PAIRS}
            row |= {"parameters_mib": mib(size_of(inputs[0])), "adam_mib": mib(size_of(inputs[1]))}
            row |= {"working_mib": mib(plan.temp_size_in_bytes), "total_mib": mib(total)}
            rows.append(row)
    return rows


def one_step(cfg: siamese.Config, side: int, word: str) -> dict:
    """This process runs one step: its seconds, and how far its resident memory rose."""
    step, shapes = training(dataclasses.replace(cfg, convolution=word), side)
    program = compiled(step, *shapes, donate_argnums=(0, 1))
    before = peak_mib()
    x, m = slice_of(side), cfg.patches.side
    params = weights(siamese.build(cfg), *siamese.example(cfg, side))["params"]
    labels = (np.arange(PAIRS) % 2).astype(np.float32)[None]
    data = jnp.asarray(x), patches.crop(jnp.asarray(x), m)[:, :PAIRS], jnp.asarray(labels)
    state = optax.adam(1e-4).init(params)
    start = time.perf_counter()
    *_, value = jax.block_until_ready(program(params, state, *data))
    row = {"convolution": word, "patches": PAIRS, "step_s": round(time.perf_counter() - start, 3)}
    return row | {"loss": float(value), "peak_rss_mib": peak_mib(), "rss_before_mib": before}


def peak_mib() -> float:
    """Most resident memory of this program so far; getrusage would tell its parent's as well."""
    status = pathlib.Path("/proc/self/status").read_text()
    return round(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024, 1)


def step(quick: bool, words: list[str]) -> list[dict]:
    """`one_step` in a new process for each word, as memory that is given back may stay resident."""
    rows = []
    for word in words:
        call = [sys.executable, __file__, "--one-step", word, *["--quick"] * quick]
        done = subprocess.run(call, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    if len(rows) == 2:
        check_same("losses of a step, as a share,", abs(rows[0]["loss"] / rows[1]["loss"] - 1))
        rows[1]["direct / fourier"] = round(rows[0]["step_s"] / rows[1]["step_s"], 2)
    return rows


# map and bicubic


def attention(cfg: siamese.Config, side: int, scored: list[dict], quick: bool) -> list[dict]:
    """Seconds and shares of the stages of one slice, with each word and two sizes of YOLOv8."""
    x, rows, repeats = jnp.asarray(slice_of(side)), [], 5
    n = (side // cfg.patches.side) ** 2
    spread = compiled(
        lambda y: patches.spread(patches.minmax(y), cfg.patches.side)[..., None], jnp.ones((1, n))
    )
    spread_s, grid = best(spread, jnp.linspace(0, 1, n)[None], repeats=repeats)
    for size in ("n",) if quick else ("n", "x"):
        detector = models.build(f"yolov8{size}", channels=4, num_classes=1)
        images = jnp.concatenate([x, x, x, grid], -1)
        variables = weights(detector.module, images)
        program = compiled(detector.detect, variables, images)
        best(program, variables, images, repeats=1)
        detect_s, _ = best(program, variables, images, repeats=repeats)
        for done in scored:
            parts = {"siamese": done["shared_s"], "min-max, map": spread_s, "detector": detect_s}
            total = sum(parts.values())
            row = {"detector": f"yolov8{size}", "convolution": done["convolution"]}
            row |= {f"{name}, s": round(s, 4) for name, s in parts.items()}
            row |= {"total_s": round(total, 3)}
            row |= {f"{name}, share": round(s / total, 3) for name, s in parts.items()}
            rows.append(row)
    return [*rows, one_program(cfg, x)]


def one_program(cfg: siamese.Config, x: jax.Array) -> dict:
    """The same with YOLOv8n in one jitted program, as predict runs it."""
    worded = dataclasses.replace(cfg, convolution="fourier")
    whole = pca_yolo.Config(size="n", siamese=worded)
    variables = {
        "siamese": weights(siamese.build(cfg), *siamese.example(cfg, x.shape[1])),
        "detector": weights(pca_yolo.build(whole).module, jnp.repeat(x, whole.channels, -1)),
    }
    program = compiled(pca_yolo.detect_raw(whole), variables, x)
    seconds, _ = best(program, variables, x, repeats=2)
    return {"detector": "yolov8n", "convolution": "fourier", "one program, s": round(seconds, 3)}


def bicubic(cfg: siamese.Config, side: int) -> list[dict]:
    """Milliseconds for all patches of a slice, by matrices and by OpenCV, one after another."""
    m, size = cfg.patches.side, cfg.input_size
    (tiles,) = np.asarray(patches.crop(slice_of(side), m))
    program = compiled(lambda t: resample.bicubic(t, size, size), jnp.asarray(tiles))
    theirs = np.empty((len(tiles), size, size), np.float32)

    def by_cv2() -> None:
        for tile, out in zip(tiles, theirs, strict=True):
            cv2.resize(tile, (size, size), dst=out, interpolation=cv2.INTER_CUBIC)

    ours_s, ours = best(program, jnp.asarray(tiles), repeats=5)
    cv2_s, _ = best(by_cv2, repeats=5)
    far = float(np.abs(ours[..., 0] - theirs).max())
    row = {"patches": len(tiles), "from_px": m, "to_px": size, "jaxdet_ms": round(1e3 * ours_s, 1)}
    row |= {"cv2_ms": round(1e3 * cv2_s, 1), "cv2 / jaxdet": round(cv2_s / ours_s, 2)}
    return [row | {"largest_difference": far}]


def measure(cfg: siamese.Config, side: int, args: argparse.Namespace) -> dict[str, list[dict]]:
    """The rows of every part that is asked for; map takes the seconds that score found."""
    parts = {
        "convolve": lambda: convolve(cfg, args.repeats),
        "score": lambda: score(cfg, side, args.patches, args.repeats),
        "memory": lambda: memory(cfg, side),
        "step": lambda: step(args.quick, args.step_words),
        "map": lambda: attention(cfg, side, results["score"], args.quick),
        "bicubic": lambda: bicubic(cfg, side),
    }
    results: dict[str, list[dict]] = {}
    for name in args.parts:
        start = time.perf_counter()
        results[name] = parts[name]()
        print(f"\n{name} ({time.perf_counter() - start:.0f} s)")
        for row in results[name]:
            print("  " + "  ".join(f"{k}: {v}" for k, v in row.items()), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=8, help="naive pairs that are timed")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--step-words",
        nargs="+",
        choices=WORDS,
        default=["fourier"],
        help="of part step; direct took over 21 GB on a CPU",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything run?")
    parser.add_argument("--one-step", choices=WORDS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=pathlib.Path, help="JSON (default: results/ beside this)")
    args = parser.parse_args()
    cfg, side = settings(args.quick)
    if args.one_step:
        print(json.dumps(one_step(cfg, side, args.one_step)))
        return
    if "map" in args.parts and "score" not in args.parts:
        parser.error("--parts map wants score too, whose seconds it takes")
    device = runs.device_name()
    slug = re.sub(r"\W+", "_", device.lower()).strip("_") + ("_quick" if args.quick else "")
    out = args.out or pathlib.Path(__file__).parent / "results" / f"siamese_{slug}.json"
    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    result = {
        "what": "PCA-YOLO's Siamese on one slice: seconds of the wall clock and MiB",
        "wanted": WANTED,
        "device": device,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),  # of the minute before
        "date": datetime.date.today().isoformat(),
        "config": dataclasses.asdict(cfg) | {"image_size": side, "repeats": args.repeats},
        "versions": {"python": platform.python_version(), "cv2": cv2.__version__}
        | {name: importlib.metadata.version(name) for name in names},
        "results": measure(cfg, side, args),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
