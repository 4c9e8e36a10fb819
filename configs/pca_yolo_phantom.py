"""PCA-YOLO on the prepared demo phantom: a Siamese network points, YOLOv8n looks.

    jaxdet data make phantom_demo --size tiny --out sets
    jaxdet train configs/pca_yolo_phantom.py --data.path sets --out runs/pca_yolo

Cost: not measured for itself; no download. Sizes and recipe are those of the scale tiny, see the
table of docs/reproduce.md. Both stages are in the one RUN, and `jaxdet predict` takes raw slices.
Target: none was published for a phantom; the ablations of this model, fold by fold, are `jaxdet
reproduce pca-table2`. What the paper leaves open is a field, such as --model.siamese.head gap or
--model.fit cross_fit.
"""

from jaxdet import models
from jaxdet.config import Data, Evaluate, Experiment
from jaxdet.study.scales import TINY, WINDOW_HU, siamese_config


def experiment() -> Experiment:
    """128 px, 8 x 8 patches of 16 px, fresh weights."""
    return Experiment(
        model=models.config(
            "pca_yolo",
            size=TINY.yolo,
            siamese=siamese_config(TINY, 8),
            siamese_train=TINY.siamese_train,
        ),
        data=Data(
            source="tfds",
            path="sets",
            builder=TINY.builder,
            image_size=TINY.side_px,
            channels=1,
            window_hu=WINDOW_HU,
            split="patient",
            cache="ram",
            augment=TINY.augment,
        ),
        train=TINY.train,
        evaluate=Evaluate(protocol="yolo"),
    )
