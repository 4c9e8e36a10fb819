"""Patches against a raster of pixels; batches that no thread, process or restart changes."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from jaxdet.config import Data, Patches
from jaxdet.data import patches as p
from jaxdet.data.transforms import letterbox
from jaxdet.types import Example

DATA = Data(image_size=64, channels=1, pad=(0.0,))
CFG = Patches(side=16)  # 16 patches a slice
EPOCHS = {"batch_size": 12, "epochs": 2, "seed": 5}
RULES = ("any", "centre", "box_share", "patch_share")


class Slices:
    """Grey slices that hold their own coordinates, with a box each where `boxes` has one."""

    def __init__(self, boxes, dtype=np.float32, shape=(64, 64), channels=1):
        self.boxes, self.dtype, self.shape, self.channels = boxes, dtype, shape, channels

    def __len__(self):
        return len(self.boxes)

    def __getitem__(self, index):
        image = np.random.default_rng(index).random((*self.shape, self.channels))
        image = image * 255 if self.dtype == np.uint8 else image
        boxes = np.float32(self.boxes[index]).reshape(-1, 4)
        return Example(
            image.astype(self.dtype),
            boxes,
            np.zeros(len(boxes), np.int32),
            f"slice{index}",
            f"patient{index // 2}",
        )


# Of 16 patches: 1, 4, 0, 2 and 16 hold a tumour.
SLICES = Slices([[[2, 2, 9, 9]], [[10, 10, 20, 20]], [], [[0, 0, 20, 4]], [[0, 0, 64, 64]]])


def same(a, b):
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def raster_labels(boxes, side, m, rule, least_px, share, fine=4):
    """Counts the quarter pixels of each box in each patch."""
    n = side // m
    hit = np.zeros((n, n), bool)
    for x0, y0, x1, y1 in np.round(np.asarray(boxes) * fine).astype(int):
        canvas = np.zeros((side * fine, side * fine))
        canvas[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = 1 / fine**2
        if not canvas.any():
            continue
        ys, xs = np.nonzero(canvas)
        cy, cx = (v.min() + v.max() + 1 for v in (ys, xs))  # twice the centre
        for r in range(n):
            for c in range(n):
                tile = canvas[r * m * fine : (r + 1) * m * fine, c * m * fine : (c + 1) * m * fine]
                hit[r, c] |= {
                    "any": tile.sum() >= max(least_px, 1 / fine**2),  # 0: a part of a pixel
                    "box_share": tile.sum() >= share * canvas.sum(),
                    "patch_share": tile.sum() >= share * m * m,
                    "centre": cy // (2 * m * fine) == r and cx // (2 * m * fine) == c,
                }[rule]
    return hit.ravel()


@pytest.mark.parametrize("rule", RULES)
def test_labels_are_those_of_a_raster(rule):
    rng = np.random.default_rng(1)
    for k in range(40):
        low = rng.integers(-40, 150, (rng.integers(0, 4), 2)) / 4  # beyond both edges of 32 px
        size = rng.integers(0, 80, low.shape) / 4  # fractions, and some without area
        boxes = np.hstack([low, low + size]).astype(np.float32)
        least, share = float(rng.choice([0, 0.5, 1, 2])), float(rng.choice([0.25, 0.5, 1]))
        cfg = Patches(side=8, label=rule, min_overlap_px=least, min_share=share)
        want = raster_labels(boxes, 32, 8, rule, least, share)
        np.testing.assert_array_equal(p.labels(boxes, 32, cfg), want, err_msg=f"{k} {boxes}")


@pytest.mark.parametrize("rule", RULES)
def test_no_boxes_and_boxes_without_area_mark_nothing(rule):
    cfg = Patches(side=8, label=rule)
    nothing = np.float32(
        [[4, 4, 4, 20], [9, 9, 9, 9], [40, 0, 60, 10], [-9, -9, 0, 0], [6, 6, 2, 9]]
    )
    for boxes in (np.zeros((0, 4), np.float32), nothing):
        got = p.labels(boxes, 32, cfg)
        assert got.shape == (16,) and not got.any()


def test_labels_are_half_open_and_row_major():
    cfg = Patches(side=8)
    for box, want in (
        ([8, 0, 16, 8], [1]),  # exactly one patch: its neighbours share no pixel
        ([7, 0, 9, 1], [0, 1]),
        ([31, 31, 32, 32], [15]),
        ([0, 8, 1, 9], [4]),  # second row
    ):
        assert np.flatnonzero(p.labels(np.float32([box]), 32, cfg)).tolist() == want
    centre = dataclasses.replace(cfg, label="centre")
    assert np.flatnonzero(p.labels(np.float32([[6, 6, 10, 10]]), 32, centre)).tolist() == [5]


def test_whole_boxes_at_random_places_mark_as_many_patches_as_expected():
    """(1 + (s - 1) / m)^2 for a box of s whole pixels, far from the edge (facts 2.5)."""
    rng, m, side = np.random.default_rng(0), 16, 160
    for s in (3, 8, 27):
        low = rng.integers(m, side - 3 * m, (600, 2))
        # Uniform over one period of the grid, so that no place of it is favoured.
        low = low // m * m + rng.integers(0, m, low.shape)
        boxes = np.hstack([low, low + s]).astype(np.float32)
        counts = [p.labels(box[None], side, Patches(side=m)).sum() for box in boxes]
        error = np.std(counts) / np.sqrt(len(counts))
        assert abs(np.mean(counts) - (1 + (s - 1) / m) ** 2) < 4 * error


def test_no_least_overlap_means_more_than_nothing():
    cfg = Patches(side=8, min_overlap_px=0)
    for box, want in (([0, 0, 8, 8], [0]), ([0, 0, 8.25, 8], [0, 1]), ([0, 0, 0.1, 0.1], [0])):
        assert np.flatnonzero(p.labels(np.float32([box]), 32, cfg)).tolist() == want


def test_slices_want_to_be_square():
    image = np.zeros((20, 20, 1), np.float32)
    p.check_square(letterbox(image, 64, (0.0,))[1], "slice 7")
    place = letterbox(image[:12], 64, (0.0,))[1]
    told = r"slice 7: .* square slices.* 12 x 20 .* Crop it or pad it to a square first"
    with pytest.raises(ValueError, match=told):
        p.check_square(place, "slice 7")
    with pytest.raises(ValueError, match=r"square images \[S, S, C\]; got \[32, 16, 1\]"):
        p.crop(np.zeros((32, 16, 1), np.float32), 16)
    wide = Slices([[[8, 4, 16, 12]]] * 3, shape=(32, 64))
    for call in (
        lambda: p.truth(wide, DATA, CFG),
        lambda: p.cut(wide, DATA, CFG, batch_size=12),
        lambda: p.train_batches(wide, DATA, CFG, **EPOCHS),
    ):
        with pytest.raises(ValueError, match=r"slice0: .* 32 x 64 \(height x width\)"):
            call()


def test_a_side_that_does_not_divide_names_the_nearest():
    for call in (
        lambda: p.labels(np.zeros((0, 4), np.float32), 60, CFG),
        lambda: p.crop(np.zeros((60, 60, 1), np.float32), 16),
        lambda: p.truth(SLICES, dataclasses.replace(DATA, image_size=60), CFG),
    ):
        with pytest.raises(ValueError, match="48 and 64"):
            call()


def test_crop_is_row_major():
    image = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
    tiles = p.crop(image, 8)
    assert tiles.shape == (16, 8, 8, 3)
    np.testing.assert_array_equal(tiles[6], image[8:16, 16:24])
    rows = [np.concatenate(tiles[4 * r : 4 * r + 4], axis=1) for r in range(4)]
    np.testing.assert_array_equal(np.concatenate(rows), image)


def test_a_scale_of_one_only_mirrors():
    patch = np.random.default_rng(0).random((16, 16, 2)).astype(np.float32)
    still = Patches(jitter_scale=(1.0, 1.0), jitter_flip=0.0)
    np.testing.assert_array_equal(p.jitter(patch, still, np.random.default_rng(0)), patch)
    turned = p.jitter(patch, dataclasses.replace(still, jitter_flip=1.0), np.random.default_rng(0))
    np.testing.assert_array_equal(turned, patch[:, ::-1])


@pytest.mark.parametrize("pad", ["mean", "edge", "reflect", "zero"])
@pytest.mark.parametrize("scale", [(0.8, 1.25), (0.1, 2.0), (0.01, 0.01)])
def test_jitter_keeps_size_type_and_range(pad, scale):
    cfg = Patches(jitter_scale=scale, jitter_pad=pad)
    patch = 0.2 + 0.5 * np.random.default_rng(0).random((16, 16, 1))
    grey, differ = np.full((16, 16, 3), [0.2, 0.5, 0.9]), set()
    for seed in range(20):
        out = p.jitter(patch, cfg, np.random.default_rng(seed))
        assert out.shape == (16, 16, 1) and out.dtype == np.float32
        inside = out[out > 0] if pad == "zero" else out
        assert inside.min() >= 0.2 - 1e-6 and inside.max() <= 0.7 + 1e-6
        np.testing.assert_array_equal(out, p.jitter(patch, cfg, np.random.default_rng(seed)))
        differ.add(out.tobytes())
        if pad != "zero":  # a patch of one colour stays that, whatever is cut or padded
            flat = p.jitter(grey, cfg, np.random.default_rng(seed))
            np.testing.assert_allclose(flat, grey, atol=1e-6)
    assert len(differ) > 10 or scale == (0.01, 0.01)


def test_jitter_scales_by_what_it_says():
    """A white square of 10 px in the middle tells the scale, where it lies in sight."""
    patch = np.zeros((32, 32, 1), np.float32)
    patch[11:21, 11:21] = 1
    cfg, sides, lefts = Patches(jitter_pad="zero"), [], []
    for seed in range(300):
        out = p.jitter(patch, cfg, np.random.default_rng(seed))
        sides.append(np.sqrt(out.sum()) / 10)
        lefts.append(np.nonzero(out[..., 0].any(0))[0].min())
    assert 0.78 < min(sides) < 0.83 and 1.2 < max(sides) < 1.28
    assert abs(np.mean(sides) - 1.025) < 0.03  # U(0.8, 1.25)
    assert len(set(lefts)) > 8  # and the place is random
    one = dataclasses.replace(cfg, jitter_scale=(0.5, 0.5), jitter_flip=0.0)
    out = p.jitter(np.ones((32, 32, 1), np.float32), one, np.random.default_rng(0))
    assert out.sum() == 16 * 16 and out.any(0).sum() == out.any(1).sum() == 16
    padded = dataclasses.replace(one, jitter_pad="mean")
    mean = p.jitter(patch, padded, np.random.default_rng(0))
    assert np.isclose(mean, patch.mean()).sum() >= 32 * 32 - 16 * 16


def test_jitter_mirrors_half_of_the_time():
    cfg = Patches(jitter_scale=(1.0, 1.0))
    patch = np.random.default_rng(0).random((4, 4, 1)).astype(np.float32)
    turned = [
        not np.array_equal(p.jitter(patch, cfg, np.random.default_rng(s)), patch)
        for s in range(200)
    ]
    assert 70 < sum(turned) < 130


def test_shape_of_a_batch():
    wide, truth = Patches(side=64), np.zeros((3, 64), bool)
    truth[1, :2] = True  # visits: 64 + 2 copies of these + 12 of the 62 others; elsewhere 64 + 13
    assert p.shape(truth, wide, 16) == (1, 16)
    assert p.shape(truth, wide, 77) == (1, 77)
    assert p.shape(truth, wide, 78) == (1, 78)
    assert p.shape(truth, wide, 200) == (2, 78)  # 44 of 200 stay unused
    few = np.eye(4, dtype=bool)[:2]  # 4 + 1 + 1 of 3 rounded
    assert p.shape(few, Patches(side=256), 16) == (2, 6)
    assert p.shape(truth, wide, 1) == (1, 1)
    with pytest.raises(ValueError, match="for each of 1 devices; got 0"):
        p.shape(truth, wide, 0)
    assert p.shape(truth, wide, 16, replicas=4) == (4, 4)
    assert p.shape(few, Patches(side=256), 64, replicas=4) == (8, 6)
    with pytest.raises(ValueError, match="for each of 8 devices; got 7"):
        p.shape(truth, wide, 7, replicas=8)


def test_appended_visits_are_counted_by_the_config():
    positive = np.zeros(50, bool)
    positive[[3, 10, 20, 44]] = True
    cfg = Patches(negative_share=0.5, jitter_positive=0.75, jitter_negative=0.1)
    seen = [p.visits(positive, cfg, seed=1, epoch=e, index=2) for e in range(4)]
    for patch, jittered in seen:
        plain, extra = patch[~jittered], patch[jittered]
        assert set(np.flatnonzero(positive)) <= set(plain.tolist())
        assert len(plain) == len(set(plain.tolist())) == 4 + 23
        assert positive[extra].sum() == 3 and (~positive[extra]).sum() == 5  # round(4.6)
        assert len(set(extra.tolist())) == 8
        assert len(patch) == 4 + 23 + 3 + 5
    # Of all negatives, not only of those that are visited plain; and anew each epoch.
    assert any(set(s.patch[s.jittered]) - set(s.patch[~s.jittered]) for s in seen)
    assert len({tuple(sorted(s.patch.tolist())) for s in seen}) == 4
    assert not np.array_equal(seen[0].patch, sorted(seen[0].patch))
    again = p.visits(positive, cfg, seed=1, epoch=0, index=2)
    assert same(again, seen[0])
    for key in ({"seed": 2}, {"index": 3}):
        other = p.visits(positive, cfg, **{"seed": 1, "epoch": 0, "index": 2, **key})
        assert not np.array_equal(other.patch, seen[0].patch)


def test_the_papers_share_of_positives_after_appending():
    """4.6 % of 64 patches become about 7.5 % (facts 2.6)."""
    positive = np.arange(64) < 3
    patch, jittered = p.visits(positive, Patches(), seed=0, epoch=0, index=0)
    assert len(patch) == 64 + 3 + 12 and positive[patch].sum() == 6
    assert sorted(patch[~jittered].tolist()) == list(range(64))
    assert 0.07 < positive[patch].mean() < 0.08


def test_online_jitter_adds_nothing():
    positive = np.arange(40) < 4
    cfg = Patches(jitter_mode="online", negative_share=0.5, jitter_positive=0.5)
    patch, jittered = p.visits(positive, cfg, seed=0, epoch=0, index=0)
    assert len(patch) == len(set(patch.tolist())) == 4 + 18
    assert positive[patch[jittered]].sum() == 2 and (~positive[patch[jittered]]).sum() == 4


@pytest.mark.parametrize("mode", ["append", "online"])
@pytest.mark.parametrize("found", [0, 1, 7])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_visits_of_few_or_no_positives(mode, found, share):
    cfg = Patches(jitter_mode=mode, negative_share=share, jitter_negative=0.0, jitter_positive=1.0)
    positive = np.arange(7) < found
    patch, _ = p.visits(positive, cfg, seed=0, epoch=0, index=0)
    assert positive[patch].sum() == (2 if mode == "append" else 1) * found
    assert (~positive[patch]).sum() == round(share * (7 - found))


def test_truth_follows_the_resize():
    for side, box in ((64, [20, 4, 30, 12]), (32, [10, 2, 15, 6]), (128, [40, 8, 60, 24])):
        got = p.truth(Slices([[box]], shape=(side, side)), DATA, CFG)
        assert got.shape == (1, 16) and np.flatnonzero(got[0]).tolist() == [1]
    assert p.truth(Slices([]), DATA, CFG).shape == (0, 16)


@pytest.mark.parametrize("mode", ["append", "online"])
@pytest.mark.parametrize(("batch_size", "replicas"), [(4, 1), (12, 1), (70, 1), (30, 3)])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_an_epoch_is_all_visits_of_all_slices(mode, batch_size, replicas, share):
    cfg = dataclasses.replace(CFG, jitter_mode=mode, negative_share=share, jitter_positive=0.0)
    cfg = dataclasses.replace(cfg, jitter_negative=0.0)
    how = {"batch_size": batch_size, "replicas": replicas}
    got = list(p.train_batches(SLICES, DATA, cfg, **how, epochs=2, seed=0))
    cut = p.cut(SLICES, DATA, cfg, **how)
    slices, width, steps = cut.slices, cut.width, cut.steps
    assert len(got) == 2 * steps
    assert steps == -(-cut.chunks.sum() // slices)
    truth = p.truth(SLICES, DATA, cfg)
    for epoch in range(2):
        rows = [
            (int(b.index[g]), b.labels[g], b.weights[g], b.patches[g])
            for b in got[epoch * steps : (epoch + 1) * steps]
            for g in range(slices)
        ][: cut.chunks.sum()]  # without those that fill the last batch
        assert np.bincount([i for i, *_ in rows], minlength=5).tolist() == cut.chunks.tolist()
        for index, positive in enumerate(truth):
            mine = [row for row in rows if row[0] == index]
            weights = np.concatenate([w for _, _, w, _ in mine])
            found = np.concatenate([t for _, t, _, _ in mine])
            assert weights.sum() == positive.sum() + round(share * float((~positive).sum()))
            assert found.sum() == positive.sum() and not found[weights == 0].any()
            tiles = p.crop(SLICES[index].image, 16)
            for _, labels, weight, patches in mine:
                assert patches.shape == (width, 16, 16, 1)
                assert not patches[weight == 0].any()
                for tile, label in zip(patches[weight == 1], labels[weight == 1], strict=True):
                    (which,) = np.flatnonzero((tiles == tile).all((1, 2, 3)))
                    assert positive[which] == label


def test_batches_have_one_fixed_shape():
    got = list(p.train_batches(SLICES, DATA, CFG, batch_size=70, epochs=1, seed=0))
    for batch in got:
        assert batch.slices.shape == (2, 64, 64, 1) and batch.slices.dtype == np.float32
        assert batch.patches.shape == (2, 32, 16, 16, 1) and batch.patches.dtype == np.float32
        assert batch.labels.shape == batch.weights.shape == (2, 32)
        assert batch.labels.dtype == batch.weights.dtype == np.float32
        assert batch.index.shape == (2,) and batch.index.dtype == np.int32
        for image, index in zip(batch.slices, batch.index, strict=True):
            np.testing.assert_array_equal(image, SLICES[int(index)].image)
    # Five chunks in pairs: the last batch begins the order again.
    assert len(got) == 3 and got[2].index[1] == got[0].index[0]


def test_copies_are_jittered_and_padding_weighs_nothing():
    whole = Slices([[[0, 0, 64, 64]]])
    # Not U(0.8, 1.25), which may round to 16 px and change nothing.
    cfg = dataclasses.replace(CFG, jitter_scale=(1.2, 1.2))
    (batch,) = p.train_batches(whole, DATA, cfg, batch_size=32, epochs=1, seed=0)
    tiles = p.crop(whole[0].image, 16)
    plain = [bool((tiles == tile).all((1, 2, 3)).any()) for tile in batch.patches[0]]
    assert batch.weights.sum() == 32 and batch.labels.sum() == 32 and sum(plain) == 16
    half = Slices([[[0, 0, 64, 32]]])  # 8 positives, their copies, 8 negatives and 2 of theirs
    (batch,) = p.train_batches(half, DATA, CFG, batch_size=32, epochs=1, seed=0)
    assert batch.weights.sum() == 26 and batch.labels.sum() == 16
    assert batch.weights[0, :26].all() and not batch.patches[0, 26:].any()


def test_chunks_are_shuffled_anew_each_epoch():
    how = {"batch_size": 4, "epochs": 2, "seed": 0}
    got = [b.patches.tobytes() for b in p.train_batches(SLICES, DATA, CFG, **how)]
    assert len(set(got)) == len(got)
    index = [int(b.index[0]) for b in p.train_batches(SLICES, DATA, CFG, **how)]
    half = len(index) // 2
    assert index[:half] != index[half:] and sorted(index[:half]) == sorted(index[half:])
    assert index[:half] != sorted(index[:half])


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_change_nothing(threads):
    want = list(p.train_batches(SLICES, DATA, CFG, **EPOCHS))
    got = list(p.train_batches(SLICES, dataclasses.replace(DATA, threads=threads), CFG, **EPOCHS))
    assert len(got) == len(want) and all(map(same, got, want))


@pytest.mark.parametrize("start", [1, 9, 10, 13])
def test_a_restart_goes_on_as_the_straight_run(start):
    want = list(p.train_batches(SLICES, DATA, CFG, **EPOCHS))[start:]
    got = list(p.train_batches(SLICES, DATA, CFG, **EPOCHS, start_step=start))
    assert len(want) > 0 and len(got) == len(want) and all(map(same, got, want))


def test_processes_share_one_global_batch():
    how = {"batch_size": 24, "epochs": 2, "seed": 5, "replicas": 4}
    whole = list(p.train_batches(SLICES, DATA, CFG, **how))
    parts = [p.train_batches(SLICES, DATA, CFG, **how, process=k, processes=2) for k in range(2)]
    for want, one, two in zip(whole, *parts, strict=True):
        assert one.patches.shape[:2] == two.patches.shape[:2] == (2, 6)
        assert same([np.concatenate(pair) for pair in zip(one, two, strict=True)], want)
    with pytest.raises(
        ValueError, match=r"batches of 1 slices, which 2 processes .* multiple of 24"
    ):
        p.train_batches(SLICES, DATA, CFG, batch_size=12, epochs=1, seed=0, processes=2)


def test_no_positive_patch_anywhere_is_refused():
    empty = Slices([[], [], [[0, 0, 0.5, 0.5]]])
    fold = dataclasses.replace(DATA, split="fold", fold=3)
    for call in (
        lambda: p.train_batches(empty, fold, CFG, **EPOCHS),
        lambda: p.cut(empty, fold, CFG, batch_size=12),
    ):
        with pytest.raises(
            ValueError,
            match=r"fold 3 has no positive patch: .* 48 patches of 3 slices of 2 patients",
        ):
            call()
    with pytest.raises(ValueError, match=r"training split has no .* 0 slices of 0 patients"):
        p.train_batches(Slices([]), DATA, CFG, **EPOCHS)


def test_uint8_slices_become_fractions_and_wrong_ones_are_named():
    whole = Slices([[[0, 0, 9, 9]]], dtype=np.uint8, shape=(30, 30))
    batch = next(p.train_batches(whole, DATA, CFG, **EPOCHS))
    image, _ = letterbox(whole[0].image, 64, (0.0,))
    np.testing.assert_array_equal(batch.slices[0], image / np.float32(255))
    assert batch.slices.max() <= 1
    with pytest.raises(ValueError, match=r"slice\d: data.channels is 1, .* is \[64, 64, 3\]"):
        p.train_batches(Slices([[]], channels=3), DATA, CFG, **EPOCHS)


def test_the_room_loads_no_jax():
    code = "import sys, jaxdet.data.patches, jaxdet.data.attended; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
