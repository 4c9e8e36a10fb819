"""How fast is YOLOv8 here, beside ultralytics on torch and keras-cv on JAX?

    python scripts/bench/yolov8.py [--sizes n s x] [--side 512] [--repeats 20] [--merge FILE ...]

Forward, decode + NMS, a whole predict from a uint8 photograph, a train step, and the first calls of
a new process. Peers are timed in the same process, call by call in turn with ours, when they can be
imported. Prints a table and writes JSON beside this file; README.md says what each row holds.
"""

import argparse
import contextlib
import copy
import datetime
import functools
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# One accelerator for every side, its memory shared; nobody calls out or installs anything.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
os.environ["KERAS_BACKEND"] = "jax"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["YOLO_OFFLINE"] = "true"
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ["YOLO_VERBOSE"] = "false"

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from jaxdet import bridge, models
from jaxdet import run as runs
from jaxdet.config import Train
from jaxdet.data.transforms import letterbox
from jaxdet.models import yolov8
from jaxdet.ops import anchors
from jaxdet.train import optim, parallel
from jaxdet.train.step import init_state, make_step, of_detector
from jaxdet.types import Batch, Detections

CLASSES, TRUTHS, MOST = 80, 15, 100  # classes; boxes of a training image; rows they are padded to
PHOTO_HW = (480, 640)
PREDICT = {"score_threshold": 0.25, **yolov8.PREDICT}  # the rule of predict; val is the default
IOU, DETECTIONS = 0.7, 300
RULES = {"predict rule": (0.25, False), "val rule": (0.001, True)}
NOT = "not measured"
PAUSE_S = 0.02  # lets the threads of the side before stop spinning
PACKAGES = (
    *("jax", "jaxlib", "flax", "numpy", "opencv-python", "opencv-python-headless"),
    *("torch", "torchvision", "ultralytics", "keras", "keras-cv", "tensorflow", "tensorflow-cpu"),
)

Rows = dict[str, Callable[[], Any]]  # row -> a call that ends when its answer is there


class Case(NamedTuple):
    """What every side is given."""

    size: str
    side: int  # px, the square that enters the model
    gpu: bool
    photo: np.ndarray  # uint8 [480, 640, 3], RGB
    batch: Batch  # uint8 images, about TRUTHS boxes each, padded to MOST
    crowd: yolov8.Outputs  # of one image: thousands of boxes about dozens of objects
    variables: Any


def make_case(size: str, side: int, batch_size: int, gpu: bool) -> Case:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (*(s // 16 for s in PHOTO_HW), 3), np.uint8)
    photo = cv2.resize(coarse, PHOTO_HW[::-1], interpolation=cv2.INTER_CUBIC)
    low = rng.uniform(0, 0.7, (batch_size, MOST, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.3, low.shape)], 2) * side
    labels = rng.integers(0, CLASSES, (batch_size, MOST))
    real = np.arange(MOST) < TRUTHS
    batch = Batch(
        rng.integers(0, 256, (batch_size, side, side, 3), np.uint8),
        np.where(real[:, None], boxes, 0).astype(np.float32),
        np.where(real, labels, -1).astype(np.int32),
        np.arange(batch_size, dtype=np.int32),
    )
    picture, _ = letterbox(photo, side, (114 / 255,))
    variables = fill(size, picture[None])
    return Case(size, side, gpu, photo, batch, crowd(side, rng), variables)


def fill(size: str, images: np.ndarray) -> Any:
    """Random weights that score like trained ones: 30 anchors above 0.25, many pairs above 0.001.

    Otherwise there would be nothing to suppress, or everything.
    """
    module = models.build(f"yolov8{size}", num_classes=CLASSES).module
    rng = np.random.default_rng(1)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        if path[-1].key == "kernel":
            return rng.standard_normal(leaf.shape, np.float32) / np.sqrt(np.prod(leaf.shape[:-1]))
        value = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 0.7}[path[-1].key]
        return np.full(leaf.shape, value, np.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    logits = np.asarray(jax.jit(module.apply)(variables, images).class_logits[0])
    stretch = 4 / logits.std()
    # Between the 30th and the 31st, so that rounding moves none of them over the threshold.
    shift = np.log(0.25 / 0.75) - stretch * np.sort(logits.max(axis=1))[-31:-29].mean()
    for level in range(3):
        out = variables["params"]["head"][f"class_{level}"]["out"]
        out["kernel"], out["bias"] = out["kernel"] * stretch, out["bias"] * stretch + shift
    return variables


def crowd(side: int, rng: np.random.Generator) -> yolov8.Outputs:
    """Sixty objects, and in each of them every anchor finds its box, give or take a tenth."""
    centres, strides = anchors.grid(
        [(side // s, side // s) for s in yolov8.STRIDES], yolov8.STRIDES
    )
    middle = rng.uniform(0, side, (60, 2))
    half = rng.uniform(0.04, 0.12, (60, 2)) * side
    inside = (np.abs(centres[:, None] - middle) < half).all(-1)
    owner, found = inside.argmax(1), inside.any(1)
    low, high = centres - (middle - half)[owner], (middle + half)[owner] - centres
    cells = np.concatenate([low, high], 1) / strides[:, None] * rng.uniform(0.9, 1.1, (len(low), 4))
    cells = np.clip(cells, 0.01, yolov8.BINS - 1.01)
    # A softmax over 16 bins whose expectation is `cells`: two neighbours share the weight.
    share = np.maximum(1 - np.abs(cells[..., None] - np.arange(yolov8.BINS)), 1e-20)
    scores = np.full((len(low), CLASSES), 1e-4)
    scores[found, owner[found] % CLASSES] = rng.uniform(0.3, 0.95, found.sum())
    return yolov8.Outputs(
        np.log(share).reshape(1, -1, 4 * yolov8.BINS).astype(np.float32),
        np.log(scores / (1 - scores))[None].astype(np.float32),
        centres,
        strides,
    )


def jaxdet_rows(case: Case) -> Rows:
    """Our side. The state of the train step lives in its closure, as it does in the loop."""
    name = f"yolov8{case.size}"
    picture, _ = letterbox(case.photo, case.side, (114 / 255,))
    variables = jax.device_put(case.variables)
    rows: Rows = {}
    for words, dtype in precisions(case.gpu).items():
        detector = models.build(name, num_classes=CLASSES, dtype=dtype, **PREDICT)
        forward, detect = jax.jit(detector.module.apply), jax.jit(detector.detect)
        unit = jax.device_put(picture[None].astype(np.float32) / 255)

        def predict(detect: Callable = detect) -> np.ndarray:
            rectangle, place = letterbox(
                case.photo, case.side, (114 / 255,), multiple=yolov8.MULTIPLE
            )
            boxes, _, labels = jax.device_get(detect(variables, rectangle[None]))
            return place.to_original(boxes[0][labels[0] >= 0])

        rows[f"forward{words}"] = functools.partial(ready, forward, variables, unit)
        rows[f"whole predict{words}"] = predict
    out = jax.jit(models.build(name, num_classes=CLASSES).module.apply)(variables, picture[None])
    for rule, fields in (("predict rule", PREDICT), ("val rule", {})):
        decode = jax.jit(models.build(name, num_classes=CLASSES, **fields).decode)
        rows[f"decode + NMS, {rule}"] = functools.partial(ready, decode, out)
        rows[f"crowded, {rule}"] = functools.partial(ready, decode, jax.device_put(case.crowd))
    return {**rows, "train step": jaxdet_step(case)}


def precisions(gpu: bool) -> dict[str, str]:
    return {"": "float32", ", 16 bit": "bfloat16"} if gpu else {"": "float32"}


def ready(function: Callable, *args: Any) -> Any:
    return jax.block_until_ready(function(*args))


def jaxdet_step(case: Case) -> Callable[[], float]:
    size = len(case.batch.index)
    dtype = "bfloat16" if case.gpu else "float32"
    detector = models.build(f"yolov8{case.size}", num_classes=CLASSES, dtype=dtype)
    recipe = Train(optimizer="sgd", batch_size=size, nominal_batch=size, warmup_epochs=0.0, lr=1e-4)
    plan = optim.plan(recipe, num_images=size * 100, num_classes=CLASSES, steps_per_epoch=100)
    step = parallel.map_step(make_step(of_detector(detector), plan))
    batch = next(parallel.prefetch([case.batch]))
    state = parallel.replicate(init_state(case.variables, plan))

    def train() -> float:
        nonlocal state
        state, losses = jax.block_until_ready(step(state, batch))
        return float(losses["total"][0])

    return train


def ultralytics_sides(case: Case, notes: dict[str, str]) -> dict[str, Rows]:
    """ultralytics as its own predictor and trainer run it, with our weights in it."""
    offer_torchvision(notes)
    import torch

    if case.gpu and not torch.cuda.is_available():
        raise ImportError("this torch sees no GPU")
    from ultralytics.cfg import get_cfg
    from ultralytics.data.augment import LetterBox
    from ultralytics.nn.autobackend import AutoBackend
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import scale_boxes

    torch.set_num_threads(cores())
    device = torch.device("cuda" if case.gpu else "cpu")
    wait = torch.cuda.synchronize if case.gpu else (lambda: None)
    model = DetectionModel(f"yolov8{case.size}.yaml", nc=CLASSES, verbose=False)
    official = bridge.to_torch(f"yolov8{case.size}", case.variables, num_classes=CLASSES)
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in official.items()})
    model.args = get_cfg()
    bgr = np.ascontiguousarray(case.photo[..., ::-1])  # what it reads from files

    def enter(backend: Any, auto: bool) -> Any:
        image = LetterBox(case.side, auto=auto, stride=32)(image=bgr)
        x = torch.from_numpy(image).unsqueeze(0).to(device).permute(0, 3, 1, 2).contiguous().flip(1)
        return (x.half() if backend.fp16 else x.float()).div_(255)

    @torch.inference_mode()
    def forward(backend: Any, x: Any) -> None:
        backend(x)
        wait()

    @torch.inference_mode()
    def suppress(x: Any, conf: float, multi_label: bool) -> Any:
        kept = non_max_suppression(x, conf, IOU, multi_label=multi_label, max_det=DETECTIONS)
        wait()
        return kept

    @torch.inference_mode()
    def predict(backend: Any) -> np.ndarray:
        x = enter(backend, True)  # the smallest rectangle, as its predictor does and ours
        (kept,) = non_max_suppression(backend(x), *RULES["predict rule"][:1], IOU)
        return scale_boxes(x.shape[2:], kept[:, :4], bgr.shape).cpu().numpy()

    eager = {}
    for words in precisions(case.gpu):
        # Fuses batch normalisation and, on an x86 CPU, lays memory out channels-last.
        own = copy.deepcopy(model).eval()
        backend = AutoBackend(own, device=device, fp16=bool(words), verbose=False)
        x = enter(backend, False)
        eager[f"forward{words}"] = functools.partial(forward, backend, x)
        eager[f"whole predict{words}"] = functools.partial(predict, backend)
    with torch.inference_mode():
        sparse = model.to(device).eval()(enter(backend, False).float())[0]
    crowded = torch.from_numpy(as_ultralytics(case.crowd)).to(device)
    for rule, (conf, multi) in RULES.items():
        eager[f"decode + NMS, {rule}"] = functools.partial(suppress, sparse, conf, multi)
        eager[f"crowded, {rule}"] = functools.partial(suppress, crowded, conf, multi)
    sides = {"ultralytics": eager}
    eager["train step"] = ultralytics_step(case, model, device, compiled=False)
    if case.gpu:
        compiled = ultralytics_step(case, model, device, compiled=True)
        sides["ultralytics compiled"] = {"train step": compiled}
    return sides


def ultralytics_step(case: Case, model: Any, device: Any, *, compiled: bool) -> Callable[[], float]:
    """Forward, loss, backward, clip, SGD with Nesterov, moving average; with AMP on a GPU."""
    import torch
    from ultralytics.utils.torch_utils import ModelEMA

    layout = torch.channels_last if case.gpu else torch.contiguous_format
    model = copy.deepcopy(model).to(device, memory_format=layout).train()
    forward = torch.compile(model) if compiled else model
    kernels = [p for p in model.parameters() if p.ndim > 1 and p.requires_grad]
    others = [p for p in model.parameters() if p.ndim <= 1 and p.requires_grad]
    groups = [{"params": kernels, "weight_decay": 5e-4}, {"params": others}]
    sgd = torch.optim.SGD(groups, lr=1e-4, momentum=0.937, nesterov=True)
    scaler, ema = torch.amp.GradScaler(device.type, enabled=case.gpu), ModelEMA(model)
    image, row = np.nonzero(case.batch.labels >= 0)
    low, high = np.split(case.batch.boxes_xyxy[image, row] / case.side, 2, axis=1)
    batch = {
        "img": torch.from_numpy(case.batch.images).permute(0, 3, 1, 2).contiguous(),
        "cls": torch.from_numpy(case.batch.labels[image, row]).float()[:, None],
        "bboxes": torch.from_numpy(np.concatenate([(low + high) / 2, high - low], 1)),
        "batch_idx": torch.from_numpy(image).float(),
    }
    batch = {k: v.to(device) for k, v in batch.items()}

    def train() -> float:
        with torch.autocast(device.type, enabled=case.gpu):
            out = forward(batch["img"].float() / 255)
            loss = model.loss(batch, out)[0].sum()
        scaler.scale(loss).backward()
        scaler.unscale_(sgd)
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
        scaler.step(sgd)
        scaler.update()
        sgd.zero_grad()
        ema.update(model)
        if case.gpu:
            torch.cuda.synchronize()
        return loss.item()

    return train


def as_ultralytics(out: yolov8.Outputs) -> np.ndarray:
    """[1, 4 + K, A]: centre, size and probabilities, what the reference's network answers with."""
    boxes, probs = jax.device_get(jax.jit(yolov8.boxes_and_probs)(out))
    low, high = np.split(boxes, 2, axis=-1)
    rows = np.concatenate([(low + high) / 2, high - low, probs], axis=-1)
    return np.ascontiguousarray(rows.transpose(0, 2, 1))


def offer_torchvision(notes: dict[str, str]) -> None:
    """Imports torchvision, whose NMS ultralytics then uses; without it, shows a made-up version.

    ultralytics reads that version when it is imported, and suppresses with its own torch code then.
    """
    try:
        importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        folder = pathlib.Path(os.environ["YOLO_CONFIG_DIR"])  # temporary, made by main
        info = folder / "torchvision-0.0.0.dist-info" / "METADATA"
        info.parent.mkdir()
        info.write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.0.0\n")
        sys.path.append(str(folder))
        notes["torchvision"] = (
            "not installed: ultralytics uses its own torch NMS (a name stands in)"
        )
    else:
        with contextlib.suppress(ImportError):
            import torchvision  # noqa: F401


def keras_sides(case: Case, notes: dict[str, str]) -> dict[str, Rows]:
    """keras-cv's YOLOV8Detector, each row one jitted program, without Keras' own loops."""
    import keras
    import keras_cv
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # keras-cv imports it; the memory is not its
    plans = {  # stage widths, blocks, blocks of the pyramid; xs, s, m, l, xl there
        "n": ([32, 64, 128, 256], [1, 2, 2, 1], 1),
        "s": ([64, 128, 256, 512], [1, 2, 2, 1], 1),
        "m": ([96, 192, 384, 576], [2, 4, 4, 2], 2),
        "l": ([128, 256, 512, 512], [3, 6, 6, 3], 3),
        "x": ([160, 320, 640, 640], [3, 6, 6, 3], 3),
    }
    widths, depths, pyramid = plans[case.size]
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if case.gpu else "float32")
    backbone = keras_cv.models.YOLOV8Backbone(
        stackwise_channels=widths, stackwise_depth=depths, include_rescaling=True
    )
    model = keras_cv.models.YOLOV8Detector(
        num_classes=CLASSES, bounding_box_format="xyxy", backbone=backbone, fpn_depth=pyramid
    )
    model.prediction_decoder = keras_cv.layers.NonMaxSuppression(
        bounding_box_format="xyxy",
        from_logits=False,
        confidence_threshold=PREDICT["score_threshold"],
        iou_threshold=IOU,
        max_detections=DETECTIONS,
    )
    notes[f"keras-cv {case.size}"] = f"its own weights: {model.count_params()} parameters"
    parts = (model.trainable_variables, model.non_trainable_variables)
    weights = [[v.value for v in part] for part in parts]
    forward = jax.jit(lambda w, x: model.stateless_call(*w, x, training=False)[0])
    detect = jax.jit(lambda w, x: model.decode_predictions(forward(w, x), x))
    decode = jax.jit(model.decode_predictions)
    picture = letterbox(case.photo, case.side, (114 / 255,))[0][None]
    out = forward(weights, picture)

    def predict() -> np.ndarray:
        square, place = letterbox(case.photo, case.side, (114 / 255,))
        found = jax.device_get(detect(weights, square[None]))
        return place.to_original(found["boxes"][0][: int(found["num_detections"][0])])

    words = ", 16 bit" if case.gpu else ""
    rows = {
        f"forward{words}": functools.partial(ready, forward, weights, picture),
        f"whole predict{words}": predict,
        "decode + NMS, predict rule": functools.partial(ready, decode, out, picture),
        "train step": keras_step(case, model),
    }
    return {"keras-cv": rows}


def keras_step(case: Case, model: Any) -> Callable[[], float]:
    import keras

    sgd = keras.optimizers.SGD(
        1e-4, momentum=0.937, nesterov=True, global_clipnorm=10.0, use_ema=True, ema_momentum=0.9999
    )
    model.compile(optimizer=sgd, box_loss="ciou", classification_loss="binary_crossentropy")
    sgd.build(model.trainable_variables)
    truth = {  # rows of -1 are its padding; ours are the first TRUTHS
        "boxes": jnp.asarray(case.batch.boxes_xyxy[:, :TRUTHS]),
        "classes": jnp.asarray(case.batch.labels[:, :TRUTHS], jnp.float32),
    }
    images = jnp.asarray(case.batch.images)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, images: Any, truth: Any) -> Any:
        trainable, fixed, slots = state

        def loss(trainable: Any) -> Any:
            out, moved = model.stateless_call(trainable, fixed, images, training=True)
            return model.compute_loss(images, truth, out), moved

        (total, moved), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        trainable, slots = sgd.stateless_apply(slots, grads, trainable)
        return (trainable, moved, slots), total

    parts = (model.trainable_variables, model.non_trainable_variables, sgd.variables)
    state = jax.tree.map(jnp.copy, tuple([v.value for v in part] for part in parts))

    def train() -> float:
        nonlocal state
        state, total = jax.block_until_ready(step(state, images, truth))
        return float(total)

    return train


PEERS = {"ultralytics": ultralytics_sides, "keras-cv": keras_sides}


def measure(case: Case, args: argparse.Namespace, notes: dict[str, str]) -> list[dict]:
    sides = {"jaxdet": jaxdet_rows(case)}
    for peer in args.peers:
        try:
            sides |= PEERS[peer](case, notes)
        except Exception as error:  # not installed, or not fit for this JAX or this memory
            notes[peer] = reason(error)
    found = []
    for row in sides["jaxdet"]:
        calls = {side: rows[row] for side, rows in sides.items() if row in rows}
        say(f"{case.size}: {row} ({', '.join(calls)})")
        times = in_turn(calls, args.repeats, args.limit)
        found.append({"size": case.size, "row": row, "sides": times})
    return found


def reason(error: Exception) -> str:
    return f"{NOT}: {type(error).__name__}: {str(error)[:200]}"


def in_turn(calls: Rows, repeats: int, limit_s: float) -> dict[str, Any]:
    """Times of every side in ms; a peer that fails is not measured, and says why.

    After `limit_s` no new round begins, but there are always three.
    """
    answers, first, times = {}, {}, {side: [] for side in calls}
    for side, call in list(calls.items()):
        try:
            first[side], answers[side] = timed(call)
            timed(call)
        except Exception as error:
            if side == "jaxdet":
                raise
            answers[side] = reason(error)
            times.pop(side)
    start = time.perf_counter()
    for turn in range(repeats):
        if turn >= 3 and time.perf_counter() - start > limit_s:
            break
        for side in list(times)[:: 1 if turn % 2 else -1]:
            time.sleep(PAUSE_S)
            elapsed, answers[side] = timed(calls[side])
            times[side].append(elapsed)
    return {
        side: {
            "median_ms": round(float(np.median(times[side])), 3),
            "min_ms": round(min(times[side]), 3),
            "first_ms": round(first[side], 1),
            "calls": len(times[side]),
            "answer": told(answers[side]),
        }
        if side in times
        else answers[side]
        for side in calls
    }


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    answer = call()
    return (time.perf_counter() - start) * 1e3, answer


def told(answer: Any) -> Any:
    """How many boxes were found, or the loss; None of a forward pass."""
    if isinstance(answer, Detections):
        return int((np.asarray(answer.labels) >= 0).sum())
    if isinstance(answer, dict) and "num_detections" in answer:
        return int(np.sum(answer["num_detections"]))
    if isinstance(answer, list):  # one array of boxes an image
        return sum(map(len, answer))
    if isinstance(answer, np.ndarray):
        return len(answer)
    return round(answer, 3) if isinstance(answer, float) else None


def first_calls(size: str, side: int, batch_size: int) -> list[dict]:
    """Tracing, compilation and one run in a new process: with an empty cache, and with its own."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        cache = {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        for kind in ("cold", "warm"):
            say(f"{size}: first calls, {kind}")
            words = f"--first-call --sizes {size} --side {side} --batch {batch_size}".split()
            done = subprocess.run(
                [sys.executable, __file__, *words],
                env=os.environ | cache,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            for row, ms in json.loads(done.stdout.splitlines()[-1]).items():
                sides = {"jaxdet": {"median_ms": ms, "min_ms": ms}}
                found.append({"size": size, "row": f"first {row}, {kind} cache", "sides": sides})
    return found


def first_call(size: str, side: int, batch_size: int, gpu: bool) -> dict[str, float]:
    """The first predict and the first train step of this process, in ms."""
    case = make_case(size, side, batch_size, gpu)
    detector = models.build(f"yolov8{size}", num_classes=CLASSES, **PREDICT)
    image = letterbox(case.photo, side, (114 / 255,))[0][None]
    variables = jax.device_put(case.variables)
    predict, _ = timed(lambda: ready(jax.jit(detector.detect), variables, image))
    train, _ = timed(jaxdet_step(case))
    return {"predict": round(predict, 1), "train step": round(train, 1)}


def merge(result: dict, file: pathlib.Path) -> None:
    """Takes the sides that are missing from an earlier result, each with the jaxdet beside it."""
    other = json.loads(file.read_text())
    for key in ("device", "cores"):
        same(file, key, other[key], result[key])
    for key in ("side", "batch", "train_dtype", "photo_hw"):
        same(file, key, other["settings"][key], result["settings"][key])
    theirs = {(r["size"], r["row"]): r["sides"] for r in other["rows"]}
    for row in result["rows"]:
        for side, times in theirs.get((row["size"], row["row"]), {}).items():
            if isinstance(times, dict) and not isinstance(row["sides"].get(side), dict):
                beside = times.get(
                    "jaxdet_ms", theirs[row["size"], row["row"]]["jaxdet"]["median_ms"]
                )
                row["sides"][side] = {**times, "jaxdet_ms": beside}
    told = {k: other[k] for k in ("date", "versions", "notes", "settings")}
    result["merged"].append({"file": file.name, **told})


def same(file: pathlib.Path, key: str, got: Any, wanted: Any) -> None:
    if got != wanted:
        raise ValueError(f"{file} was measured with {key} {got!r}, this run with {wanted!r}")


def ratios(rows: list[dict], names: list[str]) -> list[dict]:
    """Median of the peer over ours: above 1 we are faster."""
    found = []
    for row in rows:
        entry = {"size": row["size"], "row": row["row"]}
        for side in names:
            times, ours = row["sides"].get(side), row["sides"]["jaxdet"]["median_ms"]
            measured = isinstance(times, dict)
            entry[side] = (
                round(times["median_ms"] / times.get("jaxdet_ms", ours), 3) if measured else NOT
            )
        found.append(entry)
    return found


def table(rows: list[dict], found: list[dict], names: list[str]) -> str:
    head = f"{'':3}{'row':34}{'jaxdet ms':>12}" + "".join(f"{n + ' / ours':>30}" for n in names)
    lines = [head]
    for row, ratio in zip(rows, found, strict=True):
        line = f"{row['size']:3}{row['row']:34}{row['sides']['jaxdet']['median_ms']:12.2f}"
        for name in names:
            times = row["sides"].get(name)
            measured = isinstance(times, dict)
            cell = f"{times['median_ms']:.2f} ms = {ratio[name]:.2f} x" if measured else NOT
            line += f"{cell:>30}"
        lines.append(line)
    return "\n".join(lines)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments(gpu: bool) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["n", "s", "x"], choices=list("nsmlx"))
    parser.add_argument("--side", type=int, default=512, help="px, a multiple of 32")
    parser.add_argument("--batch", type=int, default=16 if gpu else 4, help="of the train step")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each side")
    parser.add_argument("--limit", type=float, default=180, help="seconds a row, three calls apart")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument(
        "--merge", nargs="*", type=pathlib.Path, default=[], help="results with other peers in them"
    )
    parser.add_argument("--out", type=pathlib.Path, help="JSON (default: results/ beside this)")
    parser.add_argument("--first-call", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    parallel.keep_memory()  # as the command line does, for every side that lives in this process
    gpu = jax.default_backend() == "gpu"
    args = arguments(gpu)
    if args.first_call:
        print(json.dumps(first_call(args.sizes[0], args.side, args.batch, gpu)))
        return
    result = describe(args, gpu)
    rows, notes = result["rows"], result["notes"]
    with tempfile.TemporaryDirectory() as settings:
        os.environ["YOLO_CONFIG_DIR"] = settings
        for size in args.sizes:
            case = make_case(size, args.side, args.batch, gpu)
            rows += measure(case, args, notes)
            del case
            gc.collect()
            jax.clear_caches()
            rows += first_calls(size, args.side, args.batch)
    for file in args.merge:
        merge(result, file)
    names = list(dict.fromkeys([*PEERS, *(s for row in rows for s in row["sides"])]))
    names.remove("jaxdet")
    result["ratios"] = ratios(rows, names)
    slug = re.sub(r"\W+", "_", result["device"].lower()).strip("_")
    out = args.out or pathlib.Path(__file__).parent / "results" / f"yolov8_{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(rows, result["ratios"], names))
    say(f"written to {out}")


def describe(args: argparse.Namespace, gpu: bool) -> dict[str, Any]:
    """All of the result but its numbers."""
    load, notes = os.getloadavg()[0], {}
    if load > 0.3 * cores():
        notes["load"] = f"not quiet: load average {load:.1f} at the start; do not use the numbers"
        say(notes["load"])
    return {
        "device": runs.device_name(),
        "cores": cores(),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "settings": {
            **{key: getattr(args, key) for key in ("sizes", "side", "batch", "repeats", "limit")},
            "photo_hw": list(PHOTO_HW),
            "classes": CLASSES,
            "truths": TRUTHS,
            "padded_truths": MOST,
            "train_dtype": "bfloat16" if gpu else "float32",
            "allocator": "glibc keeps freed memory (parallel.keep_memory), for all sides",
        },
        "notes": notes,
        "merged": [],
        "rows": [],
    }


if __name__ == "__main__":
    main()
