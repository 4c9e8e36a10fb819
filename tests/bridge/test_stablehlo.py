from typing import NamedTuple

import calm
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet import models
from jaxdet.bridge import parity, stablehlo
from jaxdet.models import yolov8
from jaxdet.ops import links
from jaxdet.types import Array, Detections

pytest.importorskip("flatbuffers")  # jax.export writes its files with it


class Outputs(NamedTuple):
    sums: Array
    rounded: Array
    absent: Array | None = None


def apply(variables, images):
    kernel = variables["params"]["part"]["kernel"]
    sums = jnp.einsum("bhwc,ck->bk", images, kernel) + variables["batch_stats"]["mean"]
    return Outputs(sums, jnp.round(sums).astype(jnp.int32))


VARIABLES = {
    "params": {"part": {"kernel": np.arange(6, dtype=np.float32).reshape(3, 2)}},
    "batch_stats": {"mean": np.ones(2, np.float32)},
}
IMAGES = np.random.default_rng(0).random((2, 4, 5, 3)).astype(np.float32)


def test_one_file_answers_for_any_batch(tmp_path):
    stablehlo.export(apply, VARIABLES, IMAGES, tmp_path / "a.stablehlo")
    assert [p.name for p in tmp_path.iterdir()] == ["a.stablehlo"]
    program = stablehlo.load(tmp_path / "a.stablehlo")
    for images in (IMAGES, np.concatenate([IMAGES] * 3)):
        wanted = apply(VARIABLES, images)
        got = program(images)
        np.testing.assert_allclose(got["sums"], wanted.sums, rtol=1e-6)
        np.testing.assert_array_equal(got["rounded"], wanted.rounded)
        assert "absent" not in got


def test_components_are_found_in_a_file_too(tmp_path):
    """Loops, scatters and top_k for a batch that is not known before."""

    def lesions(variables, scores):
        return links.decode(scores[..., :2], scores[..., 2:], stride=4, size=36, most=3)

    scores = np.random.default_rng(0).normal(0, 4, (2, 9, 7, 18)).astype(np.float32)
    stablehlo.export(lesions, VARIABLES, scores, tmp_path / "a.stablehlo")
    got = stablehlo.load(tmp_path / "a.stablehlo")(np.concatenate([scores] * 2))
    wanted = lesions({}, scores)
    assert (np.asarray(wanted.labels) == 0).any()
    for name, array in wanted._asdict().items():
        np.testing.assert_allclose(got[name][2:], array, rtol=1e-6)


def test_the_same_program_gives_the_same_weights_and_other_images_are_refused(tmp_path):
    stablehlo.export(apply, VARIABLES, IMAGES, tmp_path / "a.bin")
    program = stablehlo.load(tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"wants float32 images \[B, 4, 5, 3\].*\(2, 4, 5, 4\)"):
        program(np.zeros((2, 4, 5, 4), np.float32))
    with pytest.raises(ValueError, match="got uint8"):
        program(np.zeros((2, 4, 5, 3), np.uint8))


def test_a_difference_is_an_error_and_leaves_no_file(tmp_path, monkeypatch):
    good = stablehlo.load

    def wrong(path):
        return lambda images: {k: v + 1 for k, v in good(path)(images).items()}

    monkeypatch.setattr(stablehlo, "load", wrong)
    with pytest.raises(ValueError, match=r"sums differs by up to 1 at 4 places"):
        stablehlo.export(apply, VARIABLES, IMAGES, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"a\.bin.*no exported detector"):
        stablehlo.load(tmp_path / "a.bin")


def test_suppression_is_exported_with_an_open_batch(tmp_path):
    detector = models.build("yolov8n", num_classes=2, max_detections=5, nms_candidates=20)
    centres = np.random.default_rng(1).random((20, 2)).astype(np.float32) * 64

    def detect(variables, images):
        cells = images.reshape(images.shape[0], 20, 3)
        logits = cells @ variables["params"]["mix"]
        return detector.decode(
            yolov8.Outputs(logits[..., :64], logits[..., 64:], centres, np.full(20, 8, np.float32))
        )

    mix = np.random.default_rng(2).standard_normal((3, 66)).astype(np.float32)
    stablehlo.export(detect, {"params": {"mix": mix}}, IMAGES, tmp_path / "a.bin")
    found = Detections(**stablehlo.load(tmp_path / "a.bin")(np.concatenate([IMAGES, IMAGES])))
    assert found.boxes_xyxy.shape == (4, 5, 4)
    assert (found.labels >= 0).any()
    np.testing.assert_array_equal(found.scores[:2], found.scores[2:])


@pytest.mark.slow
def test_a_whole_detector_from_images_to_detections(tmp_path):
    detector = models.build("yolov8n", num_classes=2, max_detections=5, nms_candidates=20)
    images = np.random.default_rng(0).random((1, 64, 64, 3)).astype(np.float32)
    variables = calm.variables(detector.module, images)

    def detect(variables, images):
        return detector.decode(detector.module.apply(variables, images))

    stablehlo.export(detect, variables, images, tmp_path / "a.bin")
    found = Detections(**stablehlo.load(tmp_path / "a.bin")(np.concatenate([images, images])))
    assert found.boxes_xyxy.shape == (2, 5, 4)
    assert (found.labels[0] >= 0).any()
    np.testing.assert_array_equal(found.scores[0], found.scores[1])


@pytest.mark.parametrize(
    ("got", "fault"),
    [
        (np.array([1.0, 2.1]), "differs by up to 0.1 at 1 places"),
        (np.array([1.0, np.nan]), "differs by up to nan at 1 places"),
        (np.array([1.0]), r"has the shape \(1,\) instead of \(2,\)"),
    ],
)
def test_parity_says_what_differs(tmp_path, got, fault):
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(ValueError, match=fault):
        parity.check(tmp_path / "a", {"y": np.array([1.0, 2.0])}, {"y": got})
    assert not (tmp_path / "a").exists()


def test_parity_takes_rounding_but_no_wrong_integer(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    wanted = {"y": np.array([0.0, 640.0]), "empty": np.zeros((0, 4))}
    parity.check(tmp_path / "a", wanted, {"y": np.array([9e-5, 640.05]), "empty": np.zeros((0, 4))})
    assert (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="labels differs"):
        parity.check(
            tmp_path / "a", {"labels": np.array([10**6])}, {"labels": np.array([10**6 + 1])}
        )
