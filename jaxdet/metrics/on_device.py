"""Matching as a jitted program on the device that predicts, with the host's answer exactly.

    tables -> groups of one image and class, padded to a few shapes -> overlaps, ranks, choices
           -> groups that are not sure -> matched again by `match` on the host

The device counts in float32, the protocols in float64 ("yolo": NumPy's float32). So every overlap
comes with a bound on how far it can lie from the host's, and a group is sure only if no decision in
it could come out otherwise: no overlap within its bound of a threshold, no two truths of one
detection closer together than their bounds. Ties, thresholds that are met exactly, tiny boxes far
from the origin and empty boxes on each other are not sure; of ordinary groups nearly all are.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Float32, Int, Int32

from jaxdet.metrics import match
from jaxdet.metrics.protocols import Protocol, exact_overlap, float32_overlap, plain_overlap
from jaxdet.metrics.rows import Found, Truth
from jaxdet.types import Array

# The host matches so many in some 0.1 s, a CPU as device in half of that; a program takes a second
# to compile, once in a process. A scorecard, which matches the same tables some 37 times, earns
# that back, as do the evaluations of a training; one average precision alone does not.
LEAST_PAIRS = 500_000
PAIRS = 1 << 18  # of detections and truths in one call: bounds its memory, some 30 bytes a pair
# A shape has a program where it holds more than this share of the work: no evaluation compiles more
# than four, and most of them one or two. The host does the rest.
SHARE = 0.2
MOST_PADDING = 6  # pairs in the tables for each piece of work; beyond, a CPU is faster without them
LEVELS = 10  # thresholds in one call; missing ones are never reached
CHOICES = 4  # truths among which a greedy detection may choose; with more its group is not sure
DETS, TRUTHS = (base * 4 ** np.arange(9) for base in (8, 4))  # what groups are padded to

# The overlap of a pair is q = I / U: I the shared area, U the area it is compared with. With u the
# relative error of one float32 operation:
#   a side is one subtraction (max and min are exact): u; an area, a product of two: 3u of itself;
#   U = A + B - I: 3u (A + B + I) + u (A + B) + u U <= 12u U, as A + B <= 2 U and I <= U;
#   q' - q = (dI - q dU) / U' <= 15u; division and the rounding of the threshold: 1u each (a few
#   more where a device divides less well); the sum that ranks truths: 4u. Together about 22u.
# Fused multiply-adds only leave roundings out. The host's float64 adds 2^-29; its float32 ("yolo")
# 17u more. 64u is generous.
ROUNDING = 64 * 2.0**-24
# Corners that float32 cannot hold move when they are cast, and a side by at most `slack` s. Then
#   dI <= s (w + h) + s^2 with the sides shared, dU <= s (P + w + h) + 3 s^2 with P all four sides,
#   and as w + h <= P / 2 together (dI + q dU) / U' <= (2 s P + 4 s^2) / U'.
LEAST_AREA = 2.0**-50  # px^2; the parts of a smaller U may underflow
FARTHEST = 2.0**40  # px; what lies beyond would overflow, so it is cut, which makes its slack huge

PADDING = (0, 0, 0, 0, -1)  # a row of boxes that are none: no real corner moves by -1

# Overlaps the device can count: does a crowd compare with the detection alone, what is added to U.
KINDS = {exact_overlap: (True, 0.0), plain_overlap: (False, 0.0), float32_overlap: (False, 1e-7)}


def find(
    dets: Found,
    truths: Truth,
    ignored: Bool[np.ndarray, "M"],
    thresholds: Float[np.ndarray, "T"],
    rules: Protocol,
    overlap: Literal["iou", "iobb"] = "iou",
) -> Int[np.ndarray, "D T"]:
    """Row of the truth that each detection takes at each threshold, or -1.

    Exactly what `rules.match` says of the pairs of `match.pairs`. `thresholds` are of the type
    `rules.number`, in any order; an equal overlap is enough. Empty tables find nothing. Groups too
    large for one call, or of a shape that does not pay, are matched on the host. ValueError where
    the rules are of an unknown kind.
    """
    if rules.overlap not in KINDS or rules.match not in (match.greedy, match.best_truth):
        known = ", ".join(kind.__name__ for kind in KINDS)
        raise ValueError(
            f"the device matches by greedy or best_truth, with {known}; "
            f"got {rules.match.__name__} with {rules.overlap.__name__}"
        )
    groups = _groups(dets, truths)
    columns = _columns(dets, truths, ignored, rules, overlap)
    parts = [slice(t, t + LEVELS) for t in range(0, len(thresholds), LEVELS)]
    shapes = _shapes(groups)
    calls = (_call(groups, members, shape, columns) for members, shape in _together(shapes))
    sent = ((call, part, _send(call, thresholds[part])) for call in calls for part in parts)
    found = np.full((len(dets.group), len(thresholds)), -1)
    unsure = [np.flatnonzero(shapes < 0)]
    for call, part, answer in _one_ahead(sent):
        truth, sure = _receive(call, answer)
        found[call.det_rows, part] = truth[:, : len(thresholds[part])]
        unsure.append(call.members[~sure])
    rows, others = _rows(groups, np.unique(np.concatenate(unsure)))
    found[rows] = _on_host(dets, truths, rows, others, ignored, thresholds, rules, overlap)
    return found


def worthwhile(dets: Found, truths: Truth) -> bool:
    """Whether there are enough pairs of one image and class to be worth a compilation."""
    pairs, images = 0, truths.image.max(initial=-1) + 1
    for label in np.unique(truths.labels):
        mine, true = (slice(*np.searchsorted(x.labels, [label, label + 1])) for x in (dets, truths))
        found = np.bincount(dets.image[mine], minlength=images)  # in each image
        pairs += found[truths.image[true]].sum()
    return bool(pairs >= LEAST_PAIRS)


def bounded_overlaps(
    boxes: Float32[Array, "B D 5"],
    truths: Float32[Array, "B M 5"],
    alone: Bool[Array, "B M"],
    extra: Float32[Array, ""],
) -> tuple[Float32[Array, "B D M"], Float32[Array, "B D M"]]:
    """Overlap of every pair, and how far from it the host's can lie (infinite: nothing is known).

    The last column of the boxes says how far a corner may lie elsewhere in truth; -1 there marks
    padding, whose overlap is -1 for certain (no threshold is so low). `alone`: truths that are
    compared with the area of the detection instead of the union. `extra` px^2 are added to what the
    shared area is divided by.
    """
    ax0, ay0, ax1, ay1, a_moved = jnp.moveaxis(boxes[:, :, None], -1, 0)
    bx0, by0, bx1, by1, b_moved = jnp.moveaxis(truths[:, None], -1, 0)
    aw, ah = jnp.maximum(ax1 - ax0, 0), jnp.maximum(ay1 - ay0, 0)
    bw, bh = jnp.maximum(bx1 - bx0, 0), jnp.maximum(by1 - by0, 0)
    w = jnp.maximum(jnp.minimum(ax1, bx1) - jnp.maximum(ax0, bx0), 0)
    h = jnp.maximum(jnp.minimum(ay1, by1) - jnp.maximum(ay0, by0), 0)
    shared, area = w * h, aw * ah
    whole = jnp.where(alone[:, None], area, area + bw * bh - shared) + extra
    known = whole >= LEAST_AREA
    whole, slack = jnp.where(known, whole, 1), 2 * jnp.maximum(a_moved, b_moved)
    bound = ROUNDING + slack * (2 * (aw + ah + bw + bh) + 4 * slack) / whole
    real = (a_moved >= 0) & (b_moved >= 0)
    bound = jnp.where(real, jnp.where(known, bound, jnp.inf), 0.0)
    return jnp.where(real, shared / whole, -1.0), bound


@functools.partial(jax.jit, static_argnames="choices")
def _match(
    boxes: Float32[Array, "B D 5"],  # see _Columns
    truths: Float32[Array, "B M 5"],
    flags: Bool[Array, "B M 3"],
    extra: Float32[Array, ""],
    levels: Float32[Array, "T"],
    choices: int,  # truths that a detection tries, in falling overlap
) -> tuple[Int32[Array, "B D T"], Bool[Array, "B"]]:
    """Position of the truth that each detection takes, or -1; and which groups are sure."""
    alone, last, endless = jnp.moveaxis(flags, -1, 0)
    overlap, bound = bounded_overlaps(boxes, truths, alone, extra)
    low, high = _reached(overlap - bound, levels), _reached(overlap + bound, levels)
    # Truths in the order in which they are tried: first those that are not `last`.
    rank = jnp.where(high != 0, overlap + jnp.where(last, 0.0, 2.0)[:, None], -1.0)
    top, truth = _largest(rank, min(choices + 1, rank.shape[-1]))
    apart = 2 * jnp.where(high != 0, bound, 0.0).max(-1, keepdims=True)
    clear = (top[..., 1:] < 0) | (top[..., :-1] - top[..., 1:] > apart)
    sure = (low == high).all((1, 2)) & clear.all((1, 2))
    if choices > 1:
        sure &= (top[..., choices:] < 0).all((1, 2))
    top, truth = top[..., :choices], truth[..., :choices]
    took = _take_turns(truth, _reached(jnp.where(top > 1.5, top - 2, top), levels), endless)
    at = took[..., None] >> jnp.arange(len(levels), dtype=jnp.int32) & 1
    return (at * (truth[..., None] + 1)).sum(2, dtype=jnp.int32) - 1, sure


def _largest(
    rank: Float32[Array, "B D M"], many: int
) -> tuple[Float32[Array, "B D K"], Int32[Array, "B D K"]]:
    """The largest, falling, and where they are; -1 where fewer are above it.

    One by one, as `lax.top_k` takes three times as long in such short rows on a CPU.
    """
    place, top, at = jnp.arange(rank.shape[-1], dtype=jnp.int32), [], []
    for _ in range(many):
        top.append(rank.max(-1))
        at.append(jnp.where(rank == top[-1][..., None], place, rank.shape[-1]).min(-1))
        rank = jnp.where(place == at[-1][..., None], -1.0, rank)
    return jnp.stack(top, -1), jnp.stack(at, -1)


def _reached(overlap: Float32[Array, "..."], levels: Float32[Array, "T"]) -> Int32[Array, "..."]:
    """The levels that are not above the overlap, one a bit."""
    met = (overlap[..., None] >= levels).astype(jnp.int32)
    return (met << jnp.arange(len(levels), dtype=jnp.int32)).sum(-1, dtype=jnp.int32)


def _take_turns(
    truth: Int32[Array, "B D K"], wants: Int32[Array, "B D K"], endless: Bool[Array, "B M"]
) -> Int32[Array, "B D K"]:
    """Which of its K truths each detection takes, where row after row takes what is still free.

    Sets of thresholds, one a bit: at which a truth is wanted, and at which it was taken.
    """
    group = jnp.arange(len(endless), dtype=jnp.int32)
    rows = [jnp.moveaxis(x, 0, -1) for x in (truth, wants)]

    def choice(state, of_truth):
        gone, still = state  # thresholds at which it is taken, and at which nothing is chosen yet
        mine, wanted = of_truth
        took = wanted & ~gone[group, mine] & still
        gone = gone.at[group, mine].add(jnp.where(endless[group, mine], 0, took))
        return (gone, still & ~took), took

    def turn(gone, row):
        (gone, _), took = lax.scan(choice, (gone, jnp.full(len(endless), -1, jnp.int32)), row)
        return gone, took

    return jnp.moveaxis(lax.scan(turn, jnp.zeros(endless.shape, jnp.int32), rows)[1], -1, 0)


class _Groups(NamedTuple):
    """Detections and truths of one image and class, G times; those without either are left out."""

    order: Int[np.ndarray, "D"]  # rows of all detections, group after group
    first_det: Int[np.ndarray, "G"]  # position in `order`
    dets: Int[np.ndarray, "G"]  # how many
    first_truth: Int[np.ndarray, "G"]  # row of the table of truths
    truths: Int[np.ndarray, "G"]


class _Columns(NamedTuple):
    """What the device is told of every detection and truth."""

    boxes: Float32[np.ndarray, "D 5"]  # xyxy, and how far casting moved a corner at most, px
    truths: Float32[np.ndarray, "M 5"]
    # Compared with the detection alone; only for who finds no other; taken any number of times.
    flags: Bool[np.ndarray, "M 3"]
    extra: np.float32  # px^2, added to what a shared area is divided by
    choices: int


class _Call(NamedTuple):
    """Groups in seats: what goes to the device, and where its answer belongs."""

    tables: tuple  # boxes, truths, flags and extra of `_match`
    choices: int
    members: Int[np.ndarray, "g"]  # which groups
    first_truth: Int[np.ndarray, "g"]
    det_rows: Int[np.ndarray, "n"]
    seat: Int[np.ndarray, "n"]  # of each detection
    place: Int[np.ndarray, "n"]  # in its seat


def _groups(dets: Found, truths: Truth) -> _Groups:
    # Image by image, each in the order of the table; small integers are sorted much faster.
    images = dets.image.astype(np.min_scalar_type(dets.image.max(initial=0)))
    order = np.argsort(images, kind="stable")
    group = dets.group[order]
    first = np.flatnonzero(np.diff(group, prepend=-1))
    count, low = np.diff(first, append=len(group)), np.searchsorted(truths.group, group[first])
    met = np.append(truths.group, -1)[low] == group[first]
    first, count, low = first[met], count[met], low[met]
    return _Groups(
        order, first, count, low, np.searchsorted(truths.group, group[first], "right") - low
    )


def _columns(
    dets: Found,
    truths: Truth,
    ignored: Bool[np.ndarray, "M"],
    rules: Protocol,
    overlap: Literal["iou", "iobb"],
) -> _Columns:
    crowd_alone, extra = KINDS[rules.overlap]
    alone = truths.crowd & crowd_alone | (overlap == "iobb")
    if rules.match is match.greedy:
        flags, choices = (alone, ignored, truths.crowd), CHOICES
    else:
        flags, choices = (alone, np.zeros_like(ignored), ignored | truths.crowd), 1
    boxes, true = (_cast(table.boxes_xyxy, rules.number) for table in (dets, truths))
    return _Columns(boxes, true, np.stack(flags, -1), np.float32(extra), choices)


def _cast(boxes_xyxy: Float[np.ndarray, "N 4"], number: type) -> Float32[np.ndarray, "N 5"]:
    """Boxes in float32, and how far a corner moved from where the host, in `number`, sees it."""
    seen = boxes_xyxy.astype(number)
    cast = np.clip(seen, -FARTHEST, FARTHEST).astype(np.float32)
    moved = functools.reduce(np.maximum, np.abs(seen - cast).T)[:, None]
    # The factor makes the cast of the distance round up. What was cut is beyond all bounds.
    moved = np.where(moved < FARTHEST, moved * (1 + 2.0**-20), np.inf)
    return np.concatenate([cast, moved.astype(np.float32)], axis=1)


def _shapes(groups: _Groups) -> Int[np.ndarray, "G"]:
    """Which shape each group is padded to, as a number; -1: too large, or better on the host."""
    dets, truths = (np.append(sizes, PAIRS + 1) for sizes in (DETS, TRUTHS))  # or no size at all
    rows = np.searchsorted(DETS, groups.dets), np.searchsorted(TRUTHS, groups.truths)
    shape, room = rows[0] * len(truths) + rows[1], np.outer(dets, truths).ravel()
    work = groups.dets * (groups.truths + 1)  # of the host: pairs, and something for each detection
    held, members = np.bincount(shape, work, len(room)), np.bincount(shape, minlength=len(room))
    worth = (room <= PAIRS) & (held > SHARE * work.sum()) & (members * room <= MOST_PADDING * held)
    return np.where(worth[shape], shape, -1)


def _together(
    shapes: Int[np.ndarray, "G"],
) -> Iterator[tuple[Int[np.ndarray, "g"], tuple[int, int, int]]]:
    """Groups of one call, and the shape (groups, detections, truths) of its tables."""
    for shape in np.unique(shapes[shapes >= 0]):
        d, m = int(DETS[shape // (len(TRUTHS) + 1)]), int(TRUTHS[shape % (len(TRUTHS) + 1)])
        members, seats = np.flatnonzero(shapes == shape), PAIRS // (d * m)
        for start in range(0, len(members), seats):
            yield members[start : start + seats], (seats, d, m)


def _call(
    groups: _Groups, members: Int[np.ndarray, "g"], shape: tuple[int, int, int], columns: _Columns
) -> _Call:
    seats, most_dets, most_truths = shape
    seat, place, row = _spread(groups.first_det[members], groups.dets[members])
    row = groups.order[row]
    boxes = np.tile(np.float32(PADDING), (seats, most_dets, 1))
    boxes[seat, place] = columns.boxes[row]
    first = groups.first_truth[members]
    true_seat, true_place, true_row = _spread(first, groups.truths[members])
    truths = np.tile(np.float32(PADDING), (seats, most_truths, 1))
    truths[true_seat, true_place] = columns.truths[true_row]
    flags = np.zeros((seats, most_truths, 3), bool)
    flags[true_seat, true_place] = columns.flags[true_row]
    tables = boxes, truths, flags, columns.extra
    return _Call(tables, columns.choices, members, first, row, seat, place)


def _spread(
    first: Int[np.ndarray, "g"], count: Int[np.ndarray, "g"]
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Seat, place there and row of all that the groups hold: `count` rows from `first` on."""
    seat = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(seat)) - np.repeat(np.cumsum(count) - count, count)
    return seat, place, first[seat] + place


def _send(call: _Call, thresholds: Float[np.ndarray, "T"]) -> tuple[Array, Array]:
    """Starts the device on a call and does not wait."""
    levels = np.full(LEVELS, np.inf, np.float32)
    levels[: len(thresholds)] = thresholds
    position, sure = _match(*call.tables, levels, choices=call.choices)
    return position, sure


def _one_ahead(items: Iterable[Any]) -> Iterator[Any]:
    """The same items, each when the next is made: the device counts while the host fills tables."""
    items = iter(items)
    waiting = list(itertools.islice(items, 1))
    for item in items:
        waiting.append(item)
        yield waiting.pop(0)
    yield from waiting


def _receive(
    call: _Call, answer: tuple[Array, Array]
) -> tuple[Int[np.ndarray, "n T"], Bool[np.ndarray, "g"]]:
    """Rows of the truths that the detections of a call take, or -1; which groups are sure."""
    position, sure = (np.asarray(part) for part in answer)
    position = position[call.seat, call.place]
    truth = np.where(position >= 0, call.first_truth[call.seat, None] + position, -1)
    return truth, sure[: len(call.members)]


def _rows(
    groups: _Groups, members: Int[np.ndarray, "g"]
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "m"]]:
    """Rows of the detections and of the truths of some groups, rising."""
    dets = _spread(groups.first_det[members], groups.dets[members])[2]
    truths = _spread(groups.first_truth[members], groups.truths[members])[2]
    return np.sort(groups.order[dets]), np.sort(truths)


def _on_host(
    dets: Found,
    truths: Truth,
    rows: Int[np.ndarray, "n"],
    others: Int[np.ndarray, "m"],
    ignored: Bool[np.ndarray, "M"],
    thresholds: Float[np.ndarray, "T"],
    rules: Protocol,
    overlap: Literal["iou", "iobb"],
) -> Int[np.ndarray, "n T"]:
    """What some rows take, in NumPy and in the numbers of the protocol."""
    some = Found(*(column[rows] for column in dets))
    true = Truth(*(column[others] for column in truths))
    measure = functools.partial(rules.overlap, over=overlap)
    floor = float(np.minimum(thresholds, match.ALMOST_ONE).min())
    pairs = match.pairs(some, true, measure, floor)
    taken = rules.match(pairs, some.group, ignored[others], true.crowd, thresholds)
    return np.append(others, -1)[taken]
