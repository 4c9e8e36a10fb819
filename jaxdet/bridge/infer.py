"""Which model are these official PyTorch tensors of?"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdet import models
from jaxdet.bridge.tables import GSSD_ANCHOR, PIXELLINK_ANCHOR, YOLOV8, YOLOV8_WIDTHS
from jaxdet.bridge.torch_names import without_prefix
from jaxdet.models import gssd, pixellink
from jaxdet.nn import align, vgg

Shapes = Mapping[str, tuple[int, ...]]


def infer_fields(state_dict: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The model's name, and the fields of its Config that can be read from shapes of its tensors.

    Knows YOLOv8 (channels, num_classes) and the families of GSSD and PixelLink (all fields that
    change a shape); ValueError for anything else. Where two readings have the same shapes, one is
    told: interphase "grouped", not "per_phase"; align_input "features+gate", not
    "features+stopped_gate"; of levels with as many channels the finest, so that align_at is
    conv4_3, not GSSD's conv8_2 or PixelLink's conv5_3, and conv9_2, not those behind it. Phases are
    counted where something keeps them apart; where nothing does there are 4, or 1 if 4 do not
    divide the channels. `width` is that of the widest layer, whose rounding is the least.
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


def _infer_gssd(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    normed = "vgg.1.running_mean" in shapes
    second = "vgg.3.weight" if normed else "vgg.2.weight"
    _whole("SSD or GSSD", shapes, (GSSD_ANCHOR, second, "loc.0.weight", "conf.0.weight"))
    fields: dict[str, Any] = {
        "image_size": 512 if "loc.6.weight" in shapes else 300,
        "num_classes": shapes["conf.0.weight"][0] // 4 - 1,
        "norm": "batch" if normed else "none",
        "fuse": "conv1x1" if "fuse_11.weight" in shapes else "none",
    }
    if fields["fuse"] != "none":
        fields["fuse_norm"] = "batch" if "bn_fuse_11.weight" in shapes else "none"
    trunk = [s[0] for name, s in shapes.items() if name.startswith("vgg.") and len(s) == 4]
    fields |= _trunk(shapes, GSSD_ANCHOR, second, max(trunk))
    heads = {level: f"loc.{k}.weight" for k, level in enumerate(gssd.LEVELS)}
    fields |= _attended(shapes, heads, fields)
    return models.name_of(models.config("gssd_pp", **fields)), fields


def _infer_pixellink(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    second, widest = "conv1_2.weight", "conv6.weight"
    needed = (PIXELLINK_ANCHOR, second, widest, "out2_1.weight", "final_1.weight")
    _whole("PixelLink", shapes, needed)
    fields: dict[str, Any] = {
        "num_classes": 1,
        "fuse": "conv1x1" if "fuse2.weight" in shapes else "none",
        "neck": "cascade" if shapes["final_1.weight"][1] == 8 else "sum",
    }
    if fields["fuse"] != "none":
        fields["fuse_norm"] = "batch" if "bn_fuse2.weight" in shapes else "none"
    fields |= _trunk(shapes, PIXELLINK_ANCHOR, second, shapes[widest][0])
    levels = pixellink.SOURCES["4s"]  # what official weights are of
    heads = {level: f"out{k + 2}_1.weight" for k, level in enumerate(levels)}
    fields |= _attended(shapes, heads, fields)
    return models.name_of(models.config("pixellink_pp", **fields)), fields


def _whole(family: str, shapes: Shapes, needed: tuple[str, ...]) -> None:
    absent = [name for name in needed if not _kernel(shapes, name)]
    if absent:
        raise ValueError(
            f"these tensors are no whole {family}: wanted {' and '.join(absent)} of four axes "
            f"among {len(shapes)} tensors. Is it the state dict of the whole detector?"
        )


def _trunk(shapes: Shapes, first: str, second: str, widest: int) -> dict[str, Any]:
    """What the first two convolutions tell; `widest` are the channels of conv6."""
    groups = max(shapes[first][0] // shapes[second][1], 1)
    channels = shapes[first][1] * groups
    return {"channels": channels, "groups": groups, "width": widest / vgg.TOP}


def _attended(shapes: Shapes, heads: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of attention, alignment and phases; `heads` by level see as many channels as it has"""
    read = {level: _kernel(shapes, name) for level, name in heads.items()}
    levels = {level: shape[1] for level, shape in read.items() if shape}
    fields, apart = _gates(shapes, next(iter(levels.values())))
    gated = fields["attention_trunk"] != "none"
    aligned, weight_groups = _aligned(shapes, levels, gated=gated)
    phases = max(apart, weight_groups, known["groups"], aligned.get("align_groups", 1))
    fields["phases"] = phases if phases > 1 else 1 if known["channels"] % 4 else 4
    return fields | aligned


def _gates(shapes: Shapes, first: int) -> tuple[dict[str, Any], int]:
    """Fields of attention, from the first level's `first` channels; and in how many parts it is."""
    fields, apart = {}, 1
    lists = {"attention_heads": "self_attn_list.0", "attention_trunk": "self_attn_base_list.0"}
    for field, theirs in lists.items():
        theta = _kernel(shapes, f"{theirs}.snconv1x1_theta.weight_orig")
        fields[field] = "self_gate" if theta else "none"
        if theta and theta[1] < first:
            fields["interphase"], apart = "grouped", first // theta[1]
    return fields, apart


def _aligned(
    shapes: Shapes, levels: Mapping[str, int], *, gated: bool
) -> tuple[dict[str, Any], int]:
    """Fields of alignment, and the groups of its kernel.

    Its offsets see the features, and of a gate as many channels or half; its kernel the same, or a
    phase of it.
    """
    kernel, offset = (_kernel(shapes, f"dcn_list.0.{n}weight") for n in ("", "conv_offset_mask."))
    if not kernel or not offset:
        return {"align": "none"}, 1
    features, seen = kernel[0], offset[1]
    fields: dict[str, Any] = {"align": "deform", "align_groups": offset[0] // (3 * align.TAPS)}
    fields["align_conv"] = "grouped" if kernel[1] < seen else "dense"
    at = [level for level, channels in levels.items() if channels == features]
    fields |= {"align_at": at[0]} if at else {}
    if gated and seen == features:
        fields["align_input"] = "features"
    if gated and seen == features + features // 2:
        fields["gate"] = "raw"
    return fields, seen // kernel[1]


def _kernel(shapes: Shapes, name: str) -> tuple[int, ...] | None:
    """The shape of a convolution's kernel; None where there is no such tensor, or an empty one."""
    shape = shapes.get(name, ())
    return shape if len(shape) == 4 and all(shape) else None
