import builtins
from typing import NamedTuple

import calm
import jax
import numpy as np
import pytest

from jaxdet import models
from jaxdet.bridge import onnx
from jaxdet.types import Array


class Outputs(NamedTuple):
    sums: Array


def test_the_extra_is_named_when_it_is_missing(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "jax2onnx":
            raise ImportError("No module named 'jax2onnx'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'jaxdet\[onnx\]'"):
        onnx.export(lambda v, x: Outputs(x), {}, np.zeros((1, 2, 2, 1), np.float32), tmp_path / "a")


def test_a_network_runs_in_onnxruntime_as_in_jax(tmp_path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    detector = models.build("yolov8n", num_classes=2)
    images = np.random.default_rng(0).random((2, 64, 64, 3)).astype(np.float32)
    variables = calm.variables(detector.module, images)
    path = tmp_path / "a.onnx"
    for old in (path, tmp_path / "a.onnx.data"):
        old.write_bytes(b"old")
    onnx.export(detector.module.apply, variables, images, path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
    session = onnxruntime.InferenceSession(str(path))
    wanted = detector.module.apply(variables, images)._asdict()
    assert [o.name for o in session.get_outputs()] == list(wanted)
    got = session.run(["box_logits"], {"images": images})[0]
    np.testing.assert_allclose(got, wanted["box_logits"], atol=1e-4)


def test_what_does_not_convert_says_so(tmp_path):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    images = np.zeros((1, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match=r"a\.onnx.*does not convert"):
        onnx.export(
            lambda v, x: Outputs(jax.lax.linalg.eigh(x[0, :, :, 0])[0]),
            {},
            images,
            tmp_path / "a.onnx",
        )
    assert not list(tmp_path.iterdir())
