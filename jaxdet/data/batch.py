"""From a dataset to batches of one fixed shape.

The order of an epoch and everything that happens to an image are pure functions of (seed, epoch,
index): no number of threads, processes or restarts changes a batch. A dataset is anything with
`len` and `dataset[i] -> Example`, its images uint8 or float32 in [0, 1].
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32, Int32, Int64, Shaped

from jaxdet.config import Data
from jaxdet.data import official, sources, ssd
from jaxdet.data.mosaic import mosaic_perspective
from jaxdet.data.transforms import (
    Letterbox,
    Sample,
    fit_long_side,
    flip_lr,
    flip_ud,
    letterbox,
    mixup,
    random_hsv,
    random_perspective,
)
from jaxdet.types import Batch, Example


@runtime_checkable
class Dataset(Protocol):
    """What this file reads from."""

    def __len__(self) -> int:
        """How many examples there are."""

    def __getitem__(self, index: int) -> Example:
        """One example, the same one each time."""


@functools.lru_cache(maxsize=4)
def order(seed: int, epoch: int, n: int) -> Int64[np.ndarray, "N"]:
    """The permutation in which epoch `epoch` (from 0) visits n examples. Read-only."""
    # A spawn key keeps this stream apart from the one of (seed, epoch, index=0).
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(0,)))
    permutation = rng.permutation(n)
    permutation.flags.writeable = False
    return permutation


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Batches that visit each of n examples at least once."""
    return -(-n // batch_size)


def train_sample(
    dataset: Dataset, cfg: Data, *, seed: int, epoch: int, index: int, mosaic: bool
) -> Sample:
    """Example `index` augmented for `epoch`: image_size x image_size, the same bytes each time.

    With `mosaic`, the probabilities of mosaic and mixup are those of the config, their partners
    drawn from the whole dataset with replacement; without it there is neither, and pipeline="ssd"
    has none of the two. More boxes than `cfg.max_boxes` are an error that names the images: none is
    ever left out silently. With `cfg.lesions` the masks come too, and an example that has only
    boxes is an error, as sources.check_lesions says.
    Departs: the reference draws partners from a buffer of recent images unless all are in memory;
    that would make a sample depend on what was read before it.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, index]))
    if cfg.pipeline == "ssd":
        sample, used = ssd.train(_read(dataset, cfg, index), cfg, rng), [index]
    else:
        sample, used = _joined(dataset, cfg, index, rng, mosaic)
    if len(sample.labels) > cfg.max_boxes:
        names = ", ".join(dataset[i].name for i in used)
        raise ValueError(_too_many(len(sample.labels), cfg.max_boxes, names))
    return sample


def pad_boxes(
    boxes_xyxy: Float32[np.ndarray, "N 4"], labels: Int32[np.ndarray, "N"], max_boxes: int
) -> tuple[Float32[np.ndarray, "M 4"], Int32[np.ndarray, "M"]]:
    """Boxes and labels at the fixed length `max_boxes`: zeros and -1 behind the real ones."""
    count = len(labels)
    if count > max_boxes:
        raise ValueError(_too_many(count, max_boxes, "one image"))
    boxes = np.zeros((max_boxes, 4), np.float32)
    padded = np.full(max_boxes, -1, np.int32)
    boxes[:count], padded[:count] = boxes_xyxy, labels
    return boxes, padded


def train_batches(
    dataset: Dataset,
    cfg: Data,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """The augmented batches of all epochs, from global step `start_step` on.

    `batch_size` counts all processes; this one gets its own block of batch_size / processes rows.
    The last batch of an epoch is filled from the start of the same permutation. Mosaic and mixup
    stop for the last `close_mosaic` epochs. An error in a thread comes out of `next` as itself.
    Grain's threads read ahead, so OpenCV is set to one thread a call, for the whole process.
    """
    n = len(dataset)
    if n == 0:
        raise ValueError("training wants at least one example; the training split is empty")
    if batch_size < 1 or batch_size % processes:
        raise ValueError(
            f"train.batch_size wants a positive multiple of the {processes} processes; "
            f"got {batch_size}"
        )
    rows, steps = batch_size // processes, steps_per_epoch(n, batch_size)

    def row(position: int) -> tuple[Sample, int]:
        step, local = divmod(position, rows)
        epoch, in_epoch = divmod(step, steps)
        place = in_epoch * batch_size + process * rows + local
        index = int(order(seed, epoch, n)[place % n])
        joining = epoch < epochs - cfg.augment.close_mosaic
        sample = train_sample(dataset, cfg, seed=seed, epoch=epoch, index=index, mosaic=joining)
        return sample, index

    def collate(items: Sequence[tuple[Sample, int]]) -> Batch:
        return _collate(*zip(*items, strict=True), cfg.max_boxes, rows)

    return read_ahead(row, start_step * rows, epochs * steps * rows, rows, collate, cfg.threads)


def eval_batches(
    dataset: Dataset, cfg: Data, *, batch_size: int
) -> Iterator[tuple[Batch, list[Letterbox]]]:
    """Every example once and in order, as `model_input` has it, with the place of each there.

    The last batch is filled with blank images of index -1; the list has no entry for those. Images
    smaller than `image_size` grow, as the reference's loader makes them before it letterboxes.
    An empty dataset gives no batch. Masks are for training: Batch.lesions is None here.
    Departs: one square shape where the reference batches by aspect ratio, and one resize of rounded
    sides where it rounds up, so that evaluation and prediction see the same pixels.
    """

    def row(index: int) -> tuple[Sample, int, Letterbox]:
        sample, place = letterboxed(dataset, cfg, index)
        if len(sample.labels) > cfg.max_boxes:
            raise ValueError(_too_many(len(sample.labels), cfg.max_boxes, dataset[index].name))
        return sample, index, place

    def collate(items: Sequence[tuple[Sample, int, Letterbox]]) -> tuple[Batch, list[Letterbox]]:
        samples, indices, places = zip(*items, strict=True)
        return _collate(samples, indices, cfg.max_boxes, batch_size), list(places)

    return read_ahead(row, 0, len(dataset), batch_size, collate, cfg.threads)


def read_ahead(
    row: Callable[[int], Any],
    start: int,
    stop: int,
    rows: int,
    collate: Callable[[Sequence[Any]], Any],
    threads: int,
) -> Iterator[Any]:
    """`collate` of every `rows` results of `row(start .. stop - 1)`, computed ahead by threads.

    The last may have fewer. OpenCV is set to one thread a call, for the whole process.
    """
    import grain  # loads JAX, which this room does without until batches are read

    if start >= stop:
        return iter(())
    cv2.setNumThreads(0)
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * rows, threads))
    rows_read = grain.MapDataset.range(start, stop).map(row).to_iter_dataset(ahead)
    return iter(rows_read.batch(rows, drop_remainder=False, batch_fn=collate))


def letterboxed(dataset: Dataset, cfg: Data, index: int) -> tuple[Sample, Letterbox]:
    """Example `index` as evaluation and prediction see it, and where it lies in its square.

    A ValueError names an image of other channels than cfg.channels, or neither uint8 nor float32,
    and those of `model_input`.
    """
    example = _example(dataset, cfg, index)
    image, place = model_input(example.image, cfg, example.name)
    boxes = place.from_original(example.boxes_xyxy)
    return Sample(image, boxes, example.labels.astype(np.int32)), place


def model_input(
    image: Shaped[np.ndarray, "H W C"], cfg: Data, name: str, multiple: int | None = None
) -> tuple[Shaped[np.ndarray, "S T C"], Letterbox]:
    """A whole image as it enters the model when nothing is augmented, and where it lies there.

    What a RUN is evaluated on is so what it predicts on. `multiple` as of `letterbox`. Of
    cfg.input="official" it is the square of `official.evaluate`: ValueError, with `name`, for an
    image that is no square.
    """
    if cfg.input == "official":
        return official.evaluate(image, cfg, name)
    return letterbox(image, cfg.image_size, cfg.pad, multiple=multiple)


def _joined(
    dataset: Dataset, cfg: Data, index: int, rng: np.random.Generator, mosaic: bool
) -> tuple[Sample, list[int]]:
    """A sample of pipeline="yolo", and which examples are in it."""
    augment = cfg.augment
    sample, used = _placed(dataset, cfg, index, rng, mosaic)
    if mosaic and rng.random() < augment.mixup:
        partner = int(rng.integers(len(dataset)))
        other, more = _placed(dataset, cfg, partner, rng, mosaic)
        sample, used = mixup(sample, other, rng), used + more
    sample = sample._replace(image=random_hsv(sample.image, augment, rng, cfg.maps))
    sample = flip_ud(sample) if rng.random() < augment.flip_ud else sample
    return (flip_lr(sample) if rng.random() < augment.flip_lr else sample), used


def _placed(
    dataset: Dataset, cfg: Data, index: int, rng: np.random.Generator, mosaic: bool
) -> tuple[Sample, list[int]]:
    """One example, or four joined, on the model's square after the affine; and which were read."""
    size, augment, pad = cfg.image_size, cfg.augment, cfg.pad
    if mosaic and rng.random() < augment.mosaic:
        used = [index, *rng.integers(len(dataset), size=3).tolist()]
        four = [_read(dataset, cfg, i) for i in used]
        return mosaic_perspective(four, size, augment, pad, rng), used
    sample = fit_long_side(_read(dataset, cfg, index), size)
    image, place = letterbox(sample.image, size, pad)
    sample = Sample(image, place.from_original(sample.boxes_xyxy), sample.labels)
    return random_perspective(sample, size, augment, pad, rng), [index]


def _read(dataset: Dataset, cfg: Data, index: int) -> Sample:
    example = _example(dataset, cfg, index)
    if cfg.input == "official":  # found before training, not at the first evaluation
        official.check_square(example.image, example.name)
    boxes, labels = example.boxes_xyxy.astype(np.float32), example.labels.astype(np.int32)
    if not cfg.lesions:
        return Sample(example.image, boxes, labels)
    sources.check_lesions(example)
    return Sample(example.image, boxes, labels, example.lesions)


def _example(dataset: Dataset, cfg: Data, index: int) -> Example:
    try:
        example = dataset[index]
    except Exception as error:
        error.add_note(f"while reading example {index} of the dataset")
        raise
    image = example.image
    if image.ndim != 3 or image.shape[2] != cfg.channels:
        raise ValueError(
            f"{example.name}: data.channels is {cfg.channels}, so [H, W, {cfg.channels}] "
            f"was wanted; the image is {list(image.shape)}"
        )
    if image.dtype not in (np.uint8, np.float32):
        raise ValueError(
            f"{example.name}: wanted uint8, or float32 in [0, 1]; the image is {image.dtype}. "
            "Set data.window_hu = (low, high) to bring its values to [0, 1]"
        )
    return example


def _too_many(count: int, max_boxes: int, names: str) -> str:
    return (
        f"{names}: {count} boxes in one picture, but data.max_boxes is {max_boxes}. "
        f"Set data.max_boxes to at least {count}; 4 times the most crowded image is always enough "
        "for mosaic, 8 times with mixup"
    )


def _collate(
    samples: Sequence[Sample], indices: Sequence[int], max_boxes: int, batch_size: int
) -> Batch:
    kinds = {s.image.dtype for s in samples}
    if len(kinds) != 1:
        raise ValueError(f"a batch wants images of one type; got {sorted(map(str, kinds))}")
    missing = batch_size - len(samples)
    truths = [pad_boxes(s.boxes_xyxy, s.labels, max_boxes) for s in samples]
    nothing = pad_boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), max_boxes)
    boxes, labels = zip(*truths, *[nothing] * missing, strict=True)
    index = np.array([*indices, *[-1] * missing], np.int32)
    images = _filled([s.image for s in samples], missing)
    masked = samples[0].lesions is not None
    lesions = _filled([s.lesions for s in samples], missing) if masked else None
    return Batch(images, np.stack(boxes), np.stack(labels), index, lesions)


def _filled(
    pictures: Sequence[Shaped[np.ndarray, "H W *C"]], missing: int
) -> Shaped[np.ndarray, "B H W *C"]:
    return np.stack([*pictures, *[np.zeros_like(pictures[0])] * missing])
