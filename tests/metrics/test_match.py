"""Both matching rules against plain loops, and the pairs against every pair there is."""

import numpy as np
import pytest

from jaxdet.metrics import match
from jaxdet.metrics.protocols import exact_overlap
from jaxdet.metrics.rows import read

LEVELS = np.array([0.3, 0.5, 0.7])


def overlap(boxes, truths, crowd):
    return exact_overlap(boxes, truths, crowd, "iou")


def case(seed):
    rng = np.random.default_rng(seed)
    detections, truths = [], []
    for _ in range(4):
        m, n = rng.integers(2, 6), rng.integers(0, 25)
        true, guess = rng.integers(0, 4, (m, 2)) * 2.0, rng.integers(0, 4, (n, 2)) * 2.0
        truths.append((np.hstack([true, true + 8]), rng.integers(0, 2, m), rng.random(m) < 0.3))
        boxes = np.hstack([guess, guess + rng.integers(3, 6, (n, 2)) * 2])
        detections.append((boxes, rng.integers(0, 4, n) / 4, rng.integers(0, 2, n)))
    return read(detections, truths)


def all_pairs(dets, truths):
    for d in range(len(dets.scores)):
        for g in range(len(truths.area)):
            if (dets.image[d], dets.labels[d]) == (truths.image[g], truths.labels[g]):
                crowd = truths.crowd[[g]]
                yield d, g, overlap(dets.boxes_xyxy[[d]], truths.boxes_xyxy[[g]], crowd)[0]


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_pairs_are_all_that_overlap_whatever_the_chunk(chunk, monkeypatch):
    monkeypatch.setattr(match, "CHUNK", chunk)
    dets, truths, images = case(1)
    assert images == 4
    got = match.pairs(dets, truths, overlap, 0.3)
    want = [pair for pair in all_pairs(dets, truths) if pair[2] >= 0.3]
    assert len(want) > 10
    assert list(zip(got.det, got.truth, got.overlap, strict=True)) == want


@pytest.mark.parametrize("seed", range(15))
def test_greedy_equals_one_by_one(seed):
    dets, truths, _ = case(seed)
    ignored = truths.crowd | (np.arange(len(truths.crowd)) % 3 == 0)
    pairs = match.pairs(dets, truths, overlap, LEVELS.min())
    got = match.greedy(pairs, dets.group, ignored, truths.crowd, LEVELS)
    near = {d: [] for d in range(len(dets.scores))}
    for d, g, shared in all_pairs(dets, truths):
        near[d].append((not ignored[g], shared, g))
    for t, level in enumerate(LEVELS):
        taken = set()
        for d, options in near.items():
            near_enough = [o for o in options if o[1] >= level]
            free = [o for o in near_enough if truths.crowd[o[2]] or o[2] not in taken]
            want = max(free)[2] if free else -1
            taken.add(want)
            assert got[d, t] == want


@pytest.mark.parametrize("seed", range(15))
def test_best_truth_equals_one_by_one(seed):
    dets, truths, _ = case(seed)
    ignored = truths.crowd
    pairs = match.pairs(dets, truths, overlap, LEVELS.min())
    got = match.best_truth(pairs, dets.group, ignored, truths.crowd, LEVELS)
    best = {}
    for d, g, shared in all_pairs(dets, truths):
        if shared > best.get(d, (0, -1))[0]:
            best[d] = shared, g
    for t, level in enumerate(LEVELS):
        taken = set()
        for d in range(len(dets.scores)):
            shared, g = best.get(d, (0, -1))
            want = g if shared >= level and (g not in taken or ignored[g]) else -1
            taken.add(want)
            assert got[d, t] == want


@pytest.mark.parametrize("rule", [match.greedy, match.best_truth])
def test_without_rows_nothing_is_found(rule):
    none = np.zeros((0, 4))
    for found, true in ((([], [], []), (none, [])), ((none + 1, [], []), ([[0, 0, 1, 1]], [0]))):
        dets, truths, _ = read([found], [true])
        pairs = match.pairs(dets, truths, overlap, 0.5)
        ignored = np.zeros(len(truths.area), bool)
        assert rule(pairs, dets.group, ignored, truths.crowd, LEVELS).shape == (0, 3)


def test_place_in_group():
    group = np.array([5, 2, 5, 5, 2, 9])
    assert match.place_in_group(group).tolist() == [0, 0, 1, 2, 1, 0]
    assert match.place_in_group(group[:0]).tolist() == []
