"""The command line as a user meets it: one RUN is imported, exported, used and scored."""

import json
import re

import calm
import cv2
import jax
import numpy as np
import pytest

from jaxdet import bridge, models
from jaxdet import run as runs
from jaxdet.bridge import read, write
from jaxdet.cli.main import VERBS, main
from jaxdet.config import Data, Experiment
from jaxdet.data import formats_coco
from jaxdet.data.formats import Truth
from jaxdet.models import siamese

CONFIG = """
from jaxdet import models
from jaxdet.config import Data, Experiment

def experiment():
    return Experiment(model=models.config("yolov8n", num_classes=1), data=Data({fields}))
"""


def fails(capsys, *argv):
    """What is printed to stderr by a command that ends with code 2, without a traceback."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in argv])
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert "Traceback" not in told.err
    return " ".join(told.err.replace("│", " ").split())  # tyro draws boxes as wide as the terminal


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A .safetensors with the official names of a YOLOv8n of two classes."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    variables = calm.variables(models.build("yolov8n", num_classes=2).module, image)
    path = tmp_path_factory.mktemp("weights") / "n.safetensors"
    write.write_state_dict(path, bridge.to_torch("yolov8n", variables, num_classes=2))
    return path


@pytest.fixture(scope="module")
def run(weights):
    """The RUN that these weights become."""
    path = weights.parent / "run"
    names = ["--class-names", "cyst", "tumour"]
    main(["import", "yolov8n", str(weights), "--out", str(path), "--image-size", "64", *names])
    return path


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Three images of noise with boxes, the classes in another order than the RUN's."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images").mkdir()
    rng, truths = np.random.default_rng(0), []
    for i in range(3):
        cv2.imwrite(str(folder / f"images/{i}.png"), rng.integers(0, 256, (48, 64, 3), np.uint8))
        boxes = np.array([[4, 4, 30, 40], [20, 10, 60, 30]][: i + 1], np.float32)
        sides = boxes[:, 2:] - boxes[:, :2]
        labels, crowd = np.zeros(len(boxes), np.int32), np.zeros(len(boxes), bool)
        truths.append(Truth(f"{i}.png", 48, 64, boxes, labels, crowd, sides.prod(1), ()))
    formats_coco.write(folder / "val.json", ("tumour", "cyst"), truths)
    return folder


def test_help_names_every_verb(capsys):
    main(["--help"])
    told = capsys.readouterr().out
    assert all(verb in told for verb in VERBS)


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("train", ("CONFIG", "--out", "--resume", "--train.lr")),
        (
            "train configs/demo.py",
            ("--out", "--resume", "--train.lr", "--model.size", "--data.path"),
        ),
        ("evaluate", ("RUN", "--split", "--protocol", "--source")),
        ("predict", ("RUN", "INPUT...", "--out", "--score", "--series-uid")),
        ("import", ("MODEL", "WEIGHTS", "--out", "--stem", "--channels")),
        ("export", ("RUN", "--format", "torch,onnx,stablehlo", "--out")),
    ],
)
def test_help_of_a_verb(capsys, monkeypatch, request, verb, words):
    monkeypatch.chdir(request.config.rootpath)
    with pytest.raises(SystemExit) as ended:
        main([*verb.split(), "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert [word for word in words if word not in told] == []


def test_what_is_not_there_is_named(capsys, tmp_path):
    assert "no verb 'detect'; there are train, " in fails(capsys, "detect")
    assert "no config file at none.py" in fails(capsys, "train", "none.py", "--out", tmp_path)
    assert "is not a RUN" in fails(capsys, "evaluate", tmp_path)
    assert "is not a RUN" in fails(capsys, "predict", tmp_path, "a.png", "--out", tmp_path / "p")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"config\.py has no function experiment\(\)"),
        ("def experiment(): return 3", r"config\.py has no function experiment\(\)"),
        ("import nothing_of_this_name", "config.py, line 1: ModuleNotFoundError"),
        ("x = 1\nx = (", "config.py, line 2: SyntaxError"),
        (CONFIG.format(fields="pth='a'"), r"config\.py, line 6: .*no field 'pth'.*'path'"),
    ],
)
def test_a_config_that_is_none(capsys, tmp_path, text, message):
    (tmp_path / "config.py").write_text(text)
    told = fails(capsys, "train", tmp_path / "config.py", "--out", tmp_path / "run")
    assert re.search(message, told)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--train.leraning-rate", "1"], ["Train has no field 'leraning_rate'"]),
        (["--train.epoch=1"], ["Train has no field 'epoch': did you mean 'epochs'?"]),
        (["--data.augment.mozaic", "1"], ["no field 'mozaic': did you mean 'mosaic'?"]),
        (["--model.chanels", "1"], ["no field 'chanels': did you mean 'channels'?"]),
        (["--evaluation.split", "val"], ["--evaluation.split", "--evaluate.split"]),
        (["--train.optimizer", "lion"], ["lion", "sgd", "adamw"]),
        (["--model.size", "xl"], ["'xl'", "--model.size", "('n', 's', 'm', 'l', 'x')"]),
        (["--train.epochs", "many"], ["--train.epochs", "many"]),
        (["--data.augment.mosaic", "3"], ["mosaic is a probability", "3"]),
        (["--data.channels", "4"], ["model.channels is 3 but data.channels is 4"]),
        (["--data.image-size", "60"], ["multiples of 32", "64"]),
        (["--train.batch-size", "3"], ["train.batch_size=3", "8 devices"]),
    ],
)
def test_a_wrong_flag(capsys, tmp_path, flags, words):
    (tmp_path / "config.py").write_text(CONFIG.format(fields="window_hu=(0, 200), image_size=64"))
    small = ["--data.phantom-patients", "9", "--data.phantom-slices", "1"]
    told = fails(capsys, "train", tmp_path / "config.py", "--out", tmp_path / "run", *small, *flags)
    assert [word for word in words if word not in told] == []
    assert not (tmp_path / "run").exists()


def test_there_and_back_gives_the_same_bytes(weights, run, tmp_path, capsys):
    out = tmp_path / "again" / "n.safetensors"
    main(["export", str(run), "--format", "torch", "--out", str(out)])
    assert out.read_bytes() == weights.read_bytes()
    assert str(out) in capsys.readouterr().out


def test_more_channels_than_the_weights(weights, tmp_path):
    for stem, fourth in (("zero", np.zeros_like), ("copy", lambda last: last)):
        folder = tmp_path / stem
        size = ["--channels", "4", "--image-size", "64", "--stem", stem]
        main(["import", "yolov8n", str(weights), "--out", str(folder), *size])
        main(["export", str(folder), "--format", "torch", "--out", str(folder / "a.pth")])
        old = read.read_state_dict(weights)["model.0.conv.weight"]
        new = read.read_state_dict(folder / "a.pth")["model.0.conv.weight"]
        np.testing.assert_array_equal(new[:, :3], old)
        np.testing.assert_array_equal(new[:, 3], fourth(old[:, 2]))


def test_import_refuses_what_does_not_fit(capsys, weights, run, tmp_path):
    new = ("--out", tmp_path / "run")
    assert "holds yolov8n, not yolov8s" in fails(capsys, "import", "yolov8s", weights, *new)
    strict = ("--channels", 4, "--stem", "strict")
    told = fails(capsys, "import", "yolov8n", weights, *new, *strict)
    assert "model.0.conv.weight: wanted float (16, 4, 3, 3), got (16, 3, 3, 3)" in told
    names = ("--class-names", "one")
    assert "2 classes; got 1" in fails(capsys, "import", "yolov8n", weights, *new, *names)
    assert "is a RUN already" in fails(capsys, "import", "yolov8n", weights, "--out", run)
    assert not (tmp_path / "run").exists()


def test_official_weights_are_a_detector_and_no_pca_yolo(capsys, weights, tmp_path):
    told = fails(capsys, "import", "pca_yolo", weights, "--out", tmp_path / "run")
    assert "holds yolov8n, not pca_yolo: the detector alone" in told
    assert "The first stage of pca_yolo, a Siamese network, has no official weights" in told
    command = f"jaxdet import yolov8n {weights} --channels 4 --out START"
    assert command in told and "--model.size n --train.init-from START" in told
    assert not (tmp_path / "run").exists()


def test_predict_and_export_refuse_a_siamese_network(capsys, tmp_path):
    cfg = siamese.Config(input_size=72, head="flat", width=0.1)
    data = Data(image_size=128, channels=1, window_hu=(-25.0, 125.0))
    runs.create(tmp_path / "run", Experiment(model=cfg, data=data), ("tumour",))
    told = fails(capsys, "predict", tmp_path / "run", "a.png", "--out", tmp_path / "out")
    assert "is a Siamese network, which has no boxes; predict with the RUN that holds it" in told
    assert f"--model.siamese-from {tmp_path / 'run'}" in told
    told = fails(capsys, "export", tmp_path / "run", "--format", "torch", "--out", tmp_path / "out")
    assert "has no boxes: export the RUN that holds it" in told
    assert not (tmp_path / "out").exists()


def test_predict_on_images_and_a_stack(run, tmp_path, capsys):
    rng = np.random.default_rng(1)
    cv2.imwrite(str(tmp_path / "a.png"), rng.integers(0, 256, (40, 50, 3), np.uint8))
    np.save(tmp_path / "b.npy", rng.random((32, 70, 3), np.float32))
    np.save(tmp_path / "c.npy", rng.integers(0, 256, (2, 64, 64), np.uint8))
    files = [str(tmp_path / name) for name in ("a.png", "b.npy", "c.npy")]
    main(["predict", str(run), *files, "--out", str(tmp_path / "out"), "--score", "0.3"])
    found = json.loads((tmp_path / "out/detections.json").read_text())
    images = json.loads((tmp_path / "out/images.json").read_text())["images"]
    sizes = {(i["file_name"], i.get("slice")): (i["width"], i["height"]) for i in images}
    assert sizes == {
        ("a.png", None): (50, 40),
        ("b.npy", None): (70, 32),
        ("c.npy", 0): (64, 64),
        ("c.npy", 1): (64, 64),
    }
    assert found
    assert {row["category_name"] for row in found} <= {"cyst", "tumour"}
    for row in found:
        width, height = next(
            (i["width"], i["height"]) for i in images if i["id"] == row["image_id"]
        )
        x, y, w, h = row["bbox"]
        assert 0 <= x <= x + w <= width + 1e-3
        assert 0 <= y <= y + h <= height + 1e-3
        assert 0.3 <= row["score"] <= 1
    assert all((tmp_path / "out/overlays" / i["overlay"]).is_file() for i in images)
    assert (tmp_path / "out/contact_sheet.png").is_file()
    assert f"{len(found)} detections on 4 images" in capsys.readouterr().out


def test_predict_refuses_a_ct_without_window(capsys, run, tmp_path):
    (tmp_path / "ct.nii").write_bytes(b"\0" * 400)
    told = fails(capsys, "predict", run, tmp_path / "ct.nii", "--out", tmp_path / "out")
    assert "ct.nii" in told
    assert "data.window_hu" in told


def test_evaluate_on_data_of_its_own(run, coco, capsys):
    told = fails(capsys, "evaluate", run)
    assert "was imported" in told
    assert "--source" in told
    where = ["--source", "coco", "--path", str(coco), "--protocol", "coco"]
    main(["evaluate", str(run), *where])
    summary = json.loads((run / "metrics/val_coco.json").read_text())
    assert (summary["images"], summary["truths"]) == (3, 5)
    assert [row["name"] for row in summary["per_class"]] == ["cyst", "tumour"]
    assert [row["truths"] for row in summary["per_class"]] == [0, 5]  # the RUN's order, not COCO's
    table = capsys.readouterr().out
    assert "AP, protocol coco" in table
    assert "tumour" in table
    assert "there is no annotations/test.json" in fails(
        capsys, "evaluate", run, *where, "--split", "test"
    )


def test_export_refuses_what_cannot_be(capsys, run, tmp_path):
    told = fails(capsys, "export", run, "--format", "torch", "--out", tmp_path / "a.npz")
    assert "a.npz" in told
    assert "caffe" in fails(capsys, "export", run, "--format", "caffe", "--out", "a")


@pytest.mark.parametrize("model", ["pixellink", "pixellink_g", "pixellink_pp"])
def test_official_pixellink_weights_are_imported_and_predict(model, tmp_path):
    cfg = models.config(model, width=1 / 8)
    module, image = models.from_config(cfg).module, models.example(cfg, 0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *image)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype("f"), shapes)
    weights = tmp_path / "official.safetensors"
    write.write_state_dict(weights, bridge.to_torch(model, variables, width=1 / 8))
    named = ["--image-size", "64", "--class-names", "lesion"]
    main(["import", model, str(weights), "--out", str(tmp_path / "run"), *named])
    run = runs.open_run(tmp_path / "run")
    assert run.experiment.model == models.config(model, width=1 / 8, image_size=64)
    assert run.experiment.data.image_size == 64 and run.class_names == ("lesion",)
    jax.tree.map(np.testing.assert_array_equal, run.weights(), variables)
    # A score threshold is a field of theirs too, so that predict may ask for surer lesions.
    found = run.predictor(1.0)(run.all_weights(), np.zeros((1, 64, 64, 12), np.float32))
    assert (np.asarray(found.labels) == -1).all()


def test_official_gssd_weights_are_imported_with_their_own_input(tmp_path, capsys):
    module = models.build("gssd").module
    image = models.example(models.config("gssd"), 0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *image)
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), shapes)
    state = bridge.to_torch("gssd", variables)
    weights = tmp_path / "gssd.safetensors"
    write.write_state_dict(weights, {f"module.{name}": tensor for name, tensor in state.items()})
    main(["import", "gssd", str(weights), "--out", str(tmp_path / "run")])
    run = runs.open_run(tmp_path / "run")
    assert run.phases() == (("arterial", "delayed", "portal", "precontrast"), 3)
    data = run.experiment.data
    assert (data.image_size, data.channels) == (300, 12)
    assert (data.pipeline, data.input) == ("ssd", "official")
    assert data.window_hu == (-150.0, 250.0)
    jax.tree.map(np.testing.assert_array_equal, run.weights(), variables)
    told = fails(capsys, "import", "gssd_pp", weights, "--out", tmp_path / "other")
    assert "holds gssd, not gssd_pp" in told
