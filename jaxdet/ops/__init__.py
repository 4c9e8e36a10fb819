"""Pure functions of arrays: no parameters, no files, no randomness that is not passed in.

anchors   where each prediction looks          assign    which prediction answers for which truth
deform    a convolution whose taps move        deltas    boxes as offsets from priors, and back
detect    what SSD found                       fourier   large kernels by Fourier tiles
images    pixels to numbers                    nms       which of many detections stay
overlap   IoU and its family                   patches   a slice in tiles and back, min-max
priors    the boxes that SSD starts from       replicas  sums over the devices of a step
resample  bicubic, bilinear, adaptive means
"""

from jaxdet.ops import (
    anchors,
    assign,
    deform,
    deltas,
    detect,
    fourier,
    images,
    nms,
    overlap,
    patches,
    priors,
    replicas,
    resample,
)

__all__ = [
    "anchors",
    "assign",
    "deform",
    "deltas",
    "detect",
    "fourier",
    "images",
    "nms",
    "overlap",
    "patches",
    "priors",
    "replicas",
    "resample",
]
