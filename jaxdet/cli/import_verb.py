"""jaxdet import MODEL WEIGHTS --out RUN."""

from typing import Annotated, Literal

import tyro

from jaxdet import bridge, models
from jaxdet import run as runs
from jaxdet.bridge import infer, read
from jaxdet.config import Data, Experiment


def main(argv: list[str]) -> None:
    """Imports official weights."""
    tyro.cli(import_weights, prog="jaxdet import", args=argv)


def import_weights(
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")],
    weights: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WEIGHTS")],
    out: str,
    channels: int | None = None,
    stem: Literal["zero", "mean", "copy", "strict"] = "zero",
    image_size: int | None = None,
    window_hu: tuple[float, float] | None = None,
    class_names: tuple[str, ...] = (),
) -> None:
    """Turns official PyTorch weights (.safetensors, .pth, .pt) into a RUN. Nothing in them is run.

    Args:
        model: the detector, such as yolov8n.
        weights: the file.
        out: the RUN folder to make.
        channels: input channels of the RUN; default: those of the weights.
        stem: what new input channels start with.
        image_size: px of the square that predictions are made on; default: the model's own, or 640.
        window_hu: low and high HU, for weights that were trained on windowed CT; default: the
            official model's.
        class_names: default: class_0, class_1 and so on.
    """
    state = read.read_state_dict(weights)
    found, fields = infer.infer_fields(state)
    if found != model:
        raise ValueError(f"{weights} holds {found}, not {model}{_way_out(model, found, weights)}")
    fields["channels"] = channels or fields["channels"]
    if image_size and hasattr(models.config(model), "image_size"):
        fields["image_size"] = image_size
    names = class_names or tuple(f"class_{i}" for i in range(fields["num_classes"]))
    if len(names) != fields["num_classes"]:
        raise ValueError(f"{weights} has {fields['num_classes']} classes; got {len(names)} names")
    variables = bridge.from_torch(model, state, stem=stem, **fields)
    cfg = models.config(model, **fields)
    # How the official model wants its images, with the phases in its own order, if it is of CT.
    official = dict(models.official_data(cfg))
    if window_hu is not None:
        official["window_hu"] = window_hu
    side = image_size or getattr(cfg, "image_size", 640)
    data = Data(image_size=side, channels=fields["channels"], classes=names, **official)
    phases = official.get("phases", ())
    facts = (
        {"phase_order": list(phases), "neighbours": cfg.channels // len(phases)} if phases else {}
    )
    run = runs.create(out, Experiment(model=cfg, data=data), names, imported_from=model, **facts)
    run.save_weights(variables)
    print(f"{out}: {model} with {fields['channels']} channels and {len(names)} classes")


def _way_out(model: str, found: str, weights: str) -> str:
    """How weights of a detector serve a model of two stages, if that is what was asked for."""
    if model not in models.DETECTORS or not models.has_stages(models.config(model)):
        return ""
    fields = models.config(found)
    return (
        f": the detector alone. The first stage of {model}, a Siamese network, has no official"
        f" weights. Import them as what they are, `jaxdet import {found} {weights} --channels 4"
        f" --out START`, and train {model} from there with --model.size {fields.size}"
        " --train.init-from START"
    )
