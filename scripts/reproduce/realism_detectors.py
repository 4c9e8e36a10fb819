"""How easy is the phantom? A threshold with blobs, a matched filter, and a probe for shortcuts.

Simple on purpose: what these find needs no detector, and what they cannot find needs one.
"""

import cv2
import numpy as np
import scipy.ndimage
import scipy.optimize
import scipy.stats
from jaxtyping import Bool, Float, Integer

SETTINGS = [(smooth, drop) for smooth in (1.5, 2.5) for drop in (12.0, 18.0, 25.0)]  # mm, HU


def blobs(
    hu: Float[np.ndarray, "H W"],
    liver: Bool[np.ndarray, "H W"],
    pixel_mm: float,
    smooth_mm: float,
    drop_hu: float,
) -> tuple[Float[np.ndarray, "N 4"], Float[np.ndarray, "N"], Integer[np.ndarray, "N"]]:
    """Boxes, scores and labels of what is darker than the liver by `drop_hu` after smoothing.

    The liver mask is given to it and its edge is filled in, so this is an upper bound of what a
    threshold can do. The score is the mean drop times the root of the area.
    """
    middle = float(np.median(hu[liver]))
    inner = scipy.ndimage.binary_erosion(liver, iterations=max(1, round(2.0 / pixel_mm)))
    filled = np.where(inner, hu, middle)
    drop = middle - scipy.ndimage.gaussian_filter(filled, smooth_mm / pixel_mm)
    dark = ((drop > drop_hu) & inner).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    boxes, scores = [], []
    for k in range(1, count):
        x, y, wide, high, area = (int(v) for v in stats[k])
        if area * pixel_mm**2 < 9 or max(wide, high) > 3 * min(wide, high):
            continue
        window = np.s_[y : y + high, x : x + wide]
        boxes.append((x, y, x + wide, y + high))
        scores.append(float(drop[window][labels[window] == k].mean() * np.sqrt(area)))
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.zeros(len(boxes), np.int32),
    )


def found_by_template(
    hu: Float[np.ndarray, "H W"],
    free: Bool[np.ndarray, "H W"],
    pixel_mm: float,
    psf_mm: float,
    diameter_mm: float,
    contrast_hu: float,
    rng: np.random.Generator,
    tries: int = 8,
) -> list[bool]:
    """Whether a matched filter's highest answer in the liver is a disc put there, `tries` times.

    The filter knows diameter and blur of the disc and searches all of `free`; the noise is not
    whitened, as in human readers.
    """
    disc = contrast_hu * _disc(diameter_mm, pixel_mm, psf_mm)
    template = disc - disc.mean()
    half = len(disc) // 2
    base = cv2.filter2D(hu.astype(np.float32), -1, template.astype(np.float32))
    added = scipy.ndimage.correlate(np.pad(disc, half), template, mode="constant")
    room = scipy.ndimage.binary_erosion(free, iterations=half)
    places = np.argwhere(room)
    found = []
    for y, x in places[rng.integers(len(places), size=tries)] if len(places) else []:
        here = base.copy()
        window = np.s_[y - 2 * half : y + 2 * half + 1, x - 2 * half : x + 2 * half + 1]
        if here[window].shape != added.shape:
            continue
        here[window] += added
        top = np.unravel_index(np.argmax(np.where(room, here, -np.inf)), here.shape)
        found.append(bool(np.hypot(top[0] - y, top[1] - x) * pixel_mm < max(2.0, diameter_mm / 2)))
    return found


def _disc(diameter_mm: float, pixel_mm: float, psf_mm: float) -> Float[np.ndarray, "S S"]:
    half = int(np.ceil((0.75 * diameter_mm + 1.5) / pixel_mm))
    line = np.arange(-half, half + 1) * pixel_mm
    away = np.hypot(line[:, None], line[None]) - diameter_mm / 2
    sharp = np.clip(0.5 - away / pixel_mm, 0, 1)
    return scipy.ndimage.gaussian_filter(sharp, psf_mm / 2.3548 / pixel_mm)


def auc(scores: Float[np.ndarray, "N"], truth: Bool[np.ndarray, "N"]) -> float:
    """Area under the ROC curve, ties counted half; NaN without both classes."""
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return float("nan")
    ranks = scipy.stats.rankdata(scores)
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def probe(
    features: Float[np.ndarray, "N F"],
    truth: Bool[np.ndarray, "N"],
    patients: Integer[np.ndarray, "N"],
    folds: int = 5,
    ridge: float = 1.0,
) -> float:
    """AUC of a logistic regression, each patient judged by a fit without it.

    Features are standardised; `ridge` holds the weights small. 0.5 is chance.
    """
    scores = np.zeros(len(truth))
    fold = np.unique(patients, return_inverse=True)[1] % folds
    for k in range(folds):
        test, train = fold == k, fold != k
        mean, deviation = features[train].mean(0), features[train].std(0) + 1e-9
        scaled = (features - mean) / deviation
        weights = _logistic(scaled[train], truth[train], ridge)
        scores[test] = scaled[test] @ weights[1:] + weights[0]
    return auc(scores, truth)


def _logistic(
    x: Float[np.ndarray, "N F"], truth: Bool[np.ndarray, "N"], ridge: float
) -> Float[np.ndarray, "G"]:
    sign = np.where(truth, 1.0, -1.0)
    wide = np.hstack([np.ones((len(x), 1)), x])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (wide @ weights)
        held = np.concatenate([[0.0], weights[1:]])
        slope = -sign / (1 + np.exp(np.clip(margin, -60, 60)))
        return (
            float(np.logaddexp(0, -margin).sum() + 0.5 * ridge * held @ held),
            wide.T @ slope + ridge * held,
        )

    return scipy.optimize.minimize(loss, np.zeros(wide.shape[1]), jac=True).x
