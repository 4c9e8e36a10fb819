"""SSD, GSSD and GSSD++ of PyTorch's public modules, by the official names: gssd.py's peer.

Written from facts, gssd_reference 1 to 3; the weights are ours.
"""

import itertools
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import spectral_norm
from torchvision.ops import box_convert, box_iou, deform_conv2d

CHANNELS, GROUPS = 12, 4


def network(name: str, width: float) -> Any:
    """Modules of PyTorch by their official names (facts, gssd_reference 1); not yet connected."""
    groups, last, vgg = 1 if name == "ssd" else GROUPS, CHANNELS, []

    def wide(features: int) -> int:
        return max(round(features * width), 1)

    def conv(inputs: int, outputs: int, *places: int, **how: int) -> list[Any]:
        conv = nn.Conv2d(inputs, outputs, *places, groups=groups, **how)
        return [conv, nn.BatchNorm2d(outputs)]

    for stage, (features, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for _ in range(count):
            vgg += [*conv(last, wide(features), 3, padding=1), nn.ReLU(inplace=True)]
            last = wide(features)
        vgg += [nn.MaxPool2d(2, ceil_mode=stage == 3)] if stage < 5 else [nn.MaxPool2d(3, 1, 1)]
    vgg += [*conv(last, wide(1024), 3, padding=6, dilation=6), nn.ReLU(inplace=True)]
    vgg += [*conv(wide(1024), wide(1024), 1), nn.ReLU(inplace=True)]

    extras, last = [], wide(1024)
    for few, features, *places in (256, 512, 2, 1), (128, 256, 2, 1), *[(128, 256, 1, 0)] * 2:
        extras += [*conv(last, wide(few), 1), *conv(wide(few), wide(features), 3, *places)]
        last = wide(features)

    sources = [wide(c) for c in (512, 1024, 512, 256, 256, 256)]
    counts = list(zip(sources, (4, 6, 6, 6, 4, 4), strict=True))
    net = {"vgg": nn.Sequential(*vgg), "extras": nn.ModuleList(extras)}
    net["L2Norm"] = nn.ParameterDict({"weight": nn.Parameter(_filled(sources[0]))})
    net["loc"] = nn.ModuleList(nn.Conv2d(c, 4 * n, 3, padding=1) for c, n in counts)
    net["conf"] = nn.ModuleList(nn.Conv2d(c, 2 * n, 3, padding=1) for c, n in counts)
    if name != "ssd":
        for k, c in enumerate(sources, 1):
            net |= {f"fuse_{k}1": nn.Conv2d(c, c, 1), f"bn_fuse_{k}1": nn.BatchNorm2d(c)}
    if name == "gssd_pp":
        for where in ("self_attn_base_list", "self_attn_list"):
            net[where] = nn.ModuleList(map(attention, sources))
        c = sources[0]
        align = nn.Conv2d(2 * c, c, 3)
        align.conv_offset_mask = nn.Conv2d(2 * c, 27 * GROUPS, 3, padding=1)
        net["dcn_list"] = nn.ModuleList([align])
    return nn.ModuleDict(net)


def attention(c: int) -> Any:
    sizes = {"theta": (c, c // 8), "phi": (c, c // 8), "g": (c, c // 2), "attn": (c // 2, c)}
    convs = {f"snconv1x1_{k}": spectral_norm(nn.Conv2d(*io, 1)) for k, io in sizes.items()}
    part = nn.ModuleDict(convs)
    part.sigma = nn.Parameter(_filled(1))
    return part


def _filled(size: int) -> Any:
    return torch.zeros(size)  # the weights are ours


def attend(part: Any, x: Any) -> tuple[Any, Any]:
    """x with its gate added, and the gate (facts, gssd_reference 2.1); nothing is pooled at D 1."""
    theta, phi, g = (part[f"snconv1x1_{k}"](x).flatten(2) for k in ("theta", "phi", "g"))
    shares = (theta.transpose(1, 2) @ phi).softmax(-1)
    mixed = (g @ shares.transpose(1, 2)).unflatten(2, x.shape[2:])
    gate = part.sigma * part["snconv1x1_attn"](mixed)
    return x + gate, gate


def align(part: Any, x: Any, gate: Any) -> Any:
    """Features and gate phase by phase, through the deformable convolution."""
    pairs = zip(x.chunk(GROUPS, 1), gate.chunk(GROUPS, 1), strict=True)
    x = torch.cat(list(itertools.chain(*pairs)), 1)
    offsets, mask = part.conv_offset_mask(x).float().split((18 * GROUPS, 9 * GROUPS), 1)
    # In float32: torchvision's autocast does so by itself on a GPU, on a CPU it has none.
    with torch.autocast(x.device.type, enabled=False):
        more = {"padding": 1, "mask": mask.sigmoid()}
        return deform_conv2d(x.float(), offsets, part.weight, part.bias, **more)


def forward(net: Any, x: Any) -> tuple[Any, Any]:
    """Deltas [B, 8732, 4] and logits [B, 8732, 2] (facts, gssd_reference 1.3)."""
    levels: list[Any] = []

    def based(x: Any) -> tuple[Any, Any]:
        if "dcn_list" not in net:
            return x, None
        return attend(net["self_attn_base_list"][len(levels)], x)

    def look(x: Any) -> None:
        k = len(levels)
        if "dcn_list" in net:
            x, _ = attend(net["self_attn_list"][k], x)
        if "fuse_11" in net:
            x = net[f"bn_fuse_{k + 1}1"](net[f"fuse_{k + 1}1"](x)).relu()
        levels.append(x)

    x, gate = based(net["vgg"][:33](x))
    if gate is not None:
        x = align(net["dcn_list"][0], x, gate)
    length = x.norm(dim=1, keepdim=True) + 1e-10
    look(x / length * net["L2Norm"]["weight"][:, None, None])
    x, _ = based(net["vgg"][33:](x))
    look(x)
    for first, norm, second, other in zip(*[iter(net["extras"])] * 4, strict=True):
        x, _ = based(other(second(norm(first(x)).relu())).relu())
        look(x)

    def joined(heads: str, last: int) -> Any:
        maps = [head(x).permute(0, 2, 3, 1) for head, x in zip(net[heads], levels, strict=True)]
        return torch.cat([a.reshape(len(a), -1, last) for a in maps], 1).float()

    return joined("loc", 4), joined("conf", 2)


def loss(deltas: Any, logits: Any, priors: Any, boxes: Any) -> Any:
    """SSD's loss for boxes [B, M, 4] of one class (facts, gssd_reference 3.2 and 3.3)."""
    overlap = box_iou(boxes.flatten(0, 1), box_convert(priors, "cxcywh", "xyxy"))
    overlap = overlap.unflatten(0, boxes.shape[:2])  # [B, M, A]
    best, truth = overlap.max(1)
    for m, forced in enumerate(overlap.argmax(2).unbind(1)):  # the last truth wins
        best.scatter_(1, forced[:, None], 2.0)
        truth.scatter_(1, forced[:, None], m)
    positive = best >= 0.5
    matched = boxes.gather(1, truth[..., None].expand(-1, -1, 4))
    x, y, w, h = box_convert(matched, "xyxy", "cxcywh").unbind(-1)
    px, py, pw, ph = priors.unbind(-1)
    wanted = [(x - px) / pw / 0.1, (y - py) / ph / 0.1, (w / pw).log() / 0.2, (h / ph).log() / 0.2]
    off = functional.smooth_l1_loss(
        deltas[positive], torch.stack(wanted, -1)[positive], reduction="sum"
    )
    surprise = functional.cross_entropy(logits.mT, positive.long(), reduction="none")
    ranks = surprise.detach().masked_fill(positive, 0).argsort(1, descending=True).argsort(1)
    most = (3 * positive.sum(1, keepdim=True)).clamp(max=len(priors) - 1)
    return (off + surprise[positive | (ranks < most)].sum()) / positive.sum()
