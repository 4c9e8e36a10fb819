"""Which model are these official PyTorch tensors of?"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdet import models
from jaxdet.bridge.tables import GSSD_ANCHOR, PIXELLINK_ANCHOR, YOLOV8, YOLOV8_WIDTHS
from jaxdet.bridge.torch_names import without_prefix


def infer_fields(state_dict: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The model's name, and the fields of its Config that can be read from shapes of its tensors.

    Knows YOLOv8 (channels, num_classes) and the families of GSSD and PixelLink (all fields that
    change a shape); ValueError for anything else.
    """
    tensors = without_prefix(state_dict, GSSD_ANCHOR)
    if GSSD_ANCHOR in tensors and "L2Norm.weight" in tensors:
        return _infer_gssd({name: np.shape(tensor) for name, tensor in tensors.items()})
    tensors = without_prefix(state_dict, PIXELLINK_ANCHOR)
    if PIXELLINK_ANCHOR in tensors and "out2_1.weight" in tensors:
        return _infer_pixellink({name: np.shape(tensor) for name, tensor in tensors.items()})
    tensors = without_prefix(state_dict, YOLOV8[0][1] + ".conv.weight")
    stem = np.shape(tensors.get("model.0.conv.weight", ()))
    classes = np.shape(tensors.get("model.22.cv3.0.2.bias", ()))
    if len(stem) != 4 or len(classes) != 1 or stem[0] not in YOLOV8_WIDTHS:
        raise ValueError(
            "these tensors are no YOLOv8 detector: wanted model.0.conv.weight with "
            f"{', '.join(map(str, YOLOV8_WIDTHS))} filters and model.22.cv3.0.2.bias; got "
            f"{stem} and {classes} among {len(tensors)} tensors (no SSD or GSSD: wanted "
            f"{GSSD_ANCHOR} and L2Norm.weight; no PixelLink: wanted {PIXELLINK_ANCHOR} and "
            "out2_1.weight). Name the model yourself."
        )
    return f"yolov8{YOLOV8_WIDTHS[stem[0]]}", {"channels": stem[1], "num_classes": classes[0]}


def _infer_gssd(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, dict[str, Any]]:
    normed = "vgg.1.running_mean" in shapes
    second = "vgg.3.weight" if normed else "vgg.2.weight"
    absent = [name for name in (second, "conf.0.weight") if len(shapes.get(name, ())) != 4]
    if absent:
        raise ValueError(
            f"these tensors are no whole SSD or GSSD: wanted {' and '.join(absent)} of four axes "
            f"among {len(shapes)} tensors. Is it the state dict of the whole detector?"
        )
    groups = 64 // shapes[second][1]
    fields: dict[str, Any] = {
        "image_size": 512 if "loc.6.weight" in shapes else 300,
        "channels": shapes[GSSD_ANCHOR][1] * groups,
        "num_classes": shapes["conf.0.weight"][0] // 4 - 1,
        "groups": groups,
        "norm": "batch" if normed else "none",
        "fuse": "conv1x1" if "fuse_11.weight" in shapes else "none",
    }
    if fields["fuse"] != "none":
        fields["fuse_norm"] = "batch" if "bn_fuse_11.weight" in shapes else "none"
    fields |= _attended(shapes, 512)
    if groups == 1 and fields["channels"] % 4:
        fields["phases"] = 1
    return models.name_of(models.config("gssd_pp", **fields)), fields


def _infer_pixellink(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, dict[str, Any]]:
    needed = ("conv1_2.weight", "final_1.weight")
    absent = [name for name in needed if len(shapes.get(name, ())) != 4]
    if absent:
        raise ValueError(
            f"these tensors are no whole PixelLink: wanted {' and '.join(absent)} of four axes "
            f"among {len(shapes)} tensors. Is it the state dict of the whole detector?"
        )
    groups = 64 // shapes["conv1_2.weight"][1]
    fields: dict[str, Any] = {
        "channels": shapes[PIXELLINK_ANCHOR][1] * groups,
        "groups": groups,
        "fuse": "conv1x1" if "fuse2.weight" in shapes else "none",
        "neck": "cascade" if shapes["final_1.weight"][1] == 8 else "sum",
    }
    if fields["fuse"] != "none":
        fields["fuse_norm"] = "batch" if "bn_fuse2.weight" in shapes else "none"
    fields |= _attended(shapes, 256)
    if groups == 1 and fields["channels"] % 4:
        fields["phases"] = 1
    return models.name_of(models.config("pixellink_pp", **fields)), fields


def _attended(shapes: Mapping[str, tuple[int, ...]], first: int) -> dict[str, Any]:
    """Fields of attention and alignment, from the first level, which has `first` channels."""
    fields: dict[str, Any] = {}
    lists = {"attention_heads": "self_attn_list.0", "attention_trunk": "self_attn_base_list.0"}
    for field, theirs in lists.items():
        theta = shapes.get(f"{theirs}.snconv1x1_theta.weight_orig")
        fields[field] = "self_gate" if theta else "none"
        if theta and theta[1] < first:  # one map a phase has the same shapes
            fields["interphase"] = "grouped"
    offset = shapes.get("dcn_list.0.conv_offset_mask.weight")
    fields["align"] = "deform" if offset else "none"
    if offset:
        fields["align_groups"] = offset[0] // 27
        if offset[1] == first:
            fields["align_input"] = "features"
    return fields
