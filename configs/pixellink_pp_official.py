"""PixelLink++ as it was published, on the npy files of the official code (its data are not public).

    jaxdet data make multiphase_ct --layout gssd --path FOLDER --out sets
    jaxdet train configs/pixellink_pp_official.py --data.path sets --out runs/pixellink_pp

Cost: not measured; 60,000 steps of 32 images of 300 px and 12 channels. Recipe of the scale paper,
see the table of docs/reproduce.md: the official input pipeline, split and augmentation, SGD at 1e-3
with two drops, the align factor kept throughout. The epochs are those of the paper's 216 training
patients, about 3,660 images; for other data --train.epochs wants 60,000 * 32 / images.
Target: the paper's test AP at IoU 0.5 is 64.19 %, at IoBB 0.5 73.52 %, on ten patients; it does not
say by which weights. `jaxdet reproduce gssd-table1 --scale paper --path sets --builder
multiphase_ct/gssd` trains all rows, counts the steps itself and scores the best and the last.
"""

from jaxdet import models
from jaxdet.config import Evaluate, Experiment
from jaxdet.study.scales_gssd import PAPER, PROTOCOL, data, train_of


def experiment() -> Experiment:
    """PixelLink++; phases stay in the order of the set, which is not that of the files."""
    model = models.config("pixellink_pp", border="official", score="pixels")
    train = train_of(PAPER, model)
    return Experiment(
        model=model,
        data=data(PAPER, "sets", "multiphase_ct/gssd"),
        train=train,
        evaluate=Evaluate(protocol=PROTOCOL, batch_size=train.batch_size),
    )
