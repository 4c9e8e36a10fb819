"""A detector of one convolution, so that steps compile in no time. It obeys the whole contract."""

import sys
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdet import models
from jaxdet.config import Augment, Data, Evaluate, Experiment, Train, config
from jaxdet.models.detector import Detector
from jaxdet.nn.conv import ConvNorm
from jaxdet.ops import replicas
from jaxdet.types import Array, Batch, Detections


@config
class Config:
    """What a RUN keeps of the toy."""

    channels: int = 3
    num_classes: int = 1
    width: int = 4  # of the convolution


class Outputs(NamedTuple):
    """One number an image."""

    value: Array


class Toy(nn.Module):
    """Mean of one normalised convolution."""

    width: int = 4

    @nn.compact
    def __call__(self, x, *, train=False):
        x = ConvNorm(self.width, 3, name="stem")(x, train=train)
        return Outputs(nn.Dense(1, name="head")(x.mean((1, 2)))[:, 0])


def loss(out: Outputs, batch: Batch):
    """Squared error against the number of boxes, over the boxes of the whole batch."""
    count = (batch.labels >= 0).sum(axis=1)
    norm = jnp.maximum(replicas.mean(1.0 * count.sum()), 1.0)
    total = ((out.value - count) ** 2).sum() / norm
    return {"part": total / 2, "total": total}


def decode(out: Outputs):
    """One detection an image."""
    score = nn.sigmoid(out.value)[:, None]
    boxes = jnp.broadcast_to(jnp.array([0.0, 0, 4, 4]), (*score.shape, 4))
    return Detections(boxes, score, jnp.zeros(score.shape, jnp.int32))


def build(cfg: Config) -> Detector:
    """The toy as a model's file builds it."""
    return Detector(Toy(cfg.width), loss, decode)


DETECTOR = build(Config())


def enlist(set_item: Any = dict.__setitem__) -> None:
    """Makes the toy a model family that a RUN can name; tests give monkeypatch.setitem."""
    set_item(models.DETECTORS, "toy", models.Entry("toy", {}))
    set_item(sys.modules, "jaxdet.models.toy", sys.modules[__name__])


def experiment(model: Any = None, *, data: Any = None, **train: Any) -> Experiment:
    """A run of seconds on the phantom: 16 slices to learn from, 4 to be judged by."""
    return Experiment(
        model=Config(channels=1) if model is None else model,
        data=Data(
            **{
                "source": "phantom",
                "image_size": 64,
                "channels": 1,
                "window_hu": (-25.0, 175.0),
                "pad": (0.0,),
                "split": "patient",
                "fractions": (0.8, 0.2, 0.0),
                "cache": "ram",
                "max_boxes": 40,
                "phantom_patients": 10,
                "phantom_slices": 2,
                "augment": Augment(close_mosaic=0),
                **(data or {}),
            }
        ),
        train=Train(
            **{
                "epochs": 2,
                "batch_size": 8,
                "nominal_batch": 8,
                "optimizer": "adamw",
                "lr": 0.01,
                "warmup_epochs": 0.0,
                "log_every": 1,
                **train,
            }
        ),
        evaluate=Evaluate(batch_size=8),
    )


def batch(seed: int, size: int = 8) -> Batch:
    """A random batch of 8x8 images."""
    rng = np.random.default_rng(seed)
    return Batch(
        rng.uniform(0, 1, (size, 8, 8, 3)).astype(np.float32),
        np.zeros((size, 3, 4), np.float32),
        rng.integers(-1, 1, (size, 3)).astype(np.int32),
        np.arange(size, dtype=np.int32),
    )
