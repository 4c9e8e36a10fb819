"""What tiny, small and paper mean for the tables of GSSD++: all sizes and recipes in one place.

"paper" is the published recipe (facts, gssd_reference 0 and 5). The others shrink patients,
networks and steps, and learn faster for it; `ROWS` is the table that docs/reproduce.md shows.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

from jaxdet.config import Data, SSDAugment, Train, to_json
from jaxdet.data import phantom
from jaxdet.models import pixellink
from jaxdet.study.scales import Name

SIDE_PX = 300  # of the square that enters: the priors are for it
CHANNELS = 12  # four phases of three slices
WINDOW_HU = (-150.0, 250.0)
PROTOCOL = "l0sg"  # the evaluator of the official code
# Offsets and masks of the deformable convolution learn slower than the rest (Zhu 2019)
ALIGN_FACTORS = (("^align", 0.1),)


@dataclasses.dataclass(frozen=True)
class Scale:
    """One scale. Its set is the phantom's; a set of the user's takes its place and nothing else."""

    size: Literal["tiny", "small", "paper"]  # of the phantom of four phases
    width: float  # times the channels of all layers
    split: Literal["patient", "official"]
    train: Train  # of every row; `train_of` sets epochs, seed and the align factors
    ssd: SSDAugment
    input: Literal["clean", "official"]
    kinds: tuple[str, ...]  # of registration that Tables S1 and S2 and Fig. 5 are made for
    # Each slice by itself, as the paper did; else its neighbours move with it, in a third of the
    # time
    per_slice: bool
    gate_pool: int | None = None  # the down-sample factor D of all attention; None: the model's own
    border: Literal["official"] | None = None  # of PixelLink's and MSCR's links
    score: Literal["pixels"] | None = None  # over what they average; None: the model's own
    # Of VGG without normalisation in PixelLink and MSCR, and of PixelLink's fusion: None is what
    # the code has, by which a network begins to learn after hundreds of steps
    trunk_start: Literal["he"] | None = None
    fuse_norm: Literal["batch"] | None = None
    kind: Literal["multiphase", "multiphase_demo"] = "multiphase"  # the demo: many patients, small
    steps: int = 0  # so many, to whole epochs, in place of train.epochs
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)  # of split="patient"
    cache: Literal["none", "ram"] = "ram"
    # Measured minutes of a row; none: not measured
    minutes: dict[str, float | int] = dataclasses.field(default_factory=dict)
    on: str = ""  # what they were measured on

    @property
    def builder(self) -> str:
        """The prepared set of the phantom."""
        return f"phantom_{self.kind}/{self.size}"

    @property
    def patients(self) -> int:
        """Patients of that set."""
        return phantom.SETS[self.kind][self.size].patients


# 60,000 steps of batch 32 at 1e-3, a tenth of it from 30,000 and a hundredth from 50,000; the code
# forgets the align factor at the first of these, and decays every parameter.
PUBLISHED = Train(
    epochs=522,  # of the paper's 3,660 training images or so; with `steps` those count
    batch_size=32,
    nominal_batch=32,
    optimizer="sgd",
    lr=1e-3,
    schedule="steps",
    drops=(1 / 2, 5 / 6),
    momentum=0.9,
    nesterov=False,
    weight_decay=5e-4,
    decay="all",
    warmup_epochs=0.0,
    clip_norm=0.0,
    ema_decay=0.0,
    patience=0,
    fitness="ap50",
    lr_factors=ALIGN_FACTORS,
    lr_factors_until="first_drop",
    evaluate_every=4,  # about every 500 steps
    log_every=50,
)
PAPER = Scale(
    size="paper",
    width=1.0,
    split="official",
    train=PUBLISHED,
    ssd=SSDAugment(photometric="official"),
    input="official",
    kinds=("rigid", "affine", "nonrigid"),
    per_slice=True,
    border="official",
    score="pixels",
    steps=60_000,
    cache="none",
)
SMALL = Scale(
    size="small",
    width=1.0,
    split="official",
    train=dataclasses.replace(
        PUBLISHED,
        epochs=300,
        optimizer="adamw",
        lr=3e-4,
        warmup_epochs=5.0,
        warmup_min_steps=0,
        warmup_bias_lr=0.0,
        clip_norm=10.0,
        lr_factors_until="end",
        evaluate_every=15,
    ),
    ssd=SSDAugment(),
    input="clean",
    kinds=("rigid", "affine", "nonrigid"),
    per_slice=True,
    trunk_start="he",
    fuse_norm="batch",
)
TINY = Scale(
    size="tiny",
    width=0.125,
    split="patient",
    train=dataclasses.replace(
        SMALL.train,
        epochs=20,
        batch_size=4,
        nominal_batch=4,
        lr=1e-3,
        schedule="linear",
        warmup_epochs=1.0,
        evaluate_every=5,
        log_every=10,
    ),
    # A network that sees few pictures learns more from those that look like the ones of the test.
    ssd=SSDAugment(crop="none", expand_probability=0.0, brightness=0.1, contrast=(0.7, 1.4)),
    input="clean",
    kinds=("nonrigid",),
    per_slice=False,
    gate_pool=4,
    trunk_start="he",
    fuse_norm="batch",
    kind="multiphase_demo",
    minutes={"gssd": 13, "gssd_pp": 24, "pixellink_pp": 13, "mscr": 23},
    on="AMD EPYC, 2 cores, beside other jobs",
)
SCALES: dict[Name, Scale] = {"tiny": TINY, "small": SMALL, "paper": PAPER}


def data(scale: Scale, path: str, builder: str = "", seed: int = 0) -> Data:
    """How a set is read at this scale: the scale's phantom, or the set that is named."""
    return Data(
        source="tfds",
        path=path,
        builder=builder or scale.builder,
        image_size=SIDE_PX,
        channels=CHANNELS,
        window_hu=WINDOW_HU,
        split=scale.split,
        fractions=scale.fractions,
        split_seed=seed,
        cache=scale.cache,
        pipeline="ssd",
        ssd=scale.ssd,
        input=scale.input,
    )


def train_of(scale: Scale, model: Any, images: int | None = None, seed: int = 0) -> Train:
    """The recipe for a model's Config; for so many training images, if the scale counts steps.

    A model that aligns nothing has no align factors: a pattern that matches nothing is an error.
    PixelLink's code keeps them to the end, whatever GSSD's does (facts, gssd_reference 7).
    """
    train, aligns = scale.train, getattr(model, "align", "none") != "none"
    keeps = isinstance(model, pixellink.Config)
    epochs = train.epochs
    if scale.steps and images:
        epochs = max(round(scale.steps / math.ceil(images / train.batch_size)), 1)
    factors = train.lr_factors if aligns else ()
    until = "end" if keeps else train.lr_factors_until
    told = {"lr_factors": factors, "lr_factors_until": until}
    return dataclasses.replace(train, epochs=epochs, seed=seed, **told)


def flags(scale: Scale) -> dict[str, Any]:
    """What of a scale decides numbers, as reproduce.json keeps it."""
    plain = ("width", "split", "fractions", "input", "per_slice", "steps")
    plain += ("gate_pool", "border", "score", "trunk_start", "fuse_norm")
    return {
        **{name: to_json(getattr(scale, name)) for name in plain},
        **{
            f"{name}.{field}": value
            for name in ("train", "ssd")
            for field, value in to_json(getattr(scale, name)).items()
        },
    }


def table() -> list[tuple[str, ...]]:
    """What every scale means in words: a head, then a row a quantity."""
    rows = [(what, *(told(scale) for scale in SCALES.values())) for what, told in ROWS.items()]
    return [("four phases", *SCALES), *rows]


def _length(scale: Scale) -> str:
    return f"{scale.steps:,} steps" if scale.steps else f"{scale.train.epochs} epochs"


def _optimizer(train: Train) -> str:
    kind = f"{train.optimizer} {train.momentum:g}" if train.optimizer == "sgd" else train.optimizer
    return f"{kind}, rate {train.lr:g}, batch {train.batch_size}"


def _falls(train: Train) -> str:
    if train.schedule != "steps":
        return f"{train.schedule} to {train.final_lr:g}"
    return f"times {train.drop_factor:g} at " + ", ".join(f"{drop:.3g}" for drop in train.drops)


def _split(scale: Scale) -> str:
    if scale.split == "official":
        return "official"
    return "patients, " + " ".join(f"{share:g}" for share in scale.fractions)


def _until(train: Train) -> str:
    factor = train.lr_factors[0][1]
    return f"{factor:g}, to the " + train.lr_factors_until.replace("_", " ")


def _range(pair: tuple[float, float]) -> str:
    return "{:g} to {:g}".format(*pair)


def _minutes(name: str) -> Callable[[Scale], str]:
    def told(scale: Scale) -> str:
        known = scale.minutes.get(name)
        return "not measured" if known is None else f"{known:g} on {scale.on}"

    return told


ROWS: dict[str, Callable[[Scale], str]] = {
    "phantom": lambda s: s.builder,
    "its patients": lambda s: str(s.patients),
    "train, val, test": _split,
    "input": lambda s: f"{SIDE_PX} px, {s.input}",
    "width": lambda s: f"{s.width:g}",
    "attention's factor D": lambda s: f"{s.gate_pool}" if s.gate_pool else "the model's own",
    "links at the border": lambda s: s.border or "the model's own",
    "PixelLink and MSCR score by": lambda s: s.score or "the model's own",
    "PixelLink's and MSCR's VGG starts by": lambda s: s.trunk_start or "the model's own",
    "PixelLink's fusion normalised by": lambda s: s.fuse_norm or "the model's own",
    "length": _length,
    "optimizer": lambda s: _optimizer(s.train),
    "rate falls": lambda s: _falls(s.train),
    "warm-up epochs": lambda s: f"{s.train.warmup_epochs:g}",
    "gradient clipped at": lambda s: f"{s.train.clip_norm:g}" if s.train.clip_norm else "never",
    "align factor": lambda s: _until(s.train),
    "photometric, crop": lambda s: f"{s.ssd.photometric}, {s.ssd.crop}",
    "brightness, contrast": lambda s: f"+-{s.ssd.brightness:.2g}, {_range(s.ssd.contrast)}",
    "expanded": lambda s: f"{s.ssd.expand_probability:.0%} up to {s.ssd.expand:g}",
    "registrations": lambda s: ", ".join(s.kinds),
    "registered": lambda s: "slice by slice" if s.per_slice else "by the central slice",
    "minutes, gssd": _minutes("gssd"),
    "minutes, gssd_pp": _minutes("gssd_pp"),
    "minutes, pixellink_pp": _minutes("pixellink_pp"),
    "minutes, mscr": _minutes("mscr"),
}
