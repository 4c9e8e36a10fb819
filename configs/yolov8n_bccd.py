"""YOLOv8n from scratch on the BCCD blood-smear set (364 photographs, 3 classes, Pascal VOC boxes).

    jaxdet train configs/yolov8n_bccd.py --data.path BCCD --out runs/bccd

A check of the whole detector on real boxes, small enough for a CPU. Cost and result: see
scripts/reproduce/results/bccd.json. Target: val AP50 of 0.85 under protocol "yolo" (0.80 at least).
"""

from jaxdet import models
from jaxdet.config import Augment, Data, Evaluate, Experiment, Train


def experiment() -> Experiment:
    """320 px, AdamW, 120 epochs of mosaics, the last 20 without."""
    return Experiment(
        model=models.config("yolov8n", num_classes=3),
        data=Data(
            source="voc",
            path="BCCD",
            image_size=320,
            max_boxes=150,
            faulty_boxes="drop",
            cache="ram",
            augment=Augment(flip_ud=0.5, close_mosaic=20),
        ),
        train=Train(
            epochs=120,
            batch_size=8,
            nominal_batch=8,
            optimizer="adamw",
            lr=0.0015,
            schedule="cosine",
            warmup_bias_lr=0.0,
            ema_tau=500.0,
            evaluate_every=5,
            seed=0,
        ),
        evaluate=Evaluate(protocol="yolo", batch_size=16),
    )
