"""The same detections under every protocol, side by side, and why the numbers differ."""

from collections.abc import Iterable
from typing import Any

from jaxdet.metrics.average_precision import average_precision
from jaxdet.metrics.protocols import PROTOCOLS, SKIPPING
from jaxdet.metrics.rows import entries

THRESHOLDS = (0.3, 0.5, 0.7)  # of paper 2's Table I
OVERLAPS = ("iou", "iobb")


def compare(
    detections: Iterable[Any], truths: Iterable[Any], *, skip_empty_images: bool = False
) -> list[dict[str, Any]]:
    """One row a protocol: protocol, iou30, iou50, iou70, iobb30, iobb50, iobb70 and why.

    Average precision in [0, 1], None where there is no truth; `why` says in words how the protocol
    counts. detections, truths and errors as in `average_precision`. `skip_empty_images` adds the
    row "l0sg, PixelLink", which leaves out the truths of images without a detection.
    """
    detections, truths = entries(detections), entries(truths)
    rows = [_row(detections, truths, name, PROTOCOLS[name].why) for name in PROTOCOLS]
    if skip_empty_images:
        why = "as l0sg; lesions on slices without any detection do not count (PixelLink only)"
        skipped = _row(detections, truths, "l0sg", why, skip_empty_images=True)
        rows.append(skipped | {"protocol": "l0sg" + SKIPPING})
    return rows


def _row(
    detections: list[Any], truths: list[Any], protocol: str, why: str, **options: bool
) -> dict[str, Any]:
    row: dict[str, Any] = {"protocol": protocol}
    for overlap in OVERLAPS:
        areas = average_precision(detections, truths, overlap, THRESHOLDS, protocol, **options)
        for threshold, area in zip(THRESHOLDS, areas.tolist(), strict=True):
            # NaN, the one number that is not itself, means no truth.
            row[f"{overlap}{threshold * 100:.0f}"] = area if area == area else None
    return row | {"why": why}
