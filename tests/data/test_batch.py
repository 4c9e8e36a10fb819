"""Threads, processes and restarts change no batch: all hangs on (seed, epoch, index)."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdet.config import Data
from jaxdet.data import batch as b
from jaxdet.data import official, sources
from jaxdet.data.builders import store
from jaxdet.data.transforms import letterbox, to_unit
from jaxdet.train import parallel
from jaxdet.types import PHASES, Batch, CtSlice, Example

CFG = Data(image_size=48, channels=4, max_boxes=12, pad=(0.1, 0.2, 0.3, 0.4))
SEVERAL = {"seed": 3, "batch_size": 4, "epochs": 2}


class Images:
    """Random images of random sizes, `boxes` boxes each, made on the spot."""

    def __init__(
        self, n, boxes=2, dtype=np.uint8, faulty=None, channels=4, shape=None, masks=False
    ):
        self.n, self.boxes, self.dtype, self.faulty = n, boxes, dtype, faulty
        self.channels, self.shape, self.masks = channels, shape, masks

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index == self.faulty:
            raise OSError(f"scan{index}.png is truncated")
        rng = np.random.default_rng(index)
        height, width = self.shape or rng.integers(40, 70, 2)
        image = rng.random((height, width, self.channels))
        whole = self.dtype == np.uint8
        image = (255 * image).astype(np.uint8) if whole else image.astype(self.dtype)
        low = rng.integers(0, 20, (self.boxes, 2))
        boxes = np.hstack([low, low + rng.integers(8, 20, (self.boxes, 2))]).astype(np.float32)
        labels = rng.integers(0, 3, self.boxes).astype(np.int32)
        drawn = filled(boxes, height, width) if self.masks else None
        return Example(image, boxes, labels, f"scan{index}.png", f"patient{index}", drawn)


def filled(boxes, height, width):
    mask = np.zeros((height, width), np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(boxes.astype(int), 1):
        mask[y0:y1, x0:x1] = i
    return mask


def with_augment(cfg=CFG, **changes):
    return dataclasses.replace(cfg, augment=dataclasses.replace(cfg.augment, **changes))


def same(a, c):
    pairs = [(x, y) for x, y in zip(a, c, strict=True) if not (x is None and y is None)]
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in pairs)


def test_order_is_a_permutation_of_its_own():
    orders = [b.order(s, e, 50) for s, e in ((0, 0), (0, 1), (1, 0))]
    for permutation in orders:
        assert sorted(permutation.tolist()) == list(range(50))
    assert len({tuple(p.tolist()) for p in orders}) == 3
    b.order.cache_clear()
    np.testing.assert_array_equal(b.order(0, 1, 50), orders[1])
    with pytest.raises(ValueError, match="read-only"):
        orders[0][0] = 1
    assert b.order(0, 0, 0).tolist() == []


def test_order_and_augmentation_use_two_streams():
    plain = np.random.default_rng(np.random.SeedSequence([3, 1, 0])).permutation(50)
    assert not np.array_equal(b.order(3, 1, 50), plain)


@pytest.mark.parametrize(("n", "batch", "steps"), [(0, 4, 0), (1, 4, 1), (8, 4, 2), (9, 4, 3)])
def test_steps_per_epoch(n, batch, steps):
    assert b.steps_per_epoch(n, batch) == steps


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("mosaic", [True, False])
def test_a_sample_is_a_pure_function(mosaic, dtype):
    cfg, data = with_augment(mixup=0.5), Images(9, dtype=dtype)
    key = {"seed": 1, "epoch": 2, "index": 3}
    first = b.train_sample(data, cfg, **key, mosaic=mosaic)
    assert first.image.shape == (48, 48, 4) and first.image.dtype == dtype
    assert first.boxes_xyxy.dtype == np.float32 and first.labels.dtype == np.int32
    assert (first.boxes_xyxy >= 0).all() and (first.boxes_xyxy <= 48).all()
    assert same(first, b.train_sample(data, cfg, **key, mosaic=mosaic))
    for name in key:
        other = b.train_sample(data, cfg, **{**key, name: key[name] + 1}, mosaic=mosaic)
        assert not np.array_equal(first.image, other.image)


def test_without_mosaic_it_is_the_letterbox_under_the_affine():
    off = with_augment(translate=0.0, scale=0.0, flip_lr=0.0)
    data = Images(5, boxes=3, shape=(36, 60))  # 0.8 of it is 28.8 x 48, which rounds up to 29
    sample = b.train_sample(data, off, seed=0, epoch=0, index=2, mosaic=False)
    image, place = letterbox(data[2].image, 48, off.pad)
    np.testing.assert_array_equal(sample.image, image)
    want = data[2].boxes_xyxy * np.float32([0.8, 29 / 36] * 2) + np.float32([0, place.pad_y] * 2)
    np.testing.assert_allclose(sample.boxes_xyxy, want, atol=1e-4)


def test_probabilities_of_zero_and_one():
    data = Images(5)
    key = {"seed": 0, "epoch": 0, "index": 2, "mosaic": True}
    never = with_augment(mosaic=0.0, translate=0.0, scale=0.0, flip_lr=0.0)
    always = with_augment(mosaic=0.0, translate=0.0, scale=0.0, flip_lr=1.0, flip_ud=1.0)
    plain, turned = (b.train_sample(data, cfg, **key).image for cfg in (never, always))
    np.testing.assert_array_equal(turned, plain[::-1, ::-1])
    blended = with_augment(never, mixup=1.0)
    assert len(b.train_sample(data, blended, **key).labels) == 4


def test_partners_come_from_the_whole_dataset():
    class Flat(Images):
        def __getitem__(self, index):
            image = np.full((48, 48, 4), index + 1, np.uint8)
            return Example(image, np.zeros((0, 4), np.float32), np.int32([]), "flat", "p")

    cfg = with_augment(dataclasses.replace(CFG, pad=(0.0,)), scale=0.0, translate=0.0)
    seen = [
        np.unique(b.train_sample(Flat(200), cfg, seed=0, epoch=e, index=7, mosaic=True).image)
        for e in range(40)
    ]
    assert sum(8 in values for values in seen) > 30  # its own image, where it is in sight
    partners = set(np.concatenate(seen).tolist()) - {0, 8}
    assert len(partners) > 80 and max(partners) > 190 and min(partners) < 10


def test_pad_boxes():
    boxes, labels = b.pad_boxes(np.float32([[1, 2, 3, 4]]), np.int32([5]), 3)
    np.testing.assert_array_equal(boxes, [[1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert labels.tolist() == [5, -1, -1] and boxes.dtype == np.float32
    boxes, labels = b.pad_boxes(np.zeros((0, 4), np.float32), np.int32([]), 2)
    assert not boxes.any() and labels.tolist() == [-1, -1]
    with pytest.raises(ValueError, match=r"2 boxes in one picture, but data\.max_boxes is 1"):
        b.pad_boxes(np.zeros((2, 4), np.float32), np.int32([0, 0]), 1)


def test_too_many_boxes_name_the_images_and_the_field():
    cfg = with_augment(dataclasses.replace(CFG, max_boxes=9), scale=0.0, mosaic=0.0, mixup=1.0)
    with pytest.raises(ValueError, match=r"scan2\.png, scan\d\.png: \d+ .*data\.max_boxes is 9"):
        b.train_sample(Images(5, boxes=8), cfg, seed=0, epoch=0, index=2, mosaic=True)
    few = dataclasses.replace(CFG, max_boxes=1)
    with pytest.raises(ValueError, match=r"scan0\.png: 2 boxes .*at least 2"):
        list(b.eval_batches(Images(3), few, batch_size=2))


def test_batches_have_one_fixed_shape():
    got = list(b.train_batches(Images(10), CFG, **SEVERAL))
    assert len(got) == 6
    for batch in got:
        assert isinstance(batch, Batch)
        assert batch.images.shape == (4, 48, 48, 4) and batch.images.dtype == np.uint8
        assert batch.boxes_xyxy.shape == (4, 12, 4) and batch.boxes_xyxy.dtype == np.float32
        assert batch.labels.shape == (4, 12) and batch.labels.dtype == np.int32
        assert (batch.boxes_xyxy[batch.labels < 0] == 0).all()
    first, last = b.order(3, 0, 10), got[2].index.tolist()
    assert np.concatenate([g.index for g in got[:2]]).tolist() == first[:8].tolist()
    assert last == [*first[8:], *first[:2]]


def test_a_row_is_the_sample_of_its_index():
    data = Images(6)
    for step, batch in enumerate(b.train_batches(data, with_augment(close_mosaic=1), **SEVERAL)):
        epoch = step // 2
        assert batch.lesions is None
        for image, boxes, labels, index in zip(*batch[:4], strict=True):
            want = b.train_sample(
                data, CFG, seed=3, epoch=epoch, index=int(index), mosaic=epoch < 1
            )
            np.testing.assert_array_equal(image, want.image)
            np.testing.assert_array_equal(labels[labels >= 0], want.labels)
            np.testing.assert_array_equal(boxes[labels >= 0], want.boxes_xyxy)


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_threads_change_nothing(threads):
    want = list(b.train_batches(Images(10), CFG, **SEVERAL))
    cfg = dataclasses.replace(CFG, threads=threads)
    got = list(b.train_batches(Images(10), cfg, **SEVERAL))
    assert len(got) == len(want) and all(map(same, got, want))


@pytest.mark.parametrize("start", [1, 3, 5, 6, 9])
def test_a_restart_goes_on_as_the_straight_run(start):
    want = list(b.train_batches(Images(10), CFG, **SEVERAL))[start:]
    got = list(b.train_batches(Images(10), CFG, **SEVERAL, start_step=start))
    assert len(got) == len(want) and all(map(same, got, want))


def test_processes_share_one_global_batch():
    whole = b.train_batches(Images(7), CFG, **SEVERAL)
    parts = [b.train_batches(Images(7), CFG, **SEVERAL, process=p, processes=2) for p in range(2)]
    for want, one, two in zip(whole, *parts, strict=True):
        assert len(one.index) == len(two.index) == 2
        assert one.lesions is two.lesions is None
        halves = zip(one[:4], two[:4], strict=True)
        assert same([np.concatenate(pair) for pair in halves], want[:4])


def test_a_dataset_smaller_than_the_batch_fills_it_in_turn():
    (batch,) = b.train_batches(Images(3), CFG, batch_size=8, epochs=1, seed=0)
    assert batch.index.tolist() == np.resize(b.order(0, 0, 3), 8).tolist()


def test_float_images_stay_float():
    batch = next(b.train_batches(Images(3, dtype=np.float32), CFG, **SEVERAL))
    assert batch.images.dtype == np.float32 and batch.images.max() <= 1


def test_a_broken_file_stops_training_with_its_own_error():
    with pytest.raises(OSError, match=r"scan5\.png is truncated") as caught:
        list(b.train_batches(Images(10, faulty=5), CFG, **SEVERAL))
    assert any("example 5" in note for note in caught.value.__notes__)


def test_wrong_channels_and_types_name_the_image():
    with pytest.raises(ValueError, match=r"scan\d\.png: data.channels is 4, .* is \[\d+, \d+, 3\]"):
        next(b.train_batches(Images(4, channels=3), CFG, **SEVERAL))
    with pytest.raises(ValueError, match=r"scan0\.png: wanted uint8, or float32 .* is uint16"):
        next(b.eval_batches(Images(4, dtype=np.uint16), CFG, batch_size=2))


def test_impossible_batches_are_refused():
    with pytest.raises(ValueError, match="at least one example; the training split is empty"):
        b.train_batches(Images(0), CFG, **SEVERAL)
    with pytest.raises(ValueError, match="multiple of the 3 processes; got 4"):
        b.train_batches(Images(5), CFG, **SEVERAL, processes=3)


def test_evaluation_sees_every_example_once_and_in_order():
    data = Images(5)
    got = list(b.eval_batches(data, CFG, batch_size=2))
    assert [batch.index.tolist() for batch, _ in got] == [[0, 1], [2, 3], [4, -1]]
    assert [len(places) for _, places in got] == [2, 2, 1]
    last, _ = got[-1]
    assert not last.images[1].any() and (last.labels[1] == -1).all()
    assert not last.boxes_xyxy[1].any()
    for batch, places in got:
        for k, place in enumerate(places):
            example = data[int(batch.index[k])]
            np.testing.assert_array_equal(batch.images[k], letterbox(example.image, 48, CFG.pad)[0])
            back = place.to_original(batch.boxes_xyxy[k][batch.labels[k] >= 0])
            np.testing.assert_allclose(back, example.boxes_xyxy, atol=1e-3)


def test_evaluation_of_nothing_is_no_batch():
    assert list(b.eval_batches(Images(0), CFG, batch_size=2)) == []


SSD = dataclasses.replace(CFG, pipeline="ssd")
OFFICIAL = dataclasses.replace(SSD, input="official")


@pytest.mark.parametrize("cfg", [SSD, OFFICIAL])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_ssd_sample_is_a_pure_function(cfg, dtype):
    data, key = Images(9, dtype=dtype, shape=(50, 50)), {"seed": 1, "epoch": 2, "index": 3}
    first = b.train_sample(data, cfg, **key, mosaic=True)
    assert first.image.shape == (48, 48, 4) and first.image.dtype == np.float32
    assert first.image.min() >= 0 and first.image.max() <= 1 and len(first.labels) >= 1
    assert same(first, b.train_sample(data, cfg, **key, mosaic=False))  # it has none
    for name in key:
        other = b.train_sample(data, cfg, **{**key, name: key[name] + 1}, mosaic=True)
        assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("cfg", [SSD, OFFICIAL])
def test_ssd_batches_hang_on_no_thread_and_no_restart(cfg):
    data = Images(6, shape=(50, 50))
    want = list(b.train_batches(data, cfg, **SEVERAL))
    assert len(want) == 4 and all(batch.images.shape == (4, 48, 48, 4) for batch in want)
    more = dataclasses.replace(cfg, threads=4)
    assert all(map(same, b.train_batches(data, more, **SEVERAL, start_step=1), want[1:]))


def test_settings_of_the_ssd_pipeline_leave_the_other_alone():
    ssd = dataclasses.replace(CFG.ssd, photometric="none", crop="iou", expand=3.0, jitter=0.2)
    other = dataclasses.replace(CFG, ssd=ssd, official_mean=0.5, official_filter="nearest")
    for index in range(4):
        key = {"seed": 0, "epoch": 1, "index": index, "mosaic": True}
        one, two = (b.train_sample(Images(5), cfg, **key) for cfg in (CFG, other))
        assert same(one, two)


def test_clean_evaluation_is_the_letterbox_for_both_pipelines():
    for one, two in zip(
        b.eval_batches(Images(3), CFG, batch_size=2),
        b.eval_batches(Images(3), SSD, batch_size=2),
        strict=True,
    ):
        assert same(one[0], two[0]) and one[1] == two[1]


def test_training_without_augmentation_sees_what_evaluation_sees():
    off = dataclasses.replace(SSD.ssd, photometric="none", expand=1.0, crop="none", mirror=0.0)
    cfg = dataclasses.replace(SSD, ssd=off)
    for dtype in (np.uint8, np.float32):
        data = Images(3, dtype=dtype, shape=(80, 80))
        taught = b.train_sample(data, cfg, seed=0, epoch=0, index=1, mosaic=False)
        seen, _ = b.letterboxed(data, cfg, 1)
        np.testing.assert_array_equal(taught.image, to_unit(seen.image))
        np.testing.assert_allclose(taught.boxes_xyxy, seen.boxes_xyxy, rtol=1e-6)


def test_official_evaluation_and_prediction_see_the_same():
    data = Images(3, shape=(50, 50))
    (batch, places), _ = b.eval_batches(data, OFFICIAL, batch_size=2)
    for k, place in enumerate(places):
        example = data[int(batch.index[k])]
        want, where = official.evaluate(example.image, OFFICIAL, "one")
        np.testing.assert_array_equal(batch.images[k], want)
        seen, alone = b.model_input(example.image, OFFICIAL, "one", multiple=32)
        np.testing.assert_array_equal(seen, want)
        assert alone == where == place
        back = place.to_original(batch.boxes_xyxy[k][batch.labels[k] >= 0])
        np.testing.assert_allclose(back, example.boxes_xyxy, atol=1e-3)


def test_prediction_may_see_a_rectangle_where_the_input_is_clean():
    image = Images(1, shape=(30, 48))[0].image
    seen, _ = b.model_input(image, SSD, "one", multiple=32)
    np.testing.assert_array_equal(seen, letterbox(image, 48, CFG.pad, multiple=32)[0])


def test_the_official_input_refuses_oblong_images_by_name():
    data = Images(3, shape=(50, 52))
    message = r"scan1\.png: .*square ones only; this one is 50 x 52"
    with pytest.raises(ValueError, match=message):
        b.train_sample(data, OFFICIAL, seed=0, epoch=0, index=1, mosaic=False)
    with pytest.raises(ValueError, match=message):
        b.letterboxed(data, OFFICIAL, 1)


MASKED = dataclasses.replace(SSD, source="tfds", lesions=True)
MASKED_OFFICIAL = dataclasses.replace(MASKED, input="official")


@pytest.mark.parametrize("cfg", [MASKED, MASKED_OFFICIAL])
def test_masks_are_numbered_as_the_padded_boxes(cfg):
    data, cut = Images(6, boxes=4, shape=(50, 50), masks=True), 0
    for batch in b.train_batches(data, cfg, **SEVERAL):
        assert batch.lesions.shape == (4, 48, 48) and batch.lesions.dtype == np.uint8
        for mask, boxes, labels in zip(batch.lesions, batch.boxes_xyxy, batch.labels, strict=True):
            count = int((labels >= 0).sum())
            assert mask.max() <= count and (count == 0 or mask.any())
            cut += 4 - count
            for number in np.unique(mask[mask > 0]):
                rows, columns = np.nonzero(mask == number)
                x0, y0, x1, y1 = boxes[number - 1]
                assert x0 - 0.51 <= columns.min() and columns.max() + 1 <= x1 + 0.51
                assert y0 - 0.51 <= rows.min() and rows.max() + 1 <= y1 + 0.51
    assert cut > 5


@pytest.mark.parametrize("cfg", [MASKED, MASKED_OFFICIAL])
def test_masks_hang_on_no_thread_and_no_restart_and_change_nothing_else(cfg):
    data = Images(6, shape=(50, 50), masks=True)
    want = list(b.train_batches(data, cfg, **SEVERAL))
    more = dataclasses.replace(cfg, threads=4)
    assert all(map(same, b.train_batches(data, more, **SEVERAL, start_step=1), want[1:]))
    off = dataclasses.replace(cfg, lesions=False)
    for bare, batch in zip(b.train_batches(data, off, **SEVERAL), want, strict=True):
        assert bare.lesions is None and same(bare[:4], batch[:4])


def test_a_row_has_the_mask_of_its_index():
    data = Images(5, masks=True)
    for step, batch in enumerate(b.train_batches(data, MASKED, **SEVERAL)):
        for mask, index in zip(batch.lesions, batch.index, strict=True):
            key = {"seed": 3, "epoch": step // 2, "index": int(index), "mosaic": False}
            np.testing.assert_array_equal(mask, b.train_sample(data, MASKED, **key).lesions)


def test_evaluation_has_no_masks():
    for batch, _ in b.eval_batches(Images(3, masks=True), MASKED, batch_size=2):
        assert batch.lesions is None


@pytest.mark.parametrize("cfg", [SSD, MASKED])
def test_batches_with_and_without_masks_go_to_the_devices(cfg):
    size = 2 * jax.local_device_count()
    data = Images(4, masks=True)
    (batch,) = b.train_batches(data, cfg, batch_size=size, epochs=1, seed=0)
    (there,) = parallel.prefetch([batch])
    back = parallel.join(there)
    assert isinstance(back, Batch) and same(back, batch) and back.images.shape[0] == size


def test_masks_that_are_asked_for_must_be_there_and_fit():
    key = {"seed": 0, "epoch": 0, "index": 1, "mosaic": False}
    with pytest.raises(ValueError, match=r"scan1\.png: data\.lesions asks .* has only boxes"):
        b.train_sample(Images(3), MASKED, **key)

    def faulty(change):
        class Faulty(Images):
            def __getitem__(self, index):
                example = super().__getitem__(index)
                # Past the check of the annotations, which only tests have.
                object.__setattr__(example, "lesions", change(example.lesions))
                return example

        return Faulty(3, masks=True, shape=(50, 60))

    with pytest.raises(
        ValueError, match=r"scan1\.png: .* mask is \[25, 60\], its image \[50, 60\]"
    ):
        b.train_sample(faulty(lambda mask: mask[::2]), MASKED, **key)
    with pytest.raises(ValueError, match=r"scan1\.png: .* goes up to 4, but it has 2 boxes"):
        b.train_sample(faulty(lambda mask: 2 * mask), MASKED, **key)


def four_phases(patient):
    levels = np.repeat(np.arange(4) * 100, 3) + np.tile(np.arange(3), 4)  # of phase and slice
    noise = np.random.default_rng(patient).integers(0, 50, (64, 64, 1))
    return CtSlice(
        hu=(levels + noise - 100).astype(np.int16),
        boxes_xyxy=np.float32([[20, 24, 40, 50]]),
        labels=np.zeros(1, np.int32),
        diameters_mm=np.full(1, 7, np.float32),
        lesions=None,
        livers=None,
        displacement_mm=None,
        spacing_mm=(1.0, 1.0, 2.0),
        phases=PHASES,
        annotated="portal",
        touching=0,
        patient=f"HCC_{patient}",
        name=f"patient {patient}",
        z=4,
    )


@pytest.mark.parametrize("input", ["clean", "official"])
def test_twelve_channels_of_a_prepared_set_in_any_order_of_phases(tmp_path, input):
    slices = [("train", four_phases(patient)) for patient in range(3)]
    store.write(tmp_path, "four/tiny", slices, {"class_names": ["tumour"]})
    cfg = Data(
        source="tfds",
        path=str(tmp_path),
        builder="four/tiny",
        channels=12,
        window_hu=(-100, 300),
        image_size=32,
        pipeline="ssd",
        input=input,
    )

    def taught(*phases):
        data = sources.load(dataclasses.replace(cfg, phases=phases), "train")
        return next(b.train_batches(data, cfg, batch_size=3, epochs=1, seed=0)).images

    stored = taught()
    permuted = taught("arterial", "delayed", "portal", "precontrast")
    order = [3, 4, 5, 9, 10, 11, 6, 7, 8, 0, 1, 2]
    np.testing.assert_array_equal(permuted, stored[..., order])
    portal = taught(*("portal",) * 4)
    assert portal.shape == (3, 32, 32, 12)
    for phase in range(1, 4):
        np.testing.assert_array_equal(portal[..., :3], portal[..., 3 * phase : 3 * phase + 3])
    if input == "clean":
        np.testing.assert_array_equal(portal[..., :3], stored[..., 6:9])
