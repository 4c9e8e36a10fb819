"""A small detector on built-in synthetic CT slices: the first thing to run.

    jaxdet train configs/demo.py --out runs/demo

Cost: under 5 minutes on 2 CPU cores, no download. The phantom draws body, liver, vessels and small
tumours; YOLOv8n learns to box the tumours from scratch. Target: an AP50 that has clearly left zero.
"""

from jaxdet import models
from jaxdet.config import Augment, Data, Evaluate, Experiment, Train


def experiment() -> Experiment:
    """192 px slices of 60 synthetic patients, split by patient."""
    return Experiment(
        model=models.config("yolov8n", channels=1, num_classes=1),
        data=Data(
            source="phantom",
            image_size=192,
            channels=1,
            window_hu=(-25.0, 175.0),
            pad=(0.0,),
            split="patient",
            fractions=(0.8, 0.2, 0.0),
            cache="ram",
            max_boxes=40,
            augment=Augment(scale=0.3, close_mosaic=5),
        ),
        train=Train(
            epochs=20,
            batch_size=16,
            nominal_batch=16,
            optimizer="adamw",
            lr=0.002,
            warmup_epochs=1.0,
            warmup_min_steps=0,
            warmup_bias_lr=0.0,
            ema_tau=100.0,
        ),
        evaluate=Evaluate(protocol="yolo"),
    )
