"""Link targets against the reference's and a raster by OpenCV; lesions from links by hand."""

import functools
import math

import cv2
import jax
import numpy as np
import pytest

from jaxdet.ops import components, links
from jaxdet.ops.components import NEIGHBOURS

# Inputs of the goldens (recipe.py): fractions of an image of 300 px.
TRUTHS = {
    "pl_target": ([[0.20, 0.30, 0.42, 0.55]], [[0.10, 0.12, 0.18, 0.21], [0.50, 0.45, 0.93, 0.88]]),
    "pl_target_overlap": ([[0.2, 0.2, 0.5, 0.5], [0.4, 0.4, 0.7, 0.6], [0.9, 0.0, 1.0, 0.1]],),
}
STATIC = ("shape", "stride", "border")
of_boxes = jax.jit(links.of_boxes, static_argnames=(*STATIC, "cover"))
of_lesions = jax.jit(links.of_lesions, static_argnames=STATIC)
SHARED = ("most", "pixel_threshold", "link_threshold", "min_cells", "score")
KNOBS = ("stride", "size", "score_threshold", "extent", *SHARED)
CELLS = {"stride": 4, "size": 48, "extent": "cells"}  # of 12 x 12 cells
decode = jax.jit(links.decode, static_argnames=KNOBS)
components_of = jax.jit(links.components_of, static_argnames=SHARED)


def check_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def padded(images, rows=4, dtype=np.float32):
    boxes, labels = np.zeros((len(images), rows, 4), dtype), np.full((len(images), rows), -1)
    for image, truths in enumerate(images):
        boxes[image, : len(truths)] = np.array(truths, dtype).reshape(-1, 4)
        labels[image, : len(truths)] = 0
    return boxes, labels


@pytest.mark.parametrize("border", ["official", "clean"])  # which these boxes do not tell apart
@pytest.mark.parametrize("name", TRUTHS)
def test_equals_the_reference(shared, name, border):
    golden = np.load(shared / "golden/gssd_golden_misc.npz")
    boxes, labels = padded(TRUTHS[name])
    told = of_boxes(boxes * np.float32(300), labels, shape=(75, 75), stride=4, border=border)
    np.testing.assert_array_equal(told.positive, golden[f"{name}/pixel"])
    np.testing.assert_array_equal(told.negative, golden[f"{name}/neg"])
    np.testing.assert_allclose(told.weight, golden[f"{name}/w"], rtol=1e-6)
    np.testing.assert_array_equal(np.moveaxis(told.links, -1, 1), golden[f"{name}/link"])


def raster(boxes, labels, shape, stride):
    """Cells of each real box, drawn as the reference draws them, [M, H, W]."""
    masks = np.zeros((len(boxes), *shape), np.uint8)
    for mask, (x0, y0, x1, y1), label in zip(masks, boxes.tolist(), labels, strict=True):
        if label >= 0:
            corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
            cells = [[int(int(x) / stride), int(int(y) / stride)] for x, y in corners]
            cv2.drawContours(mask, [np.array(cells, np.int32)], -1, 1, thickness=-1)
    return masks.astype(bool)


def by_hand(masks, border):
    """The targets of one image from the cells of its lesions, one cell at a time."""
    times, shape = masks.sum(axis=0), masks.shape[1:]
    alone = masks & (times == 1)
    areas = [area for area in alone.sum(axis=(1, 2)) if area]
    weight, linked = np.zeros(shape), np.zeros((*shape, 8), bool)
    for mask in alone:
        for y, x in np.argwhere(mask):
            weight[y, x] = sum(areas) / len(areas) / mask.sum()
            for k, (dy, dx) in enumerate(NEIGHBOURS):
                to = np.array([y - dy, x - dx])
                if border == "official":  # this cell is neighbour k of where it lands
                    to = np.clip(to, 0, np.array(shape) - 1)
                if (to >= 0).all() and (to < shape).all() and mask[tuple(to)]:
                    linked[(*to, k)] = True
    return times == 1, times == 0, weight, linked


def check_targets(told, masks, border):
    wanted = [by_hand(mask, border) for mask in masks]
    for ours, theirs in zip(told, zip(*wanted, strict=True), strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), np.stack(theirs), rtol=1e-6)


@pytest.mark.parametrize("border", ["official", "clean"])
@pytest.mark.parametrize(("shape", "stride"), [((9, 9), 4), ((6, 11), 2)])
def test_equals_a_raster(shape, stride, border):
    rng = np.random.default_rng(stride)
    size = np.array(shape[::-1]) * stride
    low = rng.uniform(-6, size - 2, (40, 3, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 16, (40, 3, 2))], -1).astype(np.float32)
    boxes[:10] = np.round(boxes[:10])
    labels = rng.integers(-1, 2, (40, 3))
    told = of_boxes(boxes, labels, shape=shape, stride=stride, border=border)
    masks = [raster(*image, shape, stride) for image in zip(boxes, labels, strict=True)]
    check_targets(told, masks, border)


def test_the_border_slip_shows_on_thin_lesions_at_the_edge():
    boxes, labels = padded([[[8, 0, 15, 2]], [[8, 8, 15, 10]]])  # two cells in a row
    clean, slip = (
        of_boxes(boxes, labels, shape=(5, 5), stride=4, border=b) for b in ("clean", "official")
    )
    right, below, below_left, left, below_right = 3, 5, 6, 7, 4
    assert np.flatnonzero(clean.links[0, 0, 2]).tolist() == [right]
    assert np.flatnonzero(clean.links[0, 0, 3]).tolist() == [left]
    assert np.flatnonzero(slip.links[0, 0, 2]).tolist() == [right, below_right, below]
    assert np.flatnonzero(slip.links[0, 0, 3]).tolist() == [below, below_left, left]
    np.testing.assert_array_equal(slip.links[1], clean.links[1])


def test_no_box_is_no_positive_cell():
    for boxes, labels in (padded([[]] * 2), padded([[]] * 2, rows=0)):
        told = of_boxes(boxes, labels, shape=(5, 6), stride=4)
        assert not np.asarray(told.positive).any() and np.asarray(told.negative).all()
        assert not np.asarray(told.weight).any() and not np.asarray(told.links).any()
        assert told.links.shape == (2, 5, 6, 8)


def test_a_box_over_everything():
    told = of_boxes(*padded([[[0, 0, 20, 20]]]), shape=(5, 5), stride=4, border="clean")
    assert np.asarray(told.positive).all() and not np.asarray(told.negative).any()
    np.testing.assert_array_equal(told.weight, np.ones((1, 5, 5)))
    assert np.asarray(told.links)[0, 1:-1, 1:-1].all()


def test_boxes_of_one_cell_that_touch_are_two():
    told = of_boxes(*padded([[[4, 4, 7, 7], [8, 4, 11, 7]]]), shape=(5, 5), stride=4)
    assert np.argwhere(told.positive[0]).tolist() == [[1, 1], [1, 2]]
    assert not np.asarray(told.links).any()
    np.testing.assert_array_equal(told.weight[0, 1, 1:3], [1, 1])


@pytest.mark.parametrize(
    ("middle", "official"),
    [(8, [[4, 8, 8, 12], [12, 8, 16, 12]]), (6, [[8, 8, 12, 12]])],
    ids=["between two cells", "within a cell"],
)
def test_boxes_that_touch(middle, official):
    """x1 of one is x0 of the other. What both cover is nobody's, by the reference's raster more."""
    boxes, labels = padded([[[4, 8, middle, 11], [middle, 8, 2 * middle - 4, 11]]])
    found = {}
    for cover in ("official", "touched"):
        told = of_boxes(boxes, labels, shape=(12, 12), stride=4, border="clean", cover=cover)
        boxes_found = said_and_found(told.positive[0], told.links[0])
        found[cover] = boxes_found.boxes_xyxy[np.asarray(boxes_found.labels) == 0].tolist()
        assert np.isfinite(np.asarray(told.weight)).all()
    assert found["official"] == official
    # Within a cell the two share it, and it is all that they have.
    assert found["touched"] == ([[4, 8, 8, 12], [8, 8, 12, 12]] if middle == 8 else [])


@pytest.mark.parametrize(("shape", "stride"), [((9, 9), 4), ((6, 11), 2)])
def test_touched_cells_are_those_of_the_box_as_a_mask(shape, stride):
    rng = np.random.default_rng(stride)
    side = min(shape) * stride
    low = rng.integers(0, side - 2, (40, 3, 2))
    boxes = np.minimum(np.concatenate([low, low + rng.integers(1, 16, (40, 3, 2))], -1), side)
    lesions = np.zeros((40, side, side), np.uint8)
    free = np.ones((40, 3), bool)
    for image, rows, whose in zip(lesions, boxes, free, strict=True):
        for i, (x0, y0, x1, y1) in enumerate(rows):
            whose[i] = not image[y0:y1, x0:x1].any()  # a pixel has one owner
            image[y0:y1, x0:x1] = i + 1 if whose[i] else image[y0:y1, x0:x1]
    labels = np.where(free, 0, -1)
    told = {"shape": shape, "stride": stride, "border": "clean"}
    check_same(
        of_boxes(boxes.astype(np.float32), labels, cover="touched", **told),
        of_lesions(lesions, **told),
    )


def test_every_lesion_weighs_the_same():
    boxes = [[0, 0, 11, 11], [20, 0, 20, 0], [0, 20, 39, 39], [8, 8, 20, 20], [9, 9, 10, 10]]
    told = of_boxes(*padded([boxes], rows=9), shape=(10, 10), stride=4)
    weight, positive = np.asarray(told.weight[0]), np.asarray(told.positive[0])
    masks = raster(np.array(boxes), np.zeros(5), (10, 10), 4)
    sums = [weight[mask & positive].sum() for mask in masks]
    # The last lies inside others and has no cell of its own.
    np.testing.assert_allclose(sums, [positive.sum() / 4] * 4 + [0], rtol=1e-6)


def test_equal_boxes_are_ignored():
    told = of_boxes(*padded([[[0, 0, 7, 7]] * 2]), shape=(3, 3), stride=4)
    assert not np.asarray(told.positive).any() and not np.asarray(told.weight).any()
    assert np.asarray(told.negative).sum() == 5


def test_broken_boxes_cover_nothing():
    rows = [[np.nan, 0, 8, 8], [0, 0, np.nan, 8], [400, 0, 500, 8], [16, 16, 2, 2]]
    told = of_boxes(*padded([rows]), shape=(5, 5), stride=4)
    assert np.asarray(told.negative).all()


@pytest.mark.parametrize("border", ["official", "clean"])
@pytest.mark.parametrize(("shape", "stride"), [((6, 6), 4), ((8, 9), 3)])
def test_masks_equal_their_cells(shape, stride, border):
    rng = np.random.default_rng(stride)
    lesions = np.zeros((12, 23, 23), np.uint8)
    for image in lesions[1:]:
        for i in rng.permutation(4):
            (y, x), (h, w) = rng.integers(0, 20, 2), rng.integers(1, 9, 2)
            image[y : y + h, x : x + w] = 255 if i == 3 else i + 1
    told = of_lesions(lesions, shape=shape, stride=stride, border=border)
    masks = np.zeros((12, 4, *shape), bool)
    for b, y, x in np.argwhere(lesions):
        masks[b, min(lesions[b, y, x], 4) - 1, y // stride, x // stride] = True
    check_targets(told, masks, border)
    assert not np.asarray(told.positive[0]).any() and np.asarray(told.negative[0]).all()


def test_a_mask_larger_than_the_cells():
    with pytest.raises(
        ValueError, match="less than a mask of 25 px; wanted at least 7 cells a side"
    ):
        links.of_lesions(np.zeros((1, 25, 25), np.uint8), shape=(6, 6), stride=4)


def test_a_mask_of_boxes_is_the_boxes():
    """Where boxes end within a cell, both ways to the targets agree."""
    boxes = np.array([[[1, 1, 9, 6], [13, 13, 22, 21]]], np.float32)
    lesions = np.zeros((1, 24, 24), np.uint8)
    lesions[0, 1:6, 1:9], lesions[0, 13:21, 13:22] = 1, 2
    boxes[0, 0, 2] -= 1  # x1 is taken for a pixel of the box
    labels = np.zeros((1, 2), np.int32)
    check_same(
        of_boxes(boxes, labels, shape=(6, 6), stride=4), of_lesions(lesions, shape=(6, 6), stride=4)
    )


def test_an_unknown_cover():
    with pytest.raises(Exception, match="cover"):
        links.of_boxes(*padded([[]]), shape=(3, 3), stride=4, cover="wrong")


def test_an_unknown_border():
    with pytest.raises(Exception, match="border"):
        links.of_boxes(*padded([[]]), shape=(3, 3), stride=4, border="wrong")


def logits_of(positive, joined, margin=5.0):
    """Logits that say so; [.., H, W] and [.., H, W, 8]."""
    pixels = np.stack([np.zeros(positive.shape), np.where(positive, margin, -margin)], -1)
    pairs = np.stack([np.zeros(joined.shape), np.where(joined, margin, -margin)], -1)
    return pixels.astype(np.float32), pairs.reshape(*positive.shape, 16).astype(np.float32)


def cells_of(*where):
    """12 x 12 cells (one shape, compiled once), all joined that touch."""
    cells = np.zeros((12, 12), bool)
    for rows, columns in where:
        cells[rows, columns] = True
    return cells, np.ones((12, 12, 8), bool)


def test_equals_the_lesions_of_the_reference(shared):
    """Four lesions, two of them parted by links alone; a slanted one has another box there."""
    golden = np.load(shared / "golden/gssd_golden_misc.npz")
    pixels, joins = (np.moveaxis(golden[f"decode/{what}"], 1, -1) for what in ("pixel", "link"))
    found = decode(pixels, joins, stride=4, size=300, most=10, score="pixels")
    assert found.boxes_xyxy.shape == (1, 10, 4)
    theirs = np.sort(golden["decode/boxes_0.2"][:, 0])[::-1]
    np.testing.assert_allclose(found.scores[0, :4], theirs, rtol=1e-6)
    # By their own cells the speck of one cell, whose neighbours are sure of none, is the first.
    by_cells = decode(pixels, joins, stride=4, size=300, most=10)
    assert (np.asarray(by_cells.boxes_xyxy[0, 0]) == found.boxes_xyxy[0, 3]).all()
    assert by_cells.scores[0, 3] > 0.87
    boxes = sorted(found.boxes_xyxy[0, :4].tolist())
    # Official corners are those of a rotated rectangle, and 78.99 is 78 then.
    wanted = golden["decode/boxes_0.2"][:, 1:]
    upright = [boxes[0], boxes[1], boxes[3]] - wanted[[0, 1, 3]]
    assert (upright >= 0).all() and (upright <= 1).all() and not upright[2].any()
    np.testing.assert_array_equal(boxes[2], [108, 144, 235, 239])  # the slanted bar itself
    assert found.labels[0].tolist() == [0] * 4 + [-1] * 6


@pytest.mark.parametrize("stride", [2, 4])
def test_a_score_by_pixels_is_the_mean_of_the_enlarged_map(stride):
    rng = np.random.default_rng(0)
    pixels = rng.normal(0, 3, (3, 9, 13, 2)).astype(np.float32)
    pixels[..., 0] += 5
    joins = np.tile(np.float32([-9, 9]), (3, 9, 13, 8))
    pixels[0, 4, 5] = np.nan  # in no lesion, and 0 to those beside it
    found = links.components_of(pixels, joins, most=60, score="pixels")
    labels, prob = jax.device_get(links.labelled(pixels, joins))
    for i, (rows, cells) in enumerate(zip(np.nan_to_num(prob), labels, strict=True)):
        large = cv2.resize(rows, (13 * stride, 9 * stride), interpolation=cv2.INTER_LINEAR)
        blocks = np.kron(cells, np.ones((stride, stride), int))
        wanted = [large[blocks == first].mean() for first in np.unique(cells[cells >= 0])]
        assert found.count[i] == len(wanted) > 3
        scores = np.asarray(found.scores[i, : len(wanted)])
        np.testing.assert_allclose(scores, np.sort(wanted)[::-1], rtol=1e-5)


@pytest.mark.parametrize("border", ["official", "clean"])
def test_what_is_told_is_found(border):
    """Targets said as logits give back the boxes, touching ones too."""
    truths = [[4, 4, 11, 19], [12, 4, 19, 19], [28, 0, 47, 7], [24, 24, 24, 24]]
    told = of_boxes(*padded([truths]), shape=(12, 12), stride=4, border=border)
    found = said_and_found(told.positive[0], told.links[0])
    cells = np.array(truths) // 4 * 4 + [0, 0, 4, 4]
    assert sorted(found.boxes_xyxy[:4].tolist()) == sorted(cells.tolist())
    assert found.labels.tolist() == [0] * 4 + [-1] * 2
    np.testing.assert_allclose(found.scores[:4], 1 / (1 + math.exp(-5)), rtol=1e-6)
    assert not np.asarray(found.boxes_xyxy[4:]).any()


def said_and_found(positive, joined):
    said = logits_of(np.asarray(positive), np.asarray(joined))
    return decode(*said, **CELLS, most=6)


def test_overlapping_boxes_are_parted():
    """The cells of both are nobody's: no link leads there, whatever the network calls them."""
    truths, alone = [[0, 0, 11, 11], [8, 8, 19, 19]], [[0, 0, 12, 12], [8, 8, 20, 20]]
    told = of_boxes(*padded([truths]), shape=(12, 12), stride=4)
    found = said_and_found(told.positive[0], told.links[0])
    assert sorted(found.boxes_xyxy[:2].tolist()) == alone and found.labels[2] == -1
    found = said_and_found(np.asarray(told.positive[0]).copy() | ~told.negative[0], told.links[0])
    # Nobody told what that cell is: called positive it is a lesion of its own.
    assert sorted(found.boxes_xyxy[:3].tolist()) == [alone[0], [8, 8, 12, 12], alone[1]]
    assert found.labels[3] == -1


def test_nothing_and_everything_positive():
    nothing = said_and_found(*cells_of())
    assert nothing.labels.tolist() == [-1] * 6
    assert not np.asarray(nothing.boxes_xyxy).any() and not np.asarray(nothing.scores).any()
    every = said_and_found(*cells_of(np.s_[:, :]))
    assert every.labels.tolist() == [0] + [-1] * 5
    assert every.boxes_xyxy[0].tolist() == [0, 0, 48, 48]


def test_more_lesions_than_room_are_counted():
    pixels, joins = logits_of(*cells_of(np.s_[::2, ::2]))
    pixels[4, 6, 1] = pixels[8, 2, 1] = 7
    found = decode(pixels, joins, **CELLS, most=6)
    wanted = [[24, 16, 28, 20], [8, 32, 12, 36], [0, 0, 4, 4], [8, 0, 12, 4]]
    assert found.boxes_xyxy[:4].tolist() == wanted and (found.labels == 0).all()
    assert components_of(pixels, joins, most=6).count == 36


def test_a_box_ends_at_its_last_px_or_behind_it():
    said = logits_of(*cells_of(np.s_[2:5, 1:3], np.s_[11, 11]))
    boxes = {
        extent: decode(*said, stride=4, size=46, most=3, extent=extent).boxes_xyxy.tolist()
        for extent in ("official", "cells")
    }
    assert boxes["cells"] == [[4, 8, 12, 20], [44, 44, 46, 46], [0] * 4]  # of 46 px
    assert boxes["official"] == [[4, 8, 11, 19], [44, 44, 45, 45], [0] * 4]


def test_what_is_not_sure_enough_can_be_dropped():
    pixels, joins = logits_of(*cells_of(np.s_[0, :3], np.s_[3, 3], np.s_[5, :2]))
    pixels[3, 3], pixels[5, :2] = [0, math.log(3)], [0, 0]  # sure by 3/4 and 1/2
    found = decode(pixels, joins, **CELLS, most=4, score_threshold=0.5)
    assert found.labels.tolist() == [0, 0, -1, -1]
    assert found.boxes_xyxy.tolist() == [[0, 0, 12, 4], [12, 12, 16, 16], [0] * 4, [0] * 4]
    np.testing.assert_allclose(found.scores[1:], [0.75, 0, 0], rtol=1e-6)


def test_small_lesions_can_be_dropped():
    said = logits_of(*cells_of(np.s_[0, :3], np.s_[3, 3], np.s_[5, :2]))
    lesions = components_of(*said, most=4, min_cells=2)
    assert lesions.count == 2 and lesions.sizes.tolist() == [3, 2, 0, 0]


@pytest.mark.parametrize(
    ("pixel", "link", "wanted"),
    [
        (0.5, 0.4, [-1, -1]),
        (0.49, 0.5, [0, 1]),
        (0.49, 0.49, [0, 0]),
        (0.0, 1.0, [0, 1]),
        (1.0, 0.0, [-1, -1]),
    ],
)
def test_both_thresholds_are_strict(pixel, link, wanted):
    said = logits_of(np.ones((1, 2), bool), np.ones((1, 2, 8), bool), margin=0.0)  # p = 0.5
    labels, prob = links.labelled(*said, pixel_threshold=pixel, link_threshold=link)
    assert labels.tolist() == [wanted] and prob.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("threshold", [-0.1, 80.0, math.nan])
@pytest.mark.parametrize("which", ["pixel_threshold", "link_threshold"])
def test_a_threshold_is_a_probability(which, threshold):
    with pytest.raises(ValueError, match=r"a probability in \[0, 1\]"):
        links.decode(*logits_of(*cells_of()), **CELLS, most=1, **{which: threshold})


def test_an_answer_of_nan_is_nothing():
    pixels, joins = logits_of(*cells_of(np.s_[:3, :3]))
    pixels[1], joins[2] = np.nan, np.nan
    found = decode(pixels, joins, **CELLS, most=6)
    assert found.labels.tolist() == [0] * 4 + [-1] * 2
    assert found.boxes_xyxy[0].tolist() == [0, 0, 12, 4]
    assert np.isfinite(found.scores).all()


def noise(*shape):
    rng = np.random.default_rng(3)
    draws = (rng.normal(size=(*shape, n)) for n in (2, 16))
    return [draw.astype(jax.numpy.bfloat16) for draw in draws]


def test_low_precision_is_read_in_float32():
    low = noise(12, 12)
    exact = (x.astype(np.float32) for x in low)
    check_same(decode(*low, **CELLS, most=6), decode(*exact, **CELLS, most=6))


def test_stacking_is_vmap_and_jit_is_eager():
    said = noise(3, 12, 12)
    plain = functools.partial(links.decode, **CELLS, most=6)
    found = decode(*said, **CELLS, most=6)
    check_same(found, jax.jit(jax.vmap(plain))(*said))
    for one, other in zip(found, plain(*said), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_neighbours_look_at_each_other():
    assert links.NEIGHBOURS is components.NEIGHBOURS
    for k, (dy, dx) in enumerate(NEIGHBOURS):
        assert NEIGHBOURS[(k + 4) % 8] == (-dy, -dx)
