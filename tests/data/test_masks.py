import cv2
import numpy as np
import pytest
from scipy import ndimage

from jaxdet.data import masks

EIGHT = np.ones((3, 3), int)


def blobs(seed, share=0.15, size=60):
    return (np.random.default_rng(seed).random((size, size)) < share).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_components_are_those_of_scipy(seed):
    mask = blobs(seed, 0.08)
    boxes, instances = masks.boxes_of(mask, smooth=False)
    labels, count = ndimage.label(mask, EIGHT)
    theirs = {(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)}
    assert len(boxes) == count and {tuple(box) for box in boxes.astype(int)} == theirs
    assert boxes.dtype == np.float32 and ((instances > 0) == (mask > 0)).all()
    for i, (y, x) in enumerate(ndimage.find_objects(instances)):
        assert boxes[i].tolist() == [x.start, y.start, x.stop, y.stop]  # number i + 1 is box i
        assert len(np.unique(labels[instances == i + 1])) == 1
    assert boxes[:, 1].tolist() == sorted(boxes[:, 1])


def test_smoothing_is_that_of_paper_2():
    mask = np.zeros((80, 80), np.uint8)
    mask[10:30, 12:40] = 1
    mask[18, 40:60] = 1  # a whisker
    mask[50:52, 50:52] = 1  # a speck
    mask[60:75, 5:25] = 1
    mask[66:68, 10:12] = 0  # a hole
    blurred = (ndimage.gaussian_filter(mask.astype(float), 2.0, truncate=2.5) >= 0.5).astype(int)
    square = np.ones((5, 5))
    theirs = ndimage.binary_closing(ndimage.binary_opening(blurred, square), square)
    boxes, instances = masks.boxes_of(mask)
    np.testing.assert_array_equal(instances > 0, theirs)
    np.testing.assert_array_equal(boxes, [[12, 10, 40, 30], [5, 60, 25, 75]])
    assert instances[67, 11] == 2


def test_smoothing_joins_and_components_do_not():
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 10:25], mask[10:30, 25:45] = 3, 7
    assert masks.boxes_of(mask).boxes_xyxy.tolist() == [[10, 10, 45, 30]]
    boxes, instances = masks.boxes_of(mask, smooth=False)
    assert boxes.tolist() == [[10, 10, 25, 30], [25, 10, 45, 30]]
    assert instances[20, 20] == 1 and instances[20, 30] == 2
    assert masks.touching(instances) == 2


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (7, 5), (40, 40)])
def test_without_a_lesion_there_is_no_box(smooth, shape):
    boxes, instances = masks.boxes_of(np.zeros(shape, bool), smooth)
    assert boxes.shape == (0, 4) and instances.shape == shape and not instances.any()
    assert masks.diameters_mm(instances, (1.0, 1.0)).shape == (0,)
    assert masks.touching(instances) == 0


def test_a_lesion_as_large_as_the_image_is_kept():
    boxes, instances = masks.boxes_of(np.ones((9, 7), np.int64))
    assert boxes.tolist() == [[0, 0, 7, 9]] and (instances == 1).all()


def test_noise_and_nan_are_refused():
    with pytest.raises(ValueError, match=r"a mask with \d+ lesions; wanted at most 255"):
        masks.boxes_of(blobs(0, 0.1, 200), smooth=False)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        masks.boxes_of(np.full((4, 4), np.nan))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 0.7), (0.5, 2.0)])
def test_diameters_are_the_farthest_corners(spacing):
    _, instances = masks.boxes_of(blobs(1, 0.12, 40), smooth=False)
    found = masks.diameters_mm(instances, spacing)
    for i, length in enumerate(found, 1):
        y, x = np.nonzero(instances == i)
        corners = np.concatenate(
            [np.stack([x + a, y + b], 1) for a in (0, 1) for b in (0, 1)]
        ) * np.array(spacing)
        every = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
        assert length == pytest.approx(every.max(), rel=1e-6)


def test_one_pixel_has_its_diagonal_and_a_disc_its_width():
    one = np.zeros((5, 5), np.uint8)
    one[2, 3] = 1
    assert masks.diameters_mm(one, (3.0, 4.0)).tolist() == [5.0]
    disc = cv2.circle(np.zeros((99, 99), np.uint8), (49, 49), 30, 2, -1)
    first, second = masks.diameters_mm(disc, (0.5, 0.5))
    assert np.isnan(first) and 30 < second < 31.5  # number 1 has no pixel
    assert np.isnan(masks.diameters_mm(one, (float("nan"), float("nan")))).all()
    for spacing in ((0.0, 1.0), (1.0, -1.0), (float("inf"), 1.0)):
        with pytest.raises(ValueError, match=r"wants spacings \(x, y\) above 0"):
            masks.diameters_mm(one, spacing)


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        (["12"], 2),
        (["1", "2"], 2),
        (["1.", ".2"], 2),
        ([".1", "2."], 2),
        (["1.2"], 0),
        (["1..", "..2"], 0),
        (["112", "..3"], 3),
        (["1.2", "...", "334"], 2),
        (["1"], 0),
    ],
)
def test_touching_counts_corners_too(rows, count):
    mask = np.array([[0 if c == "." else int(c) for c in row] for row in rows], np.uint8)
    assert masks.touching(mask) == count
    assert masks.touching(mask.T) == masks.touching(mask[::-1]) == count


def test_merged_lesions_of_a_binary_mask_are_counted_where_they_part():
    mask = np.zeros((60, 80), np.uint8)
    cv2.circle(mask, (15, 20), 8, 1, cv2.FILLED)  # alone
    assert masks.merged(mask) == 0
    cv2.circle(mask, (45, 20), 8, 1, cv2.FILLED)
    mask[19:21, 53:56] = 1  # a neck of two pixels to the third
    cv2.circle(mask, (63, 20), 8, 1, cv2.FILLED)
    assert masks.merged(mask) == 2 and len(masks.boxes_of(mask, smooth=False).boxes_xyxy) == 2
    cv2.circle(mask, (20, 45), 7, 1, cv2.FILLED)  # two that overlap a little
    cv2.circle(mask, (31, 45), 6, 1, cv2.FILLED)
    assert masks.merged(mask) == 4
    assert masks.merged(np.zeros((5, 5), np.uint8)) == 0
    assert masks.merged(np.ones((5, 5), np.uint8)) == 0
    instances = masks.boxes_of(mask, smooth=False).instances
    assert masks.merged(instances) == 4  # numbers are all lesion
