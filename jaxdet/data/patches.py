"""Slices cut into patches that are labelled, jittered and batched for the Siamese of PCA-YOLO.

    boxes -> labels of all n patches -> what an epoch visits -> chunks of P -> G chunks a batch

A batch holds G slices, each with P of its own patches, so that the tower of a slice is computed
once for all of them. Which patches an epoch visits, in which chunk, and how each is jittered are
pure functions of (seed, epoch, slice): no number of threads, processes or restarts changes a batch,
only another batch size or number of devices, which cut an epoch into other chunks.
Patches are row-major: number r * (S / m) + c covers [c m, (c + 1) m) x [r m, (r + 1) m) px.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64

from jaxdet.config import Data, Patches, check_side
from jaxdet.data.batch import Dataset, letterboxed, order, read_ahead
from jaxdet.data.transforms import Letterbox, resize, to_unit


class PatchBatch(NamedTuple):
    """G slices with P of their patches each; images are float32 in [0, 1]."""

    slices: Float32[np.ndarray, "G S S C"]
    patches: Float32[np.ndarray, "G P m m C"]
    labels: Float32[np.ndarray, "G P"]  # 1 where the patch holds a tumour, else 0
    weights: Float32[np.ndarray, "G P"]  # 1; 0 at a patch that only fills its row
    index: Int32[np.ndarray, "G"]  # of the slice in the dataset; -1: it only fills the batch


class Visits(NamedTuple):
    """What an epoch sees of one slice, in the order of its chunks. V may be 0."""

    patch: Int64[np.ndarray, "V"]  # number of the patch
    jittered: Bool[np.ndarray, "V"]


class Cut(NamedTuple):
    """A training split as batches of G slices with P patches each."""

    positive: Bool[np.ndarray, "N n"]  # which patches of each slice hold a tumour
    chunks: Int64[np.ndarray, "N"]  # of P patches, that each slice makes in every epoch
    slices: int  # G
    width: int  # P

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-int(self.chunks.sum()) // self.slices)


def check_square(place: Letterbox, name: str) -> None:
    """ValueError, with the slice's name, unless its height is its width.

    Letterboxed, it would have patches of padding, which are scored and enter the min-max.
    """
    if place.height != place.width:
        raise ValueError(
            f"{name}: PCA-YOLO and its Siamese take square slices, whose patches are all image;"
            f" this one is {place.height} x {place.width} (height x width). Crop it or pad it to a"
            " square first"
        )


def labels(boxes_xyxy: Float[np.ndarray, "M 4"], side: int, cfg: Patches) -> Bool[np.ndarray, "n"]:
    """Which patches of an image of `side` px hold a tumour, by the rule cfg.label.

    Each box counts by itself and by its part inside the image; one without area there marks
    nothing, and neither do no boxes. A centre on a border belongs to the patch right of it or
    below; a share or an overlap that is just met counts.
    Source: "contains any tumour" (PCA-YOLO, section 2.2); which overlap it means is not said.
    """
    check_side(side, cfg.side)
    x0, y0, x1, y1 = np.clip(boxes_xyxy.astype(np.float64), 0, side).T
    low = np.arange(0, side, cfg.side)
    high = low + cfg.side
    wide, tall = x1 > x0, y1 > y0
    if cfg.label == "centre":
        x, y = (x0 + x1)[:, None] / 2, (y0 + y1)[:, None] / 2
        columns, rows = (x >= low) & (x < high), (y >= low) & (y < high)
        hit = rows[:, :, None] & columns[:, None, :]
    else:
        widths = np.minimum(x1[:, None], high) - np.maximum(x0[:, None], low)
        heights = np.minimum(y1[:, None], high) - np.maximum(y0[:, None], low)
        shared = np.maximum(heights, 0)[:, :, None] * np.maximum(widths, 0)[:, None, :]
        least = {
            "any": cfg.min_overlap_px,
            "box_share": cfg.min_share * ((x1 - x0) * (y1 - y0))[:, None, None],
            "patch_share": cfg.min_share * cfg.side**2,
        }
        hit = (shared > 0) & (shared >= least[cfg.label])
    return (hit & (wide & tall)[:, None, None]).any(0).ravel()


def crop(image: Float32[np.ndarray, "H W C"], m: int) -> Float32[np.ndarray, "n m m C"]:
    """All patches of m px of a square image, row-major."""
    side, width, channels = image.shape
    if side != width:
        raise ValueError(f"patches are cut from square images [S, S, C]; got {list(image.shape)}")
    check_side(side, m)
    tiles = image.reshape(side // m, m, side // m, m, channels)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(-1, m, m, channels)


def jitter(
    patch: Float[np.ndarray, "m m C"], cfg: Patches, rng: np.random.Generator
) -> Float32[np.ndarray, "m m C"]:
    """The patch at a random scale and place, perhaps mirrored; a pure function of the generator.

    Resized by s ~ U(jitter_scale), bilinear, sides rounded to whole pixels; cut at a random place
    where larger than m, put at a random place and padded as `jitter_pad` says where smaller; then
    left becomes right with probability `jitter_flip`. Values stay in the range of the patch (zeros
    may join). The label goes on unchanged, even where a cut loses a tumour that only touched the
    patch. Source: standard scale jittering, Ghiasi 2021, in the patch's own pixels (facts 2.6).
    """
    m = patch.shape[0]
    scaled = max(round(m * float(rng.uniform(*cfg.jitter_scale))), 1)
    y, x = (int(v) for v in rng.integers(abs(scaled - m) + 1, size=2))
    flip = rng.random() < cfg.jitter_flip
    out = resize(patch.astype(np.float32), scaled, scaled)
    if scaled > m:
        out = out[y : y + m, x : x + m]
    elif scaled < m:
        out = _padded(out, (y, m - scaled - y), (x, m - scaled - x), patch, cfg)
    return np.ascontiguousarray(out[:, ::-1] if flip else out)


def shape(
    positive: Bool[np.ndarray, "N n"], cfg: Patches, batch_size: int, replicas: int = 1
) -> tuple[int, int]:
    """(G, P): slices a batch and patches of each, G * P at most `batch_size` patches.

    P is the share of one of the `replicas` (devices), or the most that an epoch visits of any slice
    where that is less; then several slices share it. G is a multiple of `replicas`.
    """
    if batch_size < replicas:
        raise ValueError(
            f"train.batch_size wants a patch for each of {replicas} devices; got {batch_size}"
        )
    share = batch_size // replicas
    patches = min(share, int(_counts(positive, cfg).max(initial=1)))
    return replicas * (share // patches), patches


def truth(dataset: Dataset, data: Data, cfg: Patches) -> Bool[np.ndarray, "N n"]:
    """Which patches of every slice hold a tumour, slices brought to data.image_size.

    Every slice is read once, because its size says where its boxes go. One that is not square is
    refused by name.
    """
    check_side(data.image_size, cfg.side)

    def one(index: int) -> np.ndarray:
        sample, place = letterboxed(dataset, data, index)
        if place.height != place.width:  # only then is it read again, for its name
            check_square(place, dataset[index].name)
        return labels(sample.boxes_xyxy, data.image_size, cfg)

    with ThreadPoolExecutor(max(data.threads, 1)) as readers:
        rows = list(readers.map(one, range(len(dataset))))
    return np.array(rows, bool).reshape(len(rows), (data.image_size // cfg.side) ** 2)


def cut(dataset: Dataset, data: Data, cfg: Patches, *, batch_size: int, replicas: int = 1) -> Cut:
    """How the slices of a training split are cut into batches.

    ValueError: no slice has a positive patch. A slice without one is legal.
    """
    positive = truth(dataset, data, cfg)
    _refuse_tumourless(dataset, data, cfg, positive)
    slices, width = shape(positive, cfg, batch_size, replicas)
    return Cut(positive, -(-_counts(positive, cfg) // width), slices, width)


def visits(
    positive: Bool[np.ndarray, "n"], cfg: Patches, *, seed: int, epoch: int, index: int
) -> Visits:
    """The patches of slice `index` that `epoch` visits, shuffled.

    All positives and `negative_share` of the negatives, drawn anew each epoch. append: and a
    jittered copy of jitter_positive of the positives and of jitter_negative of all negatives.
    online: no copies; these shares of the visited ones are jittered themselves. Numbers are rounded
    shares (a half to the even number), so they do not change from epoch to epoch.
    """
    # Spawn keys keep the streams of an epoch's order (0), of a slice (1) and of jitter (2) apart.
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, index], spawn_key=(1,)))
    found, healthy = np.flatnonzero(positive), np.flatnonzero(~positive)
    seen = _draw(rng, healthy, cfg.negative_share)
    plain = np.concatenate([found, seen])
    append = cfg.jitter_mode == "append"
    touched = [
        _draw(rng, found, cfg.jitter_positive),
        _draw(rng, healthy if append else seen, cfg.jitter_negative),
    ]
    if append:
        patch = np.concatenate([plain, *touched])
        jittered = np.arange(len(patch)) >= len(plain)
    else:
        patch, jittered = plain, np.isin(plain, np.concatenate(touched))
    shuffled = rng.permutation(len(patch))
    return Visits(patch[shuffled], jittered[shuffled])


def train_batches(
    dataset: Dataset,
    data: Data,
    cfg: Patches,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    replicas: int = 1,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
) -> Iterator[PatchBatch]:
    """The jittered patches of all epochs beside their slices, from global step `start_step` on.

    `batch_size` counts patches over all processes; `shape` says how many slices share them, for so
    many `replicas` (devices of all processes), and this process gets its own block of
    G / processes slices. All (slice, chunk) pairs of an epoch are visited in one random order; its
    last batch is filled from the start of that order. Slices are resized and not augmented.
    Crowds are not taught: what they cover is healthy here.
    ValueError: no positive patch at all, G that the processes cannot share, faulty images, one
    that is not square.
    """
    positive, counts, slices, width = found = cut(
        dataset, data, cfg, batch_size=batch_size, replicas=replicas
    )
    if slices % processes:
        raise ValueError(
            f"train.batch_size of {batch_size} patches makes batches of {slices} slices, which"
            f" {processes} processes cannot share: set it to a multiple of {processes * width}"
        )
    rows, total = slices // processes, int(counts.sum())
    steps, ends = found.steps, np.cumsum(counts)

    def row(position: int) -> PatchBatch:
        step, local = divmod(position, rows)
        epoch, in_epoch = divmod(step, steps)
        place = in_epoch * slices + process * rows + local
        pair = int(order(seed, epoch, total)[place % total])
        index = int(np.searchsorted(ends, pair, "right"))
        chunk = pair - int(ends[index] - counts[index])
        seen = visits(positive[index], cfg, seed=seed, epoch=epoch, index=index)
        image = _slice(dataset, data, index)
        rng = functools.partial(_generator, seed, epoch, index)
        here = _share(len(seen.patch), chunk, int(counts[index]))
        return _row(image, positive[index], seen, here, width, cfg, index, rng)

    return read_ahead(row, start_step * rows, epochs * steps * rows, rows, _stacked, data.threads)


def _counts(positive: np.ndarray, cfg: Patches) -> Int64[np.ndarray, "N"]:
    found = positive.sum(1)
    return np.array([_count(int(k), positive.shape[1] - int(k), cfg) for k in found], np.int64)


def _count(found: int, healthy: int, cfg: Patches) -> int:
    """How many patches `visits` has."""
    plain = found + round(cfg.negative_share * healthy)
    if cfg.jitter_mode == "online":
        return plain
    return plain + round(cfg.jitter_positive * found) + round(cfg.jitter_negative * healthy)


def _draw(rng: np.random.Generator, of: np.ndarray, share: float) -> np.ndarray:
    return rng.choice(of, round(share * len(of)), replace=False)


def _generator(seed: int, epoch: int, index: int, visit: int) -> np.random.Generator:
    sequence = np.random.SeedSequence([seed, epoch, index], spawn_key=(2, visit))
    return np.random.default_rng(sequence)


def _slice(dataset: Dataset, data: Data, index: int) -> Float32[np.ndarray, "S S C"]:
    return to_unit(letterboxed(dataset, data, index)[0].image)


def _share(visits: int, chunk: int, chunks: int) -> range:
    """The visits of one chunk: all chunks of a slice are alike, or steps of few pairs would weigh.

    Adam makes a step of one pair as long as one of sixteen.
    """
    return range(chunk * visits // chunks, (chunk + 1) * visits // chunks)


def _row(
    image: np.ndarray,
    positive: np.ndarray,
    seen: Visits,
    chunk: range,
    width: int,
    cfg: Patches,
    index: int,
    rng: Callable[[int], np.random.Generator],
) -> PatchBatch:
    """The visits numbered `chunk` beside their slice, padded to `width`."""
    tiles = crop(image, cfg.side)
    patches = np.zeros((width, *tiles.shape[1:]), np.float32)
    truths, weights = np.zeros((2, width), np.float32)
    for place, visit in enumerate(chunk):
        tile = tiles[seen.patch[visit]]
        patches[place] = jitter(tile, cfg, rng(visit)) if seen.jittered[visit] else tile
        truths[place], weights[place] = positive[seen.patch[visit]], 1
    return PatchBatch(image, patches, truths, weights, np.int32(index))


def _stacked(rows: Sequence[PatchBatch]) -> PatchBatch:
    return PatchBatch(*(np.stack(column) for column in zip(*rows, strict=True)))


def _padded(
    small: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], of: np.ndarray, cfg: Patches
) -> Float32[np.ndarray, "m m C"]:
    if cfg.jitter_pad in ("edge", "reflect"):
        return np.pad(small, (rows, columns, (0, 0)), cfg.jitter_pad)
    out = np.zeros(of.shape, np.float32)
    if cfg.jitter_pad == "mean":
        out += of.mean((0, 1))
    out[rows[0] : len(out) - rows[1], columns[0] : len(out) - columns[1]] = small
    return out


def _refuse_tumourless(dataset: Dataset, data: Data, cfg: Patches, positive: np.ndarray) -> None:
    if positive.any():
        return
    count = len(dataset)
    patients = len({dataset[i].patient for i in range(count)})
    fold = f" of fold {data.fold}" if data.split == "fold" else ""
    raise ValueError(
        f"the training split{fold} has no positive patch: none of the {positive.size} patches of"
        f" {count} slices of {patients} patients holds a tumour by the rule"
        f" patches.label={cfg.label!r}. Look at the boxes with `jaxdet data inspect`; draw another"
        " split (data.split_seed, data.fold); or lower patches.min_overlap_px or min_share"
    )
