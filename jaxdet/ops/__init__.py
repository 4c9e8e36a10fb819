"""Pure functions of arrays: no parameters, no files, no randomness that is not passed in.

anchors   where each prediction looks          assign    which prediction answers for which truth
images    pixels to numbers                    nms       which of many detections stay
overlap   IoU and its family                   patches   a slice in tiles and back, min-max
replicas  sums over the devices of a step      resample  bicubic, bilinear, adaptive means
"""

from jaxdet.ops import anchors, assign, images, nms, overlap, patches, replicas, resample

__all__ = ["anchors", "assign", "images", "nms", "overlap", "patches", "replicas", "resample"]
