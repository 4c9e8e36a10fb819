"""PCA-YOLO on the prepared demo phantom: a Siamese network points, YOLOv8n looks.

    jaxdet data make phantom_demo --size tiny --out sets
    jaxdet train configs/pca_yolo_phantom.py --data.path sets --out runs/pca_yolo

Cost: minutes on 2 CPU cores, no download; sizes and recipes are those of the scale tiny, see the
table of docs/reproduce.md. Both stages are in the one RUN, and `jaxdet predict` takes raw slices.
Target: none was published for a phantom; the ablations of this model, fold by fold, are `jaxdet
reproduce pca-table2`. What the paper leaves open is a field, such as --model.siamese.head gap or
--model.fit cross_fit (docs/reproduce.md).
"""

import dataclasses

from jaxdet import models
from jaxdet.config import Augment, Data, Evaluate, Experiment, Patches, Train
from jaxdet.models import pca_yolo, siamese


def experiment() -> Experiment:
    """128 px, 8 x 8 patches of 16 px, Koch's network at a quarter of its width."""
    return Experiment(
        model=models.config(
            "pca_yolo",
            size="n",
            siamese=siamese.Config(
                input_size=72,
                head="flat",
                width=0.25,
                rematerialise=False,  # so small that all of it fits into the memory
                patches=Patches(side=16, negative_share=0.1),
            ),
            siamese_train=dataclasses.replace(
                pca_yolo.SIAMESE_TRAIN, epochs=4, batch_size=48, lr=1e-3, patience=0
            ),
        ),
        data=Data(
            source="tfds",
            path="sets",
            builder="phantom_demo/tiny",
            image_size=128,
            channels=1,
            window_hu=(-25.0, 125.0),
            split="patient",
            cache="ram",
            augment=Augment(mosaic=0.3, mixup=0.1, scale=0.3, close_mosaic=5),
        ),
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
        evaluate=Evaluate(protocol="yolo"),
    )
