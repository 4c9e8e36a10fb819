"""The Siamese network of PCA-YOLO alone: which patches of a slice hold a tumour?

    jaxdet data make phantom_demo --size tiny --out sets
    jaxdet train configs/siamese_phantom.py --data.path sets --out runs/siamese

Cost: minutes on 2 CPU cores, no download. Target: AUROC of 0.90 on patients held out (the paper's
accuracy of 93.4 % is below that of never saying tumour; docs/reproduce.md). PCA-YOLO takes the
RUN over with --model.siamese-from runs/siamese, if both were split alike.
"""

import dataclasses

from jaxdet.config import Data, Evaluate, Experiment, Patches
from jaxdet.models import pca_yolo, siamese


def experiment() -> Experiment:
    """Pairs of 105 px as Koch's, a quarter of its width; patches of 16 px of 128 px slices."""
    return Experiment(
        model=siamese.Config(
            input_size=105,
            head="flat",
            width=0.25,
            patches=Patches(side=16, negative_share=0.25),
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
        ),
        train=dataclasses.replace(pca_yolo.SIAMESE_TRAIN, epochs=3, lr=1e-3, patience=0),
        evaluate=Evaluate(split="test"),
    )
