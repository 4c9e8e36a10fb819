"""What tiny, small and paper mean in `jaxdet reproduce`: all sizes and recipes in one place.

"paper" is the recipe of PCA-YOLO (facts pca_yolo 1, 2, 4 and 6). The others shrink images, networks
and epochs, and learn faster for it; `ROWS` is the table that docs/reproduce.md shows.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from jaxdet.config import Augment, Patches, Train
from jaxdet.data import phantom
from jaxdet.models import pca_yolo, siamese

Name = Literal["tiny", "small", "paper"]
WINDOW_HU = (-25.0, 125.0)  # W150/L50
FULL_PX = 512  # of the paper's slices


@dataclasses.dataclass(frozen=True)
class Scale:
    """One scale. Its set is the phantom's; a set of the user's takes its place and nothing else."""

    kind: str  # of the phantom
    size: str  # of that phantom
    side_px: int  # of the square that enters the detector
    folds: int
    yolo: Literal["n", "s", "m", "l", "x"]
    train: Train  # of every detector
    augment: Augment
    siamese: siamese.Config  # its patches.side is set by `patch_side`
    siamese_train: Train
    free_slices: int  # without a tumour, a patient, beside the set
    # Of the common start of all detectors, as ultralytics' own begin with COCO weights: so many
    # epochs of YOLOv8 on other phantom patients. 0: fresh weights, as for a user's own set
    start_epochs: int = 0
    # Measured minutes of a whole table; none: not measured
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


PAPER = Scale(
    kind="sltd",
    size="paper",
    side_px=FULL_PX,
    folds=5,
    yolo="x",
    train=Train(epochs=2000, batch_size=16, optimizer="adamw", lr=5e-5, patience=100),
    augment=Augment(mosaic=0.3, mixup=0.1),
    siamese=siamese.Config(),
    siamese_train=pca_yolo.SIAMESE_TRAIN,
    free_slices=2,
)
SMALL = Scale(
    kind="sltd",
    size="small",
    side_px=256,
    folds=5,
    yolo="s",
    train=Train(
        epochs=200,
        batch_size=16,
        nominal_batch=16,
        optimizer="adamw",
        lr=5e-4,
        warmup_bias_lr=0.0,
        ema_tau=300.0,
        patience=0,
        evaluate_every=10,
    ),
    augment=Augment(mosaic=0.3, mixup=0.1),
    siamese=siamese.Config(input_size=256, width=0.5),
    siamese_train=dataclasses.replace(
        pca_yolo.SIAMESE_TRAIN, epochs=20, lr=3e-4, patience=10, evaluate_every=1
    ),
    free_slices=2,
)
TINY = Scale(
    kind="demo",
    size="tiny",
    side_px=128,
    folds=3,
    yolo="n",
    train=Train(
        epochs=9,
        batch_size=8,
        nominal_batch=8,
        optimizer="adamw",
        lr=0.002,
        warmup_epochs=1.0,
        warmup_min_steps=0,
        warmup_bias_lr=0.0,
        ema_tau=100.0,
        patience=0,
        evaluate_every=3,
    ),
    augment=Augment(mosaic=0.3, mixup=0.1, scale=0.3, close_mosaic=5),
    siamese=siamese.Config(
        input_size=72,
        head="flat",
        width=0.25,
        rematerialise=False,
        patches=Patches(negative_share=0.1),
    ),
    siamese_train=dataclasses.replace(
        pca_yolo.SIAMESE_TRAIN, epochs=4, batch_size=48, lr=1e-3, patience=0
    ),
    free_slices=2,
    start_epochs=30,
    minutes={"pca-table1": 50, "pca-table2": 51, "pca-table3": 14},  # sums of the trainings
    on="AMD EPYC, 2 cores, beside other jobs",
)
SCALES: dict[Name, Scale] = {"tiny": TINY, "small": SMALL, "paper": PAPER}


def patch_side(scale: Scale, parts: int) -> int:
    """m in px where so many patches lie on a side: 64, 128 and 256 for 8, 4 and 2 at 512 px.

    Below 512 pixels m is side/8, side/4, side/2.
    """
    return scale.side_px // parts


def siamese_config(scale: Scale, parts: int) -> siamese.Config:
    """The Siamese network for so many patches on a side."""
    cut = dataclasses.replace(scale.siamese.patches, side=patch_side(scale, parts))
    return dataclasses.replace(scale.siamese, patches=cut)


def table() -> list[tuple[str, ...]]:
    """What every scale means in words: a head, then a row a quantity."""
    rows = [(what, *(told(scale) for scale in SCALES.values())) for what, told in ROWS.items()]
    return [("", *SCALES), *rows]


def _epochs(train: Train) -> str:
    return f"{train.epochs}" + (f", patience {train.patience}" if train.patience else "")


def _optimizer(train: Train) -> str:
    return f"{train.optimizer} {train.lr:g}, batch {train.batch_size}"


def _minutes(name: str) -> Callable[[Scale], str]:
    def told(scale: Scale) -> str:
        known = scale.minutes.get(name)
        return "not measured" if known is None else f"{known:g} on {scale.on}"

    return told


ROWS: dict[str, Callable[[Scale], str]] = {
    "set": lambda s: s.builder,
    "patients": lambda s: str(s.patients),
    "pixels": lambda s: f"{s.side_px} x {s.side_px}",
    "m": lambda s: ", ".join(str(patch_side(s, parts)) for parts in (8, 4, 2)),
    "folds": lambda s: str(s.folds),
    "YOLOv8": lambda s: s.yolo,
    "detector epochs": lambda s: _epochs(s.train),
    "detector optimizer": lambda s: _optimizer(s.train),
    "common start": lambda s: f"{s.start_epochs} epochs" if s.start_epochs else "fresh weights",
    "mosaic, mixup": lambda s: f"{s.augment.mosaic:g}, {s.augment.mixup:g}",
    "Siamese": lambda s: f"{s.siamese.trunk} {s.siamese.head}, width {s.siamese.width:g}",
    "Siamese input": lambda s: f"{s.siamese.input_size} px",
    "Siamese epochs": lambda s: _epochs(s.siamese_train),
    "Siamese optimizer": lambda s: _optimizer(s.siamese_train),
    "negatives an epoch": lambda s: f"{100 * s.siamese.patches.negative_share:g} %",
    "slices without a tumour": lambda s: f"{s.free_slices} a patient",
    "minutes, pca-table1": _minutes("pca-table1"),
    "minutes, pca-table2": _minutes("pca-table2"),
    "minutes, pca-table3": _minutes("pca-table3"),
}
