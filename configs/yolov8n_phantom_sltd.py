"""YOLOv8n on the prepared single-phase phantom: small tumours in 512 px portal slices.

    jaxdet data make phantom_sltd --size small --out sets
    jaxdet train configs/yolov8n_phantom_sltd.py --data.path sets --out runs/phantom_sltd

Cost and result: not measured; training wants a GPU. Shows how a prepared set is trained on: the
window of paper 1, a split by patient. `--data.builder` names
another set, such as phantom_sltd/paper.
"""

from jaxdet import models
from jaxdet.config import Augment, Data, Evaluate, Experiment, Train


def experiment() -> Experiment:
    """One grey channel, W150/L50, split by patient; no flips, for the liver has a side."""
    return Experiment(
        model=models.config("yolov8n", channels=1, num_classes=1),
        data=Data(
            source="tfds",
            path="sets",
            builder="phantom_sltd/small",
            image_size=512,
            channels=1,
            window_hu=(-25.0, 125.0),
            pad=(0.0,),
            split="patient",
            fractions=(0.7, 0.1, 0.2),
            max_boxes=40,
            augment=Augment(flip_lr=0.0),
        ),
        train=Train(epochs=100, batch_size=8, optimizer="adamw", lr=0.001, warmup_bias_lr=0.0),
        evaluate=Evaluate(protocol="coco"),
    )
