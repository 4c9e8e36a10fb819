"""PixelLink on the four-phase phantom, phases apart and fused by 1x1 convolutions.

    jaxdet data make phantom_multiphase --size small --out sets
    jaxdet train configs/pixellink_g_phantom.py --data.path sets --out runs/pixellink_g

Cost: not measured; no download, and a GPU is wanted. Sizes and recipe are those of the scale small,
see the table of docs/reproduce.md. Target: none was published for a phantom; `jaxdet reproduce
gssd-table1` prints the paper's numbers, of its own patients, beside ours.
"""

from jaxdet import models
from jaxdet.config import Evaluate, Experiment
from jaxdet.study.scales_gssd import PROTOCOL, SMALL, data, train_of


def experiment() -> Experiment:
    """300 px, four phases of three slices, fresh weights, the official split."""
    begun = {"trunk_start": SMALL.trunk_start, "fuse_norm": SMALL.fuse_norm}
    model = models.config("pixellink_g", width=SMALL.width, **begun)
    train = train_of(SMALL, model)
    return Experiment(
        model=model,
        data=data(SMALL, "sets"),
        train=train,
        evaluate=Evaluate(protocol=PROTOCOL, batch_size=train.batch_size),
    )
