"""Configs: every value is checked, and a config survives JSON."""

import json

import pytest

from jaxdet import config, models


def test_unknown_field_names_the_nearest():
    with pytest.raises(ValueError, match=r"Train has no field 'leraning_rate'"):
        config.Train(leraning_rate=1.0)
    with pytest.raises(ValueError, match="did you mean 'batch_size'"):
        config.Train(batchsize=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"side": 0}, "side wants more than 0; got 0"),
        ({"min_overlap_px": -1.0}, "min_overlap_px wants 0 or more, finite; got -1.0"),
        ({"min_overlap_px": float("inf")}, "min_overlap_px wants 0 or more, finite; got inf"),
        ({"min_overlap_px": float("nan")}, "min_overlap_px wants 0 or more, finite; got nan"),
        ({"jitter_scale": (0.0, 1.0)}, "0 < low <= high <= 10"),
        ({"jitter_scale": (1.2, 0.8)}, "0 < low <= high <= 10"),
        ({"jitter_scale": (0.8, float("inf"))}, r"0 < low <= high <= 10; got \(0.8, inf\)"),
        ({"jitter_scale": (float("nan"), 1.0)}, "0 < low <= high <= 10"),
        ({"jitter_flip": 1.5}, "jitter_flip is a share; got 1.5"),
        ({"min_share": 0.0}, "min_share wants more than 0, at most 1; got 0.0"),
    ],
)
def test_patches_that_mean_nothing_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        config.Patches(**fields)
    assert config.Patches(min_overlap_px=0.0, jitter_scale=(10.0, 10.0)).side == 64


@pytest.mark.parametrize(
    ("side", "m", "multiple", "message"),
    [
        (500, 64, 1, "500 px .* of 64 px: .* sides are 448 and 512.* to a divisor of 500"),
        (20, 64, 1, "sides are 64 and 128"),
        (0, 64, 1, "sides are 64 and 128"),
        (80, 16, 32, "16 px and strides of 32 px: .* sides are 64 and 96. .* one of them$"),
        (100, 24, 32, "sides are 96 and 192"),
        (160, 64, 32, "sides are 128 and 192.* to a divisor of 160"),
        (64, 0, 1, "1 px or more; got 0 and 1"),
    ],
)
def test_a_side_that_does_not_divide_names_the_nearest(side, m, multiple, message):
    with pytest.raises(ValueError, match=message):
        config.check_side(side, m, multiple)


def test_sides_of_whole_patches_are_fine():
    for fine in ((512, 64), (64, 64), (7, 1), (96, 24, 32), (80, 16)):
        config.check_side(*fine)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "lion"}, "one of 'auto', 'sgd', 'adam', 'adamw'; got 'lion'"),
        ({"epochs": 1.5}, "epochs wants int"),
        ({"epochs": True}, "epochs wants int"),
        ({"lr": "fast"}, "lr wants float"),
        ({"freeze": "backbone"}, "freeze wants tuple"),
    ],
)
def test_wrong_values_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        config.Train(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folds": 1}, "Data.folds wants 2 or more; got 1"),
        ({"fold": 5}, "Data.fold wants 0 to 4, as folds says; got 5"),
        ({"folds": 3, "fold": -1}, "Data.fold wants 0 to 2, as folds says; got -1"),
        ({"val_share": 0.0}, "Data.val_share is a share between 0 and 1; got 0.0"),
        ({"val_share": float("nan")}, "Data.val_share is a share between 0 and 1"),
        ({"selection": "best"}, "one of 'nested', 'test_fold'; got 'best'"),
    ],
)
def test_folds_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        config.Data(**fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config.Train(batch_size=0), "Train.batch_size wants 1 or more; got 0"),
        (lambda: config.Train(epochs=-1), "Train.epochs wants 1 or more"),
        (lambda: config.Train(lr=float("nan")), "Train.lr wants 0 or more; got nan"),
        (lambda: config.Train(clip_norm=-1.0), "Train.clip_norm wants 0 or more"),
        (lambda: config.Train(patience=3, evaluate_every=5), "only every 5 are evaluated"),
        (lambda: config.Evaluate(batch_size=0), "Evaluate.batch_size wants 1 or more"),
        (lambda: config.Data(image_size=-32), "Data.image_size wants 1 or more"),
        (lambda: config.Data(window_hu=(200.0, 0.0)), "low < high"),
        (lambda: config.Data(fractions=(0.0, 0.0, 0.0)), "one > 0"),
        (lambda: config.Data(pad=(0.0, 0.0)), "one value or 3, one a channel; got 2"),
        (lambda: config.Augment(mixup=1.5), "Augment.mixup is a probability"),
        (lambda: config.Data(lesions=True, source="tfds"), 'masks go .* data.pipeline="ssd"'),
        (lambda: config.Data(lesions=True, pipeline="ssd"), "source='phantom' has only boxes"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_survives_json():
    made = config.Experiment(
        model=models.config("yolov8s", num_classes=3),
        data=config.Data(window_hu=(-150.0, 250.0), classes=("a", "b", "c"), pad=(0.0,)),
        train=config.Train(lr_factors=(("head/", 10.0),), freeze=("backbone/",)),
    )
    from jaxdet import run

    told = json.loads(json.dumps(config.to_json(made)))
    assert run.experiment_from_json("yolov8", told) == made
