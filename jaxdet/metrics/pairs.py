"""How well do scores of patches tell those with a tumour from the healthy ones?

The paper reports accuracy, which says little where one patch in twenty holds a tumour: always
saying "healthy" has an accuracy of 95 %. So the ranking is measured, beside that baseline.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from jaxdet.metrics.levels import area_under_roc, ranking_precision
from jaxdet.types import Array

RECALL_AT = (1, 2, 3, 5, 10)
THRESHOLD = 0.5


def summarise(
    scores: Float[Array, "N n"], labels: Shaped[Array, "N _"], names: Sequence[str] = ()
) -> dict[str, Any]:
    """Scores in [0, 1] of the n patches of N slices against their labels (1, True: tumour).

    auroc: chance that a positive patch scores above a negative one, over all slices; a tie is half.
    ap: the sum over falling distinct scores of (R_i - R_{i-1}) P_i, without interpolation; equal
      scores are one step. The chance level is positives / patches.
    accuracy: at a threshold of 0.5, which counts as positive; always_negative: what calling every
      patch healthy would have.
    recall_at_k: of a slice's positives, the share among its k highest patches, at most k / count;
      mean over the slices that have any. Under ties the expected share, were they shuffled.
    ranks: in its slice, 1 is best, of all positive patches (mean, median); `best` is the best one
      of each slice, None without any, and best_mean, best_median go over these. Ties: the middle.
    None where nothing defines it, such as auroc without negatives. JSON can hold all of it.
    ValueError: shapes that differ, labels other than 0 and 1, scores that are NaN or outside
    [0, 1], naming the slice (by `names`, else by number).
    """
    values, truth = _checked(scores, labels, names)
    above, tied = _above(values)
    ranks = above + (tied + 1) / 2
    best = [float(r[t].min()) if t.any() else None for r, t in zip(ranks, truth, strict=True)]
    known = [rank for rank in best if rank is not None]
    flat, positive = values.ravel(), truth.ravel()
    found = ranks[truth]
    return {
        "auroc": area_under_roc(flat[positive], flat[~positive]),
        "ap": ranking_precision(flat[positive], flat[~positive]),
        "accuracy": _or_none(np.mean, (flat >= THRESHOLD) == positive),
        "always_negative": _or_none(np.mean, ~positive),
        "recall_at_k": {str(k): _recall(above, tied, truth, k) for k in RECALL_AT},
        "ranks": {
            "mean": _or_none(np.mean, found),
            "median": _or_none(np.median, found),
            "best_mean": _or_none(np.mean, known),
            "best_median": _or_none(np.median, known),
            "best": best,
        },
        "positives": int(positive.sum()),
        "patches": int(positive.size),
        "slices": len(truth),
        "slices_without_positives": len(truth) - len(known),
    }


def _checked(
    scores: Array, labels: Array, names: Sequence[str]
) -> tuple[Float[np.ndarray, "N n"], Bool[np.ndarray, "N n"]]:
    values, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if values.shape != truth.shape or values.ndim != 2:
        raise ValueError(
            f"scores and labels want one shape [N, n]; got {values.shape} and {truth.shape}"
        )
    bad = np.argwhere(~((values >= 0) & (values <= 1)))  # NaN too
    if len(bad):
        i, patch = bad[0]
        which = names[i] if names else f"slice {i} (counted from 0)"
        raise ValueError(
            f"{which}: scores want probabilities in [0, 1]; patch {patch} has {values[i, patch]}"
            f" and {len(bad)} scores are bad in all"
        )
    if not np.isin(truth, (0, 1)).all():
        raise ValueError(f"labels want 0 and 1; got {np.unique(truth)[:5].tolist()}")
    return values, truth.astype(bool)


def _above(
    scores: Float[np.ndarray, "N n"],
) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N n"]]:
    """How many patches of its slice score higher than each one, and how many as high (with it)."""
    above, tied = np.zeros((2, *scores.shape))
    for i, row in enumerate(scores):
        rising = np.sort(row)
        up_to = np.searchsorted(rising, row, "right")
        above[i], tied[i] = len(row) - up_to, up_to - np.searchsorted(rising, row, "left")
    return above, tied


def _recall(above: np.ndarray, tied: np.ndarray, truth: np.ndarray, k: int) -> float | None:
    # Of `tied` shuffled equals, k - above are still among the k highest.
    kept = np.clip((k - above) / np.maximum(tied, 1), 0, 1)
    shares = [row[t].mean() for row, t in zip(kept, truth, strict=True) if t.any()]
    return _or_none(np.mean, shares)


def _or_none(function: Callable[[Any], Any], values: Any) -> float | None:
    return float(function(values)) if len(values) else None
