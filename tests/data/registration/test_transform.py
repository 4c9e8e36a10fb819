import pickle

import cv2
import numpy as np
import pytest

from jaxdet.data.registration.transform import AIR_HU, Transform, identity


def moved(shape, x, y):
    return Transform(np.broadcast_to(np.float32([x, y]), (*shape, 2)))


def test_whole_shifts_move_pixels():
    image = np.random.default_rng(0).integers(-1000, 1000, (7, 9), np.int16)
    found = moved(image.shape, 2, -1).warp(image)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found[1:, :-2], image[:-1, 2:])
    assert (found[0] == AIR_HU).all() and (found[:, -2:] == AIR_HU).all()
    mask = (image > 0).astype(np.uint8) * 3
    np.testing.assert_array_equal(moved(mask.shape, 2, -1).warp_mask(mask)[1:, :-2], mask[:-1, 2:])
    assert not moved(mask.shape, 2, -1).warp_mask(mask)[0].any()


@pytest.mark.parametrize("kind", [np.int16, np.float32, np.uint8])
def test_a_smooth_field_is_that_of_opencv(kind):
    rng = np.random.default_rng(1)
    image = cv2.GaussianBlur(rng.uniform(0, 255, (40, 50)), (0, 0), 3).astype(kind)
    field = cv2.GaussianBlur(rng.normal(0, 30, (40, 50, 2)), (0, 0), 6).astype(np.float32)
    y, x = np.indices(image.shape).astype(np.float32)
    theirs = cv2.remap(
        image.astype(np.float32), x + field[..., 0], y + field[..., 1], cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT, borderValue=7,
    )  # fmt: skip
    ours = Transform(field).warp(image, outside=7)
    assert ours.dtype == kind
    # OpenCV rounds places to 1/32 px, and a whole type rounds values.
    np.testing.assert_allclose(ours, theirs, atol=1.5 if kind != np.float32 else 1.0)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64])
def test_the_identity_changes_nothing(kind):
    image = np.random.default_rng(0).integers(0, 2, (5, 6)).astype(kind)
    same = pickle.loads(pickle.dumps(identity(image.shape)))
    np.testing.assert_array_equal(same.warp_mask(image), image)
    assert same.warp_mask(image).dtype == kind
    noisy = Transform(np.full((5, 6, 2), -1e-6, np.float32))  # no air at the edge for a rounding
    hu = np.random.default_rng(0).integers(-50, 50, (5, 6), np.int16)
    np.testing.assert_array_equal(noisy.warp(hu), hu)


def test_other_shapes_and_values_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"a transform of slices \(5, 6\) got one of \(6, 5\)"):
        identity((5, 6)).warp_mask(np.zeros((6, 5), bool))
    with pytest.raises(ValueError, match="outside is -1024, which uint8 pixels cannot hold"):
        identity((5, 6)).warp(np.zeros((5, 6), np.uint8))
