"""The Siamese network of PCA-YOLO alone: which patches of a slice hold a tumour?

    jaxdet data make phantom_demo --size tiny --out sets
    jaxdet train configs/siamese_phantom.py --data.path sets --out runs/siamese

Cost: not measured for itself; no download. Sizes and recipe are those of the scale tiny, see the
table of docs/reproduce.md. Target: AUROC of 0.90 on patients held out (the paper's accuracy of
93.4 % is about that of never saying tumour). PCA-YOLO takes the RUN over with --model.siamese-from
runs/siamese, if both were split alike.
"""

from jaxdet.config import Data, Evaluate, Experiment
from jaxdet.study.scales import TINY, WINDOW_HU, siamese_config


def experiment() -> Experiment:
    """Pairs of 72 px, a quarter of Koch's width; patches of 16 px of 128 px slices."""
    return Experiment(
        model=siamese_config(TINY, 8),
        data=Data(
            source="tfds",
            path="sets",
            builder=TINY.builder,
            image_size=TINY.side_px,
            channels=1,
            window_hu=WINDOW_HU,
            split="patient",
            cache="ram",
        ),
        train=TINY.siamese_train,
        evaluate=Evaluate(split="test"),
    )
