"""Oracles: the official name lists, and the index rule OIHW -> HWIO written out."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet import bridge, models
from jaxdet.bridge.infer import infer_fields
from jaxdet.bridge.torch_names import fit_stem


@functools.cache
def variables(name="yolov8n", channels=3, num_classes=2):
    """Random numbers in the model's own tree."""
    module = models.build(name, channels=channels, num_classes=num_classes).module
    image = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    rng = np.random.default_rng(0)
    draws = rng.random(4999, np.float32)  # over and over: drawing all 68 million of x is slow
    return jax.tree.map(lambda s: np.resize(rng.permutation(draws), s.shape), shapes)


@functools.cache
def state_dict(channels=3):
    return bridge.to_torch(
        "yolov8n", variables(channels=channels), channels=channels, num_classes=2
    )


def load(tensors, **fields):
    return bridge.from_torch("yolov8n", tensors, **{"num_classes": 2, **fields})


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    ("name", "case", "fields"),
    [
        ("yolov8n", "n_nc80_ch3", {"channels": 3, "num_classes": 80}),
        ("yolov8x", "x_nc1_ch4", {"channels": 4, "num_classes": 1}),
    ],
)
def test_names_order_and_shapes_are_the_official_ones(shared, name, case, fields):
    lines = (shared / f"golden/names/yolov8_statedict_{case}.txt").read_text().splitlines()
    official = [re.fullmatch(r"(\S+) \((.*)\)", line).groups() for line in lines]
    ours = bridge.to_torch(name, variables(name, **fields), **fields)
    assert [(k, ", ".join(map(str, a.shape))) for k, a in ours.items()] == [
        (k, shape.rstrip(",")) for k, shape in official
    ]


def test_there_and_back_is_bit_for_bit():
    back = load(state_dict())
    same(back, variables())
    again = bridge.to_torch("yolov8n", back, num_classes=2)
    assert list(again) == list(state_dict())
    for name, tensor in again.items():
        assert tensor.tobytes() == state_dict()[name].tobytes()
        assert tensor.dtype == (np.int64 if name.endswith("tracked") else np.float32)


def test_a_kernel_is_the_same_numbers_in_another_order():
    weight = state_dict()["model.8.m.0.cv2.conv.weight"]
    kernel = variables()["params"]["backbone"]["stage5"]["block_0"]["conv2"]["conv"]["kernel"]
    o, i, h, w = 3, 7, 2, 1
    assert weight[o, i, h, w] == kernel[h, w, i, o]
    assert weight.shape == (128, 128, 3, 3)


def test_constants_are_written_and_checked():
    assert state_dict()["model.0.bn.num_batches_tracked"].shape == ()
    np.testing.assert_array_equal(state_dict()["model.22.dfl.conv.weight"].ravel(), range(16))
    with pytest.raises(ValueError, match=r"dfl.*other values"):
        load(state_dict() | {"model.22.dfl.conv.weight": np.ones((1, 16, 1, 1), np.float32)})


def test_what_carries_no_information_may_be_absent():
    bare = {k: v for k, v in state_dict().items() if "tracked" not in k and "dfl" not in k}
    assert len(bare) == len(state_dict()) - 58
    same(load(bare), variables())


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "ema."])
def test_a_wrapper_prefix_is_dropped(prefix):
    same(load({prefix + k: v for k, v in state_dict().items()}), variables())


def test_the_ema_copy_is_preferred():
    ema = {f"ema.{k}": v for k, v in state_dict().items()}
    for prefix in ("", "model.", "module."):
        same(load({prefix + k: 0 * v for k, v in state_dict().items()} | ema), variables())


def test_half_precision_is_widened():
    half = {
        k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in state_dict().items()
    }
    loaded = load(half)["params"]["head"]["box_0"]["out"]["bias"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, half["model.22.cv2.0.2.bias"])


def test_every_kind_of_mismatch_is_listed():
    tensors = dict(state_dict())
    del tensors["model.0.bn.weight"]
    tensors["model.1.bn.bias"] = np.zeros(7, np.float32)
    tensors["model.1.bn.weight"] = np.zeros(32, np.int8)
    tensors["model.23.weight"] = np.zeros((1, 2))
    with pytest.raises(ValueError, match="4 tensors do not fit yolov8n") as caught:
        load(tensors)
    for line in (
        "model.0.bn.weight: wanted (16,), got nothing",
        "model.1.bn.bias: wanted float (32,), got (7,)",
        "model.1.bn.weight: wanted float (32,), got int8 (32,)",
        "model.23.weight: wanted nothing, got (1, 2)",
    ):
        assert line in str(caught.value)


def test_a_long_list_is_cut_after_twelve():
    with pytest.raises(ValueError, match=r"297 tensors(.*\n){13}.*and 285 more"):
        load({})
    with pytest.raises(
        ValueError, match=r"model\.22\.cv3\.0\.2\.bias: wanted float \(5,\), got \(2,\)"
    ):
        load(state_dict(), num_classes=5)


def test_variables_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"model\.0\.conv\.weight: wanted float"):
        bridge.to_torch("yolov8n", variables(), channels=4, num_classes=2)
    extra = {**variables()["params"], "gate": {"kernel": np.zeros((1, 1))}}
    with pytest.raises(ValueError, match=r"params/gate/kernel: wanted nothing, got \(1, 1\)"):
        bridge.to_torch("yolov8n", {**variables(), "params": extra}, num_classes=2)
    with pytest.raises(ValueError, match="no PyTorch names are known for 'yolo'"):
        bridge.to_torch("yolo", variables())


@pytest.mark.parametrize("word", ["channel", "self", "mtnet"])
def test_attention_has_no_place_in_the_official_model(word):
    """Refused by name before any tensor is written, and the words say what the names exist for."""
    message = (
        r"yolov8n: \d+ variables have no place in the official model, first "
        r"params/backbone/sppf_attention/.*default values only"
    )
    with pytest.raises(ValueError, match=message):
        bridge.to_torch("yolov8n", variables(), num_classes=2, attention=word)


@pytest.mark.parametrize(("stem", "weight"), [("zero", 0.0), ("mean", 1 / 3), ("copy", (0, 0, 1))])
def test_a_fourth_channel_follows_the_stem_rule(stem, weight):
    kernel = load(state_dict(), channels=4, stem=stem)["params"]["backbone"]["stem"]["conv"][
        "kernel"
    ]
    old = variables()["params"]["backbone"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel[:, :, :3], old)
    new = (old * np.broadcast_to(weight, 3)[:, None]).sum(axis=2)
    np.testing.assert_allclose(kernel[:, :, 3], new, rtol=1e-6)


def test_zero_is_the_default_and_strict_refuses():
    same(load(state_dict(), channels=4), load(state_dict(), channels=4, stem="zero"))
    with pytest.raises(ValueError, match=r"wanted float \(16, 4, 3, 3\), got \(16, 3, 3, 3\)"):
        load(state_dict(), channels=4, stem="strict")


@pytest.mark.parametrize("stem", ["zero", "mean", "copy"])
def test_one_channel_answers_as_grey_repeated(stem):
    weight = np.random.default_rng(0).random((5, 3, 3, 3), np.float32)
    grey = np.random.default_rng(1).random((3, 3))
    one = np.einsum("oihw,hw->o", fit_stem(weight, (5, 1, 3, 3), stem), grey)
    three = np.einsum("oihw,ihw->o", weight, np.stack([grey] * 3))
    np.testing.assert_allclose(one, three, rtol=1e-6)


def test_fewer_channels_than_the_weights_have_no_rule():
    with pytest.raises(ValueError, match=r"wanted float \(16, 2, 3, 3\), got \(16, 3, 3, 3\)"):
        load(state_dict(), channels=2)


@pytest.mark.parametrize("size", "nmx")
def test_name_and_fields_are_read_from_the_shapes(size):
    fields = {"channels": 4, "num_classes": 1}
    name = f"yolov8{size}"
    tensors = bridge.to_torch(name, variables(name, **fields), **fields)
    wrapped = {f"module.{k}": v for k, v in tensors.items()}
    assert infer_fields(wrapped) == (name, fields)
    assert len(tensors) == {"n": 355, "m": 475, "x": 595}[size]  # counted in the reference


def test_what_is_no_yolov8_is_not_guessed():
    with pytest.raises(ValueError, match="no YOLOv8 detector"):
        infer_fields({"layer.weight": np.zeros(3)})
    trunk = {"vgg.0.weight": np.zeros((64, 3, 3, 3)), "L2Norm.weight": np.zeros(512)}
    with pytest.raises(
        ValueError, match=r"wanted vgg.2.weight and loc.0.weight and conf.0.weight of"
    ):
        infer_fields(trunk)
    heads = dict.fromkeys(("loc.0.weight", "conf.0.weight"), np.zeros((16, 512, 3, 3)))
    with pytest.raises(ValueError, match=r"wanted vgg.2.weight of four axes"):
        infer_fields({**trunk, **heads, "vgg.2.weight": np.zeros((64, 0, 3, 3))})
