"""PCA-YOLO as its paper trains it: 512 px slices, m = 64, YOLOv8x, the Siamese at full size.

    jaxdet data make phantom_sltd --size paper --out sets
    jaxdet train configs/pca_yolo_sltd.py --data.path sets --out runs/pca_yolo
    jaxdet crossval configs/pca_yolo_sltd.py --data.path sets --out cv/pca_yolo

Cost: days on several GPUs; nobody has run it here. Target: mAP50 77.2 +- 2.1 on SLTD (Table 1). For
your own SLTD: `jaxdet data make sltd --path SLTD --layout coco --out sets`, then
--data.builder sltd/coco. `--train.optimizer auto` is the other reading of the paper's "lr 5e-5,
remaining settings default": ultralytics' default optimizer ignores the rate (facts of the paper in
docs/reproduce.md).
"""

from jaxdet import models
from jaxdet.config import Augment, Data, Evaluate, Experiment, Train


def experiment() -> Experiment:
    """The defaults of pca_yolo are the paper's; so are these of data and training."""
    return Experiment(
        model=models.config("pca_yolo"),
        data=Data(
            source="tfds",
            path="sets",
            builder="phantom_sltd/paper",
            image_size=512,
            channels=1,
            window_hu=(-25.0, 125.0),  # W150/L50
            split="fold",
            folds=5,
            augment=Augment(mosaic=0.3, mixup=0.1),
        ),
        train=Train(epochs=2000, batch_size=16, optimizer="adamw", lr=5e-5, patience=100),
        evaluate=Evaluate(protocol="yolo"),
    )
