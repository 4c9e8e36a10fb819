"""The Siamese network of PCA-YOLO alone: which patches of a slice hold a tumour?

    jaxdet data make phantom_demo --size tiny --out sets
    jaxdet train configs/siamese_phantom.py --data.path sets --out runs/siamese

Cost: minutes on 2 CPU cores, no download; sizes and recipe are those of the scale tiny, see the
table of docs/reproduce.md. Target: AUROC of 0.90 on patients held out (the paper's accuracy of
93.4 % is below that of never saying tumour). PCA-YOLO takes the RUN over with --model.siamese-from
runs/siamese, if both were split alike.
"""

import dataclasses

from jaxdet.config import Data, Evaluate, Experiment, Patches
from jaxdet.models import pca_yolo, siamese


def experiment() -> Experiment:
    """Pairs of 72 px, a quarter of Koch's width; patches of 16 px of 128 px slices."""
    return Experiment(
        model=siamese.Config(
            input_size=72,
            head="flat",
            width=0.25,
            rematerialise=False,  # so small that all of it fits into the memory
            patches=Patches(side=16, negative_share=0.1),
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
        train=dataclasses.replace(
            pca_yolo.SIAMESE_TRAIN, epochs=4, batch_size=48, lr=1e-3, patience=0
        ),
        evaluate=Evaluate(split="test"),
    )
