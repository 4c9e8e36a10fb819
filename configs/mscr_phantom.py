"""MSCR on the four-phase phantom: one VGG16 for every phase, a ConvLSTM over them, linked pixels.

    jaxdet data make phantom_multiphase --size small --out sets
    jaxdet train configs/mscr_phantom.py --data.path sets --out runs/mscr

Cost: not measured; no download, and a GPU is wanted: the trunk works once for each phase, and the
network has 88 million parameters. Sizes and recipe are those of the scale small, see the table of
docs/reproduce.md. Target: none was published for a phantom; `jaxdet reproduce gssd-table1` prints
the paper's numbers, of its own patients, beside ours. The segmentation branch is
--model.segmentation multiscale --data.lesions.
"""

from jaxdet import models
from jaxdet.config import Evaluate, Experiment
from jaxdet.study.scales_gssd import PROTOCOL, SMALL, data, train_of


def experiment() -> Experiment:
    """300 px, four phases of three slices, fresh weights, the official split."""
    model = models.config("mscr", width=SMALL.width, trunk_start=SMALL.trunk_start)
    train = train_of(SMALL, model)
    return Experiment(
        model=model,
        data=data(SMALL, "sets"),
        train=train,
        evaluate=Evaluate(protocol=PROTOCOL, batch_size=train.batch_size),
    )
