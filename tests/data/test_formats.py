import itertools

import cv2
import numpy as np
import pytest

from jaxdet.data import formats_coco, formats_voc, formats_yolo
from jaxdet.data.formats import Row, Truth, sound

NAMES = ("RBC", "weiße Zelle", "it's: #3")


def truth(boxes, labels, *, size=(480, 640), file="a b.png"):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    return Truth(
        file=file,
        height=size[0],
        width=size[1],
        boxes_xyxy=boxes,
        labels=np.array(labels, np.int32),
        crowd=np.zeros(len(boxes), bool),
        area=sides.prod(axis=1),
    )


def random_truth(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(20, 3000, 2))
    count = int(rng.integers(0, 12))
    corners = np.sort(rng.random((count, 2, 2)), axis=1) * [width, height]
    boxes = corners.reshape(-1, 4)
    boxes[: count // 2] = np.floor(boxes[: count // 2])  # whole pixels, some one pixel wide
    boxes[:, 2:] = np.minimum(np.maximum(boxes[:, 2:], boxes[:, :2] + 1), [width, height])
    boxes[:, :2] = np.minimum(boxes[:, :2], boxes[:, 2:] - 0.01)
    return truth(boxes, rng.integers(0, 3, count), size=(height, width))


def through_coco(folder, before):
    formats_coco.write(folder / "a.json", NAMES, [before])
    names, (after,) = formats_coco.read(folder / "a.json")
    assert names == NAMES
    return after


def through_voc(folder, before):
    formats_voc.write(folder / "a.xml", NAMES, before)
    return formats_voc.read(folder / "a.xml", NAMES)


def through_yolo(folder, before):
    formats_yolo.write(folder, NAMES, {"train": [before]})
    image = np.zeros((before.height, before.width), np.uint8)
    (folder / "images/train" / before.file).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    names, (after,) = formats_yolo.read(folder, "train")
    assert names == NAMES
    return after


@pytest.mark.parametrize("seed", range(8))
def test_boxes_survive_every_pair_of_formats(tmp_path, seed):
    before = random_truth(seed)
    ways = [through_coco, through_voc, through_yolo]
    for i, (first, second) in enumerate(itertools.product(ways, ways)):
        folder = tmp_path / str(i)
        folder.mkdir()
        middle = first(folder, before)
        after = second(
            folder, truth(middle.boxes_xyxy, middle.labels, size=(before.height, before.width))
        )
        for read in (middle, after):
            np.testing.assert_allclose(read.boxes_xyxy, before.boxes_xyxy, atol=1e-3)
            np.testing.assert_array_equal(read.labels, before.labels)
            assert (read.height, read.width) == (before.height, before.width)
            assert read.boxes_xyxy.dtype == np.float32 and not read.faults


BOXES = {
    "": (10.0, 10.0, 20.0, 20.0),
    "partly outside": (-5.0, 10.0, 20.0, 20.0),
    "outside": (700.0, 10.0, 720.0, 20.0),
    "inverted": (20.0, 10.0, 10.0, 20.0),
    "degenerate": (10.0, 10.0, 10.0, 20.0),
}


def rows():
    return [Row(box, i, f"a.txt:{i}") for i, box in enumerate(BOXES.values())]


@pytest.mark.parametrize("kind", [kind for kind in BOXES if kind])
def test_a_faulty_box_is_an_error_with_its_place(kind):
    row = next(row for row in rows() if row.box_xyxy == BOXES[kind])
    with pytest.raises(ValueError, match=rf"{row.where}: .* is {kind} in an image of 640 x 480"):
        sound("a.png", 480, 640, [row])


def test_faulty_boxes_are_clipped_or_dropped_and_counted():
    kinds = tuple(kind for kind in BOXES if kind)
    clipped = sound("a.png", 480, 640, rows(), "clip")
    assert clipped.labels.tolist() == [0, 1] and clipped.faults == kinds
    assert clipped.boxes_xyxy.tolist() == [[10, 10, 20, 20], [0, 10, 20, 20]]
    assert clipped.area.tolist() == [100, 200]
    dropped = sound("a.png", 480, 640, rows(), "drop")
    assert dropped.labels.tolist() == [0] and dropped.faults == kinds


@pytest.mark.parametrize("faulty", ["error", "clip", "drop"])
def test_nan_is_always_an_error(faulty):
    with pytest.raises(ValueError, match=r"a\.txt:3: a box with NaN"):
        sound("a.png", 480, 640, [Row((0.0, 0.0, float("nan"), 5.0), 0, "a.txt:3")], faulty)


def test_rounded_decimals_at_the_edge_are_no_fault():
    kept = sound("a.png", 480, 640, [Row((-0.005, 0.0, 640.01, 480.0), 0, "a")])
    assert kept.boxes_xyxy.tolist() == [[0, 0, 640, 480]] and not kept.faults


def test_an_image_without_rows_is_background():
    empty = sound("a.png", 480, 640, [])
    assert empty.boxes_xyxy.shape == (0, 4) and empty.labels.shape == empty.area.shape == (0,)
