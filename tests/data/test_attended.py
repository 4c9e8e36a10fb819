"""Grey slices go in, slices with their map come out, and boxes still lie on their tumour."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxdet.config import Augment, Data
from jaxdet.data import attended as a
from jaxdet.data import batch as b
from jaxdet.data.sources import Dataset, Record
from jaxdet.data.transforms import letterbox

DATA = Data(image_size=64, channels=1, pad=(0.2,), max_boxes=8)
BOX = np.float32([[8, 4, 20, 12]])
SHAPES = ((32, 32), (64, 64), (100, 100))
GAINS = (2.0, 1.0, 0.64)


def record(i, **changes):
    plain = Record(f"slice {i}", f"p{i}", BOX, np.int32([0]), np.array([False]), np.float32([96]))
    return dataclasses.replace(plain, **changes)


def dataset(shapes=SHAPES, dtype=np.float32, channels=1, **changes):
    """Black slices with a white box each."""

    def pixels(i):
        image = np.zeros((*shapes[i], channels), dtype)
        image[4:12, 8:20] = 255 if dtype == np.uint8 else 1
        return image

    records = tuple(record(i, **changes) for i in range(len(shapes)))
    return Dataset(("tumour",), records, "train", {"clipped": 2}, pixels, cache={})


def chart(i):
    """The map of slice i: its number in the column, so that slices cannot be mistaken."""
    return np.tile(np.linspace(0, (i + 1) / 4, 64, dtype=np.float32), (64, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_an_image_is_the_slice_in_copies_and_its_map(copies, dtype):
    raw = dataset(dtype=dtype)
    got = a.attended(raw, DATA, copies, chart)
    assert len(got) == 3 and got.split == "train" and got.class_names == ("tumour",)
    assert got.faults == {"clipped": 2} and got.window is None
    for i in range(3):
        image = got[i].image
        assert image.shape == (64, 64, copies + 1) and image.dtype == np.float32
        grey, _ = letterbox(raw[i].image, 64, (0.2,))
        grey = grey / np.float32(255) if dtype == np.uint8 else grey
        for c in range(copies):
            np.testing.assert_array_equal(image[..., c], grey[..., 0])
        np.testing.assert_array_equal(image[..., -1], chart(i))


def test_boxes_are_scaled_with_their_slice():
    got = a.attended(dataset(), DATA, 1, chart)
    for i, gain in enumerate(GAINS):
        np.testing.assert_allclose(got[i].boxes_xyxy, BOX * gain, rtol=1e-6)
        (x0, y0, x1, y1) = got[i].boxes_xyxy[0]
        bright = got[i].image[..., 0] > 0.6
        ys, xs = np.nonzero(bright)
        seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        np.testing.assert_allclose([x0, y0, x1, y1], seen, atol=1)
        assert (x1 - x0) * (y1 - y0) == pytest.approx(96 * gain**2, rel=1e-5)
        np.testing.assert_allclose(got.records[i].area, 96 * gain**2, rtol=1e-5)


def test_everything_else_of_a_record_stays():
    known = {"pixel_mm": (0.8, 0.6), "diameters_mm": np.float32([9]), "crowd": np.array([True])}
    raw = dataset(**known)
    got = a.attended(raw, DATA, 3, chart)
    for i, (before, after) in enumerate(zip(raw.records, got.records, strict=True)):
        for field in ("name", "patient", "labels", "crowd", "diameters_mm", "phase"):
            assert getattr(before, field) is getattr(after, field)
        gain = GAINS[i]
        assert after.pixel_mm == pytest.approx((0.8 / gain, 0.6 / gain))
        assert got[i].boxes_xyxy.shape == (0, 4)  # a crowd is not taught
    assert a.attended(dataset(), DATA, 3, chart).records[0].pixel_mm is None


def test_slices_without_tumour_and_no_slices_are_legal():
    none = {"boxes_xyxy": np.zeros((0, 4), np.float32), "labels": np.int32([])}
    none |= {"crowd": np.zeros(0, bool), "area": np.float32([])}
    got = a.attended(dataset(**none), DATA, 1, chart)
    assert got[0].boxes_xyxy.shape == (0, 4) and got.records[0].area.shape == (0,)
    assert len(a.attended(dataset(shapes=()), DATA, 1, chart)) == 0


def test_reading_is_safe_from_several_threads():
    got = a.attended(dataset(), DATA, 3, chart)
    want = [got[i].image for i in range(3)]
    with ThreadPoolExecutor(4) as readers:
        images = list(readers.map(lambda i: got[i % 3].image, range(60)))
    assert all(np.array_equal(image, want[i % 3]) for i, image in enumerate(images))


def test_slices_that_are_not_square_are_refused():
    tall = dataset(shapes=((64, 64), (100, 50)))
    with pytest.raises(ValueError, match=r"slice 1: .* square slices.* 100 x 50 "):
        a.attended(tall, DATA, 3, chart)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_the_batches_of_the_detector_take_it_as_it_is(copies, dtype):
    got = a.attended(dataset(dtype=dtype), DATA, copies, chart)
    cfg = a.training_data(DATA, copies)
    (batch, places), *_ = b.eval_batches(got, cfg, batch_size=3)
    assert {place.gain for place in places} == {1.0}
    for i in range(3):
        np.testing.assert_array_equal(batch.images[i], got[i].image)
        np.testing.assert_array_equal(batch.boxes_xyxy[i, 0], got[i].boxes_xyxy[0])
    still = Augment(mosaic=0.0, translate=0.0, scale=0.0, flip_lr=1.0, hsv_v=0.4)
    cfg = dataclasses.replace(cfg, augment=still)
    sample = b.train_sample(got, cfg, seed=1, epoch=0, index=1, mosaic=False)
    np.testing.assert_array_equal(sample.image[..., -1], chart(1)[:, ::-1])  # no colour jitter
    value = np.unique(sample.image[..., :-1])  # of the grey ones: copies, so they stay grey
    assert len(value) == 2 and value[0] == 0 and 0.5 < value[1] < 0.99


def test_training_data_is_the_same_but_for_channels():
    windowed = dataclasses.replace(DATA, window_hu=(-25.0, 125.0))
    got = a.training_data(windowed, 3, map_pad=0.5)
    assert got.channels == 4 and got.maps == 1 and got.pad == (0.2, 0.2, 0.2, 0.5)
    assert got.window_hu is None  # the slices are in [0, 1] already
    assert (
        dataclasses.replace(got, channels=1, maps=0, pad=DATA.pad, window_hu=windowed.window_hu)
        == windowed
    )
    assert a.training_data(DATA, 1).pad == (0.2, 0.0)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (
            np.zeros((64, 32), np.float32),
            r"slice 1: its attention map is \[64, 32\]; .* \[64, 64\]",
        ),
        (np.full((64, 64), np.nan, np.float32), r"slice 1: .* from nan to nan; wanted .* \[0, 1\]"),
        (np.full((64, 64), 1.5, np.float32), r"slice 1: .* from 1\.5 to 1\.5"),
        (np.full((64, 64), -0.1, np.float32), r"slice 1: .* from -0\.1"),
    ],
)
def test_a_faulty_map_names_its_slice(bad, told):
    got = a.attended(dataset(), DATA, 3, lambda i: bad if i == 1 else chart(i))
    assert got[0].image.shape == (64, 64, 4)
    with pytest.raises(ValueError, match=told):
        got[1]


def test_raw_slices_want_one_channel():
    rgb = dataclasses.replace(DATA, channels=3, pad=(0.0,))
    with pytest.raises(ValueError, match=r"data\.channels is 3: set data\.channels=1"):
        a.training_data(rgb, 3)
    with pytest.raises(ValueError, match=r"set data\.channels=1"):
        a.attended(dataset(channels=3), rgb, 3, chart)
    with pytest.raises(ValueError, match=r"slice 0: data\.channels is 1, .* \[32, 32, 3\]"):
        a.attended(dataset(channels=3), DATA, 3, chart)
    with pytest.raises(ValueError, match="1 or more copies of the grey slice; got 0"):
        a.attended(dataset(), DATA, 0, chart)
