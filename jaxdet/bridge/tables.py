"""Which tensor of an official PyTorch model is which leaf of ours: the tables.

A table is rows (our path, their path, part); a part is rows again, down to leaves. `{j}` counts for
as long as our tree goes on, so depth is never written down. Rows stand in the official order of the
state dict. A part "alias of P" is a second name of the same tensors: written, and dropped at
reading. Where names depend on a model's fields, its table is a function of its Config.
"""

from collections.abc import Callable
from typing import Any

from jaxdet.models import gssd as gssd_file
from jaxdet.models import pixellink as pixellink_file
from jaxdet.nn import vgg

Row = tuple[str, str, str]

# A leaf part is one tensor: its kind says in which collection it lives and how it is laid out.
LEAVES = ("kernel", "vector", "statistic", "counter", "bins")
ALIAS = "alias of "

PARTS: dict[str, tuple[Row, ...]] = {
    "conv": (("kernel", "weight", "kernel"), ("bias", "bias", "vector")),
    "conv_norm": (
        ("conv/kernel", "conv.weight", "kernel"),
        ("norm/scale", "bn.weight", "vector"),
        ("norm/bias", "bn.bias", "vector"),
        ("norm/mean", "bn.running_mean", "statistic"),
        ("norm/var", "bn.running_var", "statistic"),
        ("", "bn.num_batches_tracked", "counter"),
    ),
    "bottleneck": (("conv1", "cv1", "conv_norm"), ("conv2", "cv2", "conv_norm")),
    "c2f": (
        ("split", "cv1", "conv_norm"),
        ("merge", "cv2", "conv_norm"),
        ("block_{j}", "m.{j}", "bottleneck"),
    ),
    "sppf": (("reduce", "cv1", "conv_norm"), ("merge", "cv2", "conv_norm")),
    "branch": (("conv1", "0", "conv_norm"), ("conv2", "1", "conv_norm"), ("out", "2", "conv")),
    "scale": (("scale", "weight", "vector"),),
    "batch_norm": (
        ("scale", "weight", "vector"),
        ("bias", "bias", "vector"),
        ("mean", "running_mean", "statistic"),
        ("var", "running_var", "statistic"),
        ("", "num_batches_tracked", "counter"),
    ),
    "spectral_conv": (
        ("bias", "bias", "vector"),
        ("kernel", "weight_orig", "kernel"),
        ("spectral/u", "weight_u", "statistic"),
        ("spectral/v", "weight_v", "statistic"),
    ),
    "gate": (
        ("sigma", "sigma", "vector"),
        ("theta", "snconv1x1_theta", "spectral_conv"),
        ("phi", "snconv1x1_phi", "spectral_conv"),
        ("g", "snconv1x1_g", "spectral_conv"),
        ("out", "snconv1x1_attn", "spectral_conv"),
    ),
    "align": (
        ("kernel", "weight", "kernel"),
        ("bias", "bias", "vector"),
        ("offset", "conv_offset_mask", "conv"),
    ),
}

YOLOV8: tuple[Row, ...] = (
    ("backbone/stem", "model.0", "conv_norm"),
    ("backbone/down2", "model.1", "conv_norm"),
    ("backbone/stage2", "model.2", "c2f"),
    ("backbone/down3", "model.3", "conv_norm"),
    ("backbone/stage3", "model.4", "c2f"),
    ("backbone/down4", "model.5", "conv_norm"),
    ("backbone/stage4", "model.6", "c2f"),
    ("backbone/down5", "model.7", "conv_norm"),
    ("backbone/stage5", "model.8", "c2f"),
    ("backbone/sppf", "model.9", "sppf"),
    ("neck/top4", "model.12", "c2f"),
    ("neck/top3", "model.15", "c2f"),
    ("neck/down4", "model.16", "conv_norm"),
    ("neck/bottom4", "model.18", "c2f"),
    ("neck/down5", "model.19", "conv_norm"),
    ("neck/bottom5", "model.21", "c2f"),
    ("head/box_{j}", "model.22.cv2.{j}", "branch"),
    ("head/class_{j}", "model.22.cv3.{j}", "branch"),
    ("", "model.22.dfl.conv.weight", "bins"),
)


def gssd(cfg: Any) -> tuple[Row, ...]:
    """The names of SSD, GSSD or GSSD++ with these fields (facts, gssd_reference 1.4)."""
    normed, levels = cfg.norm == "batch", len(gssd_file.EXTRAS[cfg.image_size]) + 2
    rows: list[Row] = []

    def conv(ours: str, theirs: str, number: int) -> None:
        rows.append((f"{ours}/conv", f"{theirs}.{number}", "conv"))
        if normed:
            rows.append((f"{ours}/norm", f"{theirs}.{number + 1}", "batch_norm"))

    number = 0  # in a flat list of convolutions, normalisations, ReLUs and poolings
    for stage, depth in vgg.DEPTHS.items():
        for j in range(1, depth + 1):
            conv(f"conv{stage}_{j}", "vgg", number)
            number += 2 + normed
        number += 1
    for name in ("conv6", "conv7"):
        conv(name, "vgg", number)
        number += 2 + normed
    rows.append(("l2_norm", "L2Norm", "scale"))
    names = [f"conv{k + 6}_{j}" for k in range(2, levels) for j in (1, 2)]
    for i, name in enumerate(names):
        conv(name, "extras", i * (1 + normed))
    rows += [(f"box_{k}", f"loc.{k}", "conv") for k in range(levels)]
    rows += [(f"class_{k}", f"conf.{k}", "conv") for k in range(levels)]
    parts = [("conv", "fuse", "conv")]
    if cfg.fuse_norm == "batch":
        parts.append(("norm", "bn_fuse", "batch_norm"))
    if cfg.fuse == "conv1x1":
        rows += [
            (f"fuse_{k}/conv1x1/{ours}", f"{theirs}_{k + 1}1", part)
            for k in range(levels)
            for ours, theirs, part in parts
        ]
        rows += [
            (f"fuse_{k}/conv1x1/{ours}", f"{theirs}_list1.{k - 2}", f"{ALIAS}{part}")
            for ours, theirs, part in parts
            for k in range(2, levels)
        ]
    heads = _gates("look", "self_attn_list", cfg.attention_heads, levels)
    rows += heads + _gates("attend", "self_attn_base_list", cfg.attention_trunk, levels)
    if cfg.align == "deform":
        rows.append((f"align_{gssd_file.LEVELS.index(cfg.align_at)}", "dcn_list.0", "align"))
    return tuple(rows)


def pixellink(cfg: Any) -> tuple[Row, ...]:
    """The names of PixelLink or PixelLink++ with these fields (facts, gssd_reference 4.2)."""
    if cfg.version != "4s":
        raise ValueError(
            f"official weights of PixelLink are of version 4s; got model.version {cfg.version!r}. "
            "Set model.version=4s; a RUN of 2s can be exported as stablehlo"
        )
    names = [f"conv{i}_{j}" for i, depth in vgg.DEPTHS.items() for j in range(1, depth + 1)]
    trunk: list[Row] = [(f"{name}/conv", name, "conv") for name in (*names, "conv6", "conv7")]
    numbers, number = [], 0  # in a flat list of convolutions, ReLUs and poolings
    for depth in (*vgg.DEPTHS.values(), 2):
        numbers += [number + 2 * j for j in range(depth)]
        number += 2 * depth + 1
    levels = range(len(pixellink_file.SOURCES["4s"]))
    heads: list[Row] = [
        (f"{ours}_{k}", f"out{k + 2}_{i}", "conv")
        for k in levels
        for i, ours in enumerate(("pixel", "link"), 1)
    ]
    if cfg.fuse == "conv1x1":
        heads += [(f"fuse_{k}/conv1x1/conv", f"fuse{k + 2}", "conv") for k in levels]
        if cfg.fuse_norm == "batch":
            normed = [(f"fuse_{k}/conv1x1/norm", f"bn_fuse{k + 2}") for k in levels]
            heads += [(ours, theirs, "batch_norm") for ours, theirs in normed]
    heads += [("pixel", "final_1", "conv"), ("link", "final_2", "conv")]
    numbers += range(numbers[-1] + 2, numbers[-1] + 2 + len(heads))
    second = [
        (ours, f"modules_except_dcn.{number}", f"{ALIAS}{part}")
        for (ours, _, part), number in zip([*trunk, *heads], numbers, strict=True)
    ]
    rows = [*trunk, *second, *heads]
    rows += _gates("attend", "self_attn_base_list", cfg.attention_trunk, len(levels))
    rows += _gates("look", "self_attn_list", cfg.attention_heads, len(levels))
    if cfg.align == "deform":
        k = pixellink_file.SOURCES["4s"].index(cfg.align_at)
        rows.append((f"align_{k}", "dcn_list.0", "align"))
    return tuple(rows)


def _gates(ours: str, theirs: str, word: str, levels: int) -> list[Row]:
    count = levels if word == "self_gate" else 0
    return [(f"{ours}_{k}", f"{theirs}.{k}", "gate") for k in range(count)]


TABLES: dict[str, tuple[Row, ...] | Callable[[Any], tuple[Row, ...]]] = {
    **{f"yolov8{size}": YOLOV8 for size in "nsmlx"},
    "pca_yolo": YOLOV8,  # its detector; the Siamese network has no official weights
    **dict.fromkeys(("ssd", "gssd", "gssd_pp"), gssd),
    **dict.fromkeys(("pixellink", "pixellink_g", "pixellink_pp"), pixellink),
}

GSSD_ANCHOR = "vgg.0.weight"
PIXELLINK_ANCHOR = "conv1_1.weight"
YOLOV8_WIDTHS = {16: "n", 32: "s", 48: "m", 64: "l", 80: "x"}  # channels of the stem
