"""PCA-YOLO as its paper trains it: 512 px slices, m = 64, YOLOv8x, the Siamese at full size.

    jaxdet data make phantom_sltd --size paper --out sets
    jaxdet train configs/pca_yolo_sltd.py --data.path sets --out runs/pca_yolo
    jaxdet crossval configs/pca_yolo_sltd.py --data.path sets --out cv/pca_yolo

Cost: not measured; nobody has run it here. Target: mAP50 77.2 +- 2.1 on SLTD (Table 1). For
your own SLTD: `jaxdet data make sltd --path SLTD --layout coco --out sets`, then
--data.builder sltd/coco. `--train.optimizer auto` is the other reading of the paper's "lr 5e-5,
remaining settings default": ultralytics' default optimizer ignores the rate (docs/reproduce.md).
"""

from jaxdet import models
from jaxdet.config import Data, Evaluate, Experiment
from jaxdet.study.scales import PAPER, WINDOW_HU


def experiment() -> Experiment:
    """The defaults of pca_yolo are the paper's; so are these of data and training."""
    return Experiment(
        model=models.config("pca_yolo"),
        data=Data(
            source="tfds",
            path="sets",
            builder=PAPER.builder,
            image_size=PAPER.side_px,
            channels=1,
            window_hu=WINDOW_HU,
            split="fold",
            folds=PAPER.folds,
            augment=PAPER.augment,
        ),
        train=PAPER.train,
        evaluate=Evaluate(protocol="yolo"),
    )
