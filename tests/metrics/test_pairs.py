"""Each number against its definition, counted pair by pair."""

import itertools
import json

import numpy as np
import pytest

from jaxdet.metrics import pairs


def drawn(rng, slices=6, patches=9, levels=5):
    """Scores with many ties, and labels of which some slices have none."""
    scores = rng.integers(0, levels, (slices, patches)) / max(levels - 1, 1)
    labels = rng.random((slices, patches)) < rng.choice([0.0, 0.2, 0.5], (slices, 1))
    return scores, labels


def counted_auroc(scores, labels):
    wins = [(a > b) + (a == b) / 2 for a in scores[labels] for b in scores[~labels]]
    return np.mean(wins) if wins else None


def counted_ap(scores, labels):
    total, before = 0.0, 0.0
    for level in np.unique(scores)[::-1]:
        kept = scores >= level
        recall = (kept & labels).sum() / labels.sum()
        total += (recall - before) * (kept & labels).sum() / kept.sum()
        before = recall
    return total


def shuffled(scores, labels, k):
    """Mean over all orders that equal scores may have: recall at k and mean rank of positives."""
    recalls, ranks = [], []
    for order in itertools.permutations(range(len(scores))):
        best = sorted(order, key=lambda i: -scores[i])  # stable: ties keep the order
        place = np.argsort(best)
        recalls.append(labels[best[:k]].sum() / labels.sum())
        ranks.append(np.mean(place[labels] + 1))
    return np.mean(recalls), np.mean(ranks)


@pytest.mark.parametrize("seed", range(8))
def test_ranking_against_counted_pairs(seed):
    scores, labels = drawn(np.random.default_rng(seed))
    got = pairs.summarise(scores, labels)
    assert got["auroc"] == pytest.approx(counted_auroc(scores, labels), abs=1e-12)
    assert got["ap"] == pytest.approx(counted_ap(scores, labels), abs=1e-12)
    assert got["accuracy"] == pytest.approx(np.mean((scores >= 0.5) == labels))
    assert got["always_negative"] == pytest.approx(1 - labels.mean())
    assert got["positives"] == labels.sum() and got["patches"] == 54 and got["slices"] == 6
    assert got["slices_without_positives"] == (~labels.any(1)).sum()


@pytest.mark.parametrize("seed", range(4))
def test_ties_are_as_if_shuffled(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 3, (2, 6)) / 2, np.zeros((2, 6), bool)
    for row in labels:
        row[rng.choice(6, rng.integers(1, 4), replace=False)] = True
    got = pairs.summarise(scores, labels)
    for k in (1, 2, 3, 5):
        want = [shuffled(s, t, k)[0] for s, t in zip(scores, labels, strict=True)]
        assert got["recall_at_k"][str(k)] == pytest.approx(np.mean(want))
    sums = [shuffled(s, t, 1)[1] * t.sum() for s, t in zip(scores, labels, strict=True)]
    assert got["ranks"]["mean"] == pytest.approx(sum(sums) / labels.sum())


def test_by_hand():
    scores = np.float32([[0.9, 0.8, 0.1, 0.2], [0.3, 0.3, 0.3, 0.3], [0.7, 0.1, 0.2, 0.6]])
    labels = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    got = pairs.summarise(scores, labels)
    assert got["recall_at_k"] == {"1": 0.0, "2": 0.75, "3": 0.75, "5": 1.0, "10": 1.0}
    assert got["ranks"] == {
        "mean": 8 / 3,
        "median": 2.0,
        "best_mean": 2.0,
        "best_median": 2.0,
        "best": [2.0, None, 2.0],
    }
    assert got["slices_without_positives"] == 1 and got["always_negative"] == 0.75
    assert got["accuracy"] == 9 / 12  # two false alarms, one positive at 0.1


def test_perfect_and_worst_rankings():
    labels = np.array([[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]])
    best = pairs.summarise(labels.astype(np.float32), labels)
    assert best["auroc"] == best["ap"] == best["accuracy"] == 1
    assert best["recall_at_k"] == {"1": 0.5, "2": 1, "3": 1, "5": 1, "10": 1}
    worst = pairs.summarise(1 - labels.astype(np.float32), labels)
    assert worst["auroc"] == worst["accuracy"] == 0 and worst["ap"] == pytest.approx(2 / 11)


def test_all_scores_equal_are_chance():
    labels = np.arange(20).reshape(1, 20) % 4 == 0
    got = pairs.summarise(np.full((1, 20), 0.2), labels)
    assert got["auroc"] == 0.5 and got["ap"] == pytest.approx(0.25)
    assert got["recall_at_k"] == {"1": 0.05, "2": 0.1, "3": 0.15, "5": 0.25, "10": 0.5}
    assert got["ranks"]["mean"] == 10.5 and got["accuracy"] == got["always_negative"] == 0.75


def test_what_is_not_defined_is_none():
    healthy = pairs.summarise(np.full((2, 4), 0.1), np.zeros((2, 4)))
    assert healthy["auroc"] is healthy["ap"] is healthy["recall_at_k"]["1"] is None
    assert healthy["ranks"]["best"] == [None, None] and healthy["ranks"]["mean"] is None
    assert healthy["accuracy"] == healthy["always_negative"] == 1
    ill = pairs.summarise(np.full((1, 4), 0.9), np.ones((1, 4)))
    assert ill["auroc"] is None and ill["ap"] == 1 and ill["recall_at_k"]["2"] == 0.5
    for shape in ((0, 4), (0, 0), (3, 0)):
        empty = pairs.summarise(np.zeros(shape), np.zeros(shape))
        assert empty["auroc"] is empty["accuracy"] is empty["always_negative"] is None
        assert empty["patches"] == 0 and empty["slices"] == shape[0]


def test_json_holds_it():
    scores, labels = drawn(np.random.default_rng(0))
    got = pairs.summarise(scores.astype(np.float32), labels.astype(np.int32))
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_bad_scores_name_the_slice():
    scores = np.full((3, 4), 0.5)
    scores[1, 2] = np.nan
    labels = np.zeros((3, 4))
    with pytest.raises(ValueError, match=r"slice 1 \(counted from 0\): .* patch 2 has nan and 1"):
        pairs.summarise(scores, labels)
    with pytest.raises(ValueError, match="p7 slice 3: scores want probabilities"):
        pairs.summarise(scores, labels, names=["a", "p7 slice 3", "c"])
    with pytest.raises(ValueError, match=r"patch 0 has 1\.5"):
        pairs.summarise(np.full((1, 2), 1.5), np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"one shape \[N, n\]; got \(3, 4\) and \(3, 5\)"):
        pairs.summarise(np.zeros((3, 4)), np.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"labels want 0 and 1; got \[0\.0, 2\.0\]"):
        pairs.summarise(np.zeros((1, 2)), np.array([[0.0, 2.0]]))
