"""MSCR: linked pixels again, of one network for every phase and a recurrence over the phases.

MSCR    Liang 2019, ICIP, "Multi-Stream Scale-Insensitive Convolutional and Recurrent Neural
        Networks for Liver Tumor Detection in Dynamic CT Images": PixelLink, whose features come
        from the phases one after the other.

    image -> its phases, each through the same VGG16 -> conv3_3, conv4_3, conv5_3, conv7
    at every level: the phases by a 1x1 ConvLSTM -> 3x3 -> 1x1 -> pixel and link scores (-> map)
    scores of conv7, grown and added to those of conv5_3, and so on to conv3_3

The public code (facts, gssd_baselines 7) is what is built. Its weights share the trunk over the
phases, where GSSD's grouped convolutions have one set a phase. It is written in TensorFlow 1; there
is no bridge to such checkpoints. Departs: the loss is PixelLink's of GSSD++'s authors, of each
image for itself, where the public code takes the whole batch together.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from jaxdet.config import config
from jaxdet.losses.link import pixel_link
from jaxdet.models import linked
from jaxdet.models.detector import Detector
from jaxdet.nn import pool, vgg
from jaxdet.nn.grouped import FLOAT32, Conv, scaled
from jaxdet.ops import images, resample
from jaxdet.ops.links import Border, Cover, Extent, Score
from jaxdet.types import Array, Batch, Detections

PREDICT = {"extent": "cells"}  # boxes for users end behind their last px, as all others do
SOURCES = ("conv3_3", "conv4_3", "conv5_3", "conv7")  # the levels that have scores, finest first
STRIDE = 4  # px of a cell
PIXEL, LINK, MAP = 2, 16, 32  # scores of a cell: no, yes; the same of 8 neighbours; before the map


@config
class Config:
    """The network is the public code's, for the size and the phases of GSSD++'s Table I.

    What is told, and how it is decoded, is as in `pixellink`, and departs from that code where a
    comment says so. That table does not say whether its MSCR saw masks. Without the segmentation it
    needs none.
    """

    image_size: int = 300  # px, square; 512 in the public code
    channels: int = 12  # phase-major, as many slices for each phase
    phases: int = 4  # in the order in which the recurrence reads them; 3 in the public code
    num_classes: int = 1  # a cell is lesion or not: there is one class
    width: float = 1.0  # times the channels of all layers
    # concat: no recurrence, all phases side by side into one 1x1 convolution
    phases_fused: Literal["lstm", "concat"] = "lstm"
    segmentation: Literal["none", "multiscale"] = "none"  # learns from masks: data.lesions
    # None and lesion. The public code has 3, benign and malignant apart: here the third stays empty
    segmentation_classes: int = 2
    trunk_start: Literal["xavier", "he"] = "xavier"  # of VGG's kernels; he departs, see pixellink
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the convolutions; the rest is float32
    # loss
    truth: Literal["box", "mask"] = "box"  # what lesion cells are: of the box, or of the lesion
    cover: Cover = "official"  # of the box: a cell more where it ends between two. touched: no more
    border: Border = "clean"  # official: links that leave the image wrap
    neg_ratio: float = 3.0  # hard negatives for each positive
    # decode
    pixel_threshold: float = 0.2  # the public code's test: .8 and .8
    link_threshold: float = 0.8
    score: Score = "cells"  # of a lesion: the mean of its cells. pixels: as the code, see ops.links
    score_threshold: float = 0.0
    min_cells: int = 1  # smaller components are none
    extent: Extent = "official"  # cells: a px more on the right and below
    max_detections: int = 100

    def check(self) -> None:
        """Refuses phases that do not divide the channels, and more than one class of lesions."""
        linked.check(self, "MSCR")
        if self.segmentation_classes < 2:
            raise ValueError(
                "model.segmentation_classes wants 2, none and lesion, or more; got "
                f"{self.segmentation_classes}"
            )


class Outputs(NamedTuple):
    """Raw answers of every cell of 4 px; always float32."""

    pixel_logits: Float[Array, "B H W 2"]  # no lesion, lesion
    link_logits: Float[Array, "B H W 16"]  # neighbour i of ops.links.NEIGHBOURS: 2i no, 2i + 1 yes
    segmentation_logits: Float[Array, "B H W K"] | None  # none first; None without that branch


class MSCR(nn.Module):
    """Phase-major slices [B, S, S, C] in [0, 1] (or uint8) to Outputs; S is cfg.image_size."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Outputs:
        """`train` changes nothing: there is no batch normalisation and no dropout."""
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        linked.check_images(x, cfg)
        made = {"norm": "none", "dtype": dtype, "start": cfg.trunk_start}
        block = functools.partial(scaled, cfg.width, **made)
        x = _streams(images.to_unit(x).astype(dtype), cfg.phases)
        x = vgg.stage(1, block, x, train=train)
        levels = []
        for stage in range(2, 6):
            x = vgg.stage(stage, block, pool.halve(x, ceil=True), train=train)
            levels.append(x)
        levels = [*levels[1:], vgg.top(block, x, train=train)]  # conv2_2 has no scores
        part = functools.partial(PHASES_FUSED[cfg.phases_fused], cfg.phases, dtype)
        levels = [part(name=f"fuse_{k}")(x) for k, x in enumerate(levels)]
        *_, pixel = _sums(_scores("pixel", PIXEL, levels, dtype))
        *_, link = _sums(_scores("link", LINK, levels, dtype))
        return Outputs(pixel, link, SEGMENTATION[cfg.segmentation](cfg, levels))


class Recurrent(nn.Module):
    """Phases folded into the batch, [B * P, H, W, C] -> [B, H, W, C]: by memory of what came.

    ConvLSTM, all its states side by side, a 3x3 convolution over them, and a 1x1 back to C.
    """

    phases: int
    dtype: jnp.dtype = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "B H W C"]:
        """N is a multiple of the phases, a phase of one image behind the other."""
        features, made = x.shape[-1], {"dtype": self.dtype, "start": "xavier"}
        sequence = _unfolded(x, self.phases)
        hidden = ConvLSTM(max(features // 2, 1), self.dtype, name="lstm")(sequence)
        x = _side_by_side(hidden)
        x = nn.relu(Conv(x.shape[-1], 3, **made, name="conv3x3")(x))
        return nn.relu(Conv(features, **made, name="conv1x1")(x))


class SideBySide(nn.Module):
    """Phases folded into the batch, [B * P, H, W, C] -> [B, H, W, C]: by one 1x1 convolution."""

    phases: int
    dtype: jnp.dtype = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "B H W C"]:
        """N is a multiple of the phases, a phase of one image behind the other."""
        made = {"dtype": self.dtype, "start": "xavier"}
        together = _side_by_side(_unfolded(x, self.phases))
        return nn.relu(Conv(x.shape[-1], **made, name="conv1x1")(together))


class ConvLSTM(nn.Module):
    """LSTM with 1x1 convolutions (Shi 2015, arXiv:1506.04214), at every place of a map by itself.

    As TensorFlow 1 has it: no peepholes, the gates i, j, f, o of one convolution of the input and
    the last state, 1 added to f, and a start from zeros. States are float32 whatever `dtype` is.
    """

    features: int
    dtype: jnp.dtype = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "B P H W C"]) -> Float[Array, "B P H W F"]:
        """The state after every phase, which knows that phase and those before."""
        gates = Conv(4 * self.features, dtype=self.dtype, start="xavier", name="gates")
        hidden = jnp.zeros((*x[:, 0].shape[:-1], self.features))
        memory, states = hidden, []
        for phase in range(x.shape[1]):  # few: written out
            told = jnp.concatenate([x[:, phase].astype(jnp.float32), hidden], -1)
            i, j, f, o = jnp.split(gates(told).astype(jnp.float32), 4, -1)
            memory = nn.sigmoid(f + 1) * memory + nn.sigmoid(i) * jnp.tanh(j)
            hidden = nn.sigmoid(o) * jnp.tanh(memory)
            states.append(hidden)
        return jnp.stack(states, 1)


PHASES_FUSED: dict[str, Any] = {"lstm": Recurrent, "concat": SideBySide}


def _streams(x: Float[Array, "B H W C"], phases: int) -> Float[Array, "N H W c"]:
    """Phases as images of their own, N = B * phases, those of an image one behind the other."""
    b, h, w, c = x.shape
    apart = jnp.moveaxis(x.reshape(b, h, w, phases, c // phases), 3, 1)
    return apart.reshape(b * phases, h, w, c // phases)


def _unfolded(x: Float[Array, "N H W C"], phases: int) -> Float[Array, "B P H W C"]:
    return x.reshape(-1, phases, *x.shape[1:])


def _side_by_side(x: Float[Array, "B P H W C"]) -> Float[Array, "B H W PC"]:
    return jnp.concatenate([x[:, phase] for phase in range(x.shape[1])], -1)


def _scores(name: str, features: int, levels: list[Array], dtype: jnp.dtype) -> list[Array]:
    head = functools.partial(Conv, features, dtype=dtype, start="xavier")
    scored = [head(name=f"{name}_{k}")(x) for k, x in enumerate(levels)]
    return [x.astype(jnp.float32) for x in scored]


def _sums(levels: list[Array]) -> list[Array]:
    """Scores of conv7, then with those of one level more each, at that level's size."""
    sums = [levels[-1]]
    for finer in reversed(levels[:-1]):
        sums.append(_grown(sums[-1], *finer.shape[1:3]) + finer)
    return sums


def _grown(x: Float[Array, "B H W C"], height: int, width: int) -> Float[Array, "B H2 W2 C"]:
    """Bilinear as tf.resize_images of TensorFlow 1: output i looks at i * n_in / n_out.

    The first pixel stays where it is and the last is repeated: a shift of up to half a pixel that
    the public code has, and nothing else is offered.
    """
    return resample.apply(x, _grow_matrix(x.shape[1], height), _grow_matrix(x.shape[2], width))


def _grow_matrix(n_in: int, n_out: int) -> Float[np.ndarray, "n_out n_in"]:
    at = np.minimum(np.arange(n_out) * (n_in / n_out), n_in - 1)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(n_in)), 0).astype(np.float32)


def _no_map(cfg: Config, levels: list[Array]) -> None:
    """No segmentation."""


def _multiscale(cfg: Config, levels: list[Array]) -> Float[Array, "B H W K"]:
    """Classes of every cell from all sums of a cascade, side by side at the finest size."""
    dtype, channels = jnp.dtype(cfg.dtype), max(round(MAP * cfg.width), 1)
    *coarse, finest = _sums(_scores("map", channels, levels, dtype))
    grown = [_grown(x, *finest.shape[1:3]) for x in coarse]
    head = Conv(cfg.segmentation_classes, dtype=dtype, start="xavier", name="map")
    return head(jnp.concatenate([finest, *grown], -1)).astype(jnp.float32)


SEGMENTATION: dict[str, Callable[[Config, list[Array]], Array | None]] = {
    "none": _no_map,
    "multiscale": _multiscale,
}


def loss(out: Outputs, batch: Batch, *, cfg: Config) -> dict[str, Array]:
    """Cross-entropy of cells "pixel", of links "link", of the map "segmentation", and "total".

    "total" = 2 pixel + link + segmentation (facts, gssd_baselines 7); without that branch there is
    no "segmentation".
    """
    targets = linked.targets(batch, out.pixel_logits.shape[1:3], STRIDE, cfg)
    losses = pixel_link(out.pixel_logits, out.link_logits, targets, neg_ratio=cfg.neg_ratio)
    if out.segmentation_logits is None:
        return losses
    if batch.lesions is None:
        raise ValueError(
            f"model.segmentation={cfg.segmentation!r} wants the masks of lesions: set "
            'data.lesions=True, or model.segmentation="none"'
        )
    entropy = segmentation(out.segmentation_logits, batch.lesions)
    return {**losses, "segmentation": entropy, "total": losses["total"] + entropy}


def segmentation(
    logits: Float[Array, "B H W K"], lesions: UInt8[Array, "B S S"]
) -> Float[Array, ""]:
    """Mean cross-entropy over all cells: class 1 on a lesion, else 0; K >= 2.

    A cell is what its first pixel is, as TensorFlow 1's nearest resize has it (the facts do not say
    how the public code shrinks its masks): a lesion between the fourth rows or columns is not seen.
    On a replica its own mean, whose mean over the replicas is that of the whole batch.
    """
    lesion = lesions[:, ::STRIDE, ::STRIDE] > 0
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.where(lesion, log_probs[..., 1], log_probs[..., 0]).mean()


def decode(out: Outputs, *, cfg: Config) -> Detections:
    """The surest components, in px: the extent of their cells, scored as `cfg.score` says."""
    return linked.decode(*out[:2], STRIDE, cfg)


count, decode_officially = linked.count, linked.decode_officially


def build(cfg: Config) -> Detector:
    """The Detector of a Config."""
    bind = functools.partial
    return Detector(MSCR(cfg), bind(loss, cfg=cfg), bind(decode, cfg=cfg))
