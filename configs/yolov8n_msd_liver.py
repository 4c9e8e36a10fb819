"""YOLOv8n finds the liver in portal-phase slices of the Medical Segmentation Decathlon, task 3.

    python scripts/reproduce/msd_liver.py prepare --source MSD_SLICES --out runs/msd_coco
    jaxdet train configs/yolov8n_msd_liver.py --data.path runs/msd_coco --out runs/msd_liver

Cost and result: scripts/reproduce/results/msd_liver.json. The slices are 8-bit with grey = HU
clipped to 0..255, so the window (0, 255) makes them equal to any CT that `jaxdet predict` reads in
HU. No target was published; held-out AP50 is recorded as it comes.
"""

from jaxdet import models
from jaxdet.config import Augment, Data, Evaluate, Experiment, Train


def experiment() -> Experiment:
    """256 px, one grey channel, split by patient; no flips, for the liver has a side."""
    return Experiment(
        model=models.config("yolov8n", channels=1, num_classes=1),
        data=Data(
            source="coco",
            path="runs/msd_coco",
            image_size=256,
            channels=1,
            window_hu=(0.0, 255.0),
            pad=(0.0,),
            split="patient",
            patient_pattern=r"_(\d+)_\d+\.",
            max_boxes=40,
            cache="ram",
            augment=Augment(mosaic=0.5, degrees=10.0, flip_lr=0.0, close_mosaic=15),
        ),
        train=Train(
            epochs=60,
            batch_size=8,
            nominal_batch=8,
            optimizer="adamw",
            lr=0.0015,
            schedule="cosine",
            warmup_bias_lr=0.0,
            ema_tau=300.0,
            evaluate_every=5,
        ),
        evaluate=Evaluate(protocol="coco", batch_size=16),
    )
