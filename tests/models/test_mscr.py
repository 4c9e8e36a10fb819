"""MSCR: counts of the public code, and each of its parts against a second way to compute it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet import models
from jaxdet.models import mscr
from jaxdet.types import Batch

# Of the facts, gssd_baselines 7.
COUNTS = [
    (61_086_216, {"channels": 9, "phases": 3}),
    (
        61_160_459,
        {"channels": 9, "phases": 3, "segmentation": "multiscale", "segmentation_classes": 3},
    ),
    (87_711_368, {}),
    (87_785_482, {"segmentation": "multiscale"}),
]
NARROW = {"width": 1 / 16, "image_size": 64}
MAPPED = {**NARROW, "segmentation": "multiscale"}
QUICK = {"xla_backend_optimization_level": 0}  # programs that run once: not worth optimising
# Every word of every field that changes what is computed.
WORDS = [
    {},
    {"phases_fused": "concat"},
    {"segmentation": "multiscale"},
    {"segmentation": "multiscale", "segmentation_classes": 3},
    {"dtype": "bfloat16"},
    {"channels": 9, "phases": 3},
    {"channels": 3, "phases": 1},
    {"image_size": 75},
]


@pytest.mark.parametrize(("wanted", "fields"), COUNTS, ids=str)
def test_parameter_counts(wanted, fields):
    cfg = models.config("mscr", **fields)
    init = models.module(cfg).init
    shapes = jax.eval_shape(init, jax.random.key(0), *models.example(cfg, 0))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == wanted


@pytest.mark.parametrize("fields", WORDS, ids=str)
def test_every_word_has_outputs_of_one_shape(fields):
    cfg = models.config("mscr", **{**NARROW, **fields})
    module = models.module(cfg)
    image = jax.ShapeDtypeStruct((2, cfg.image_size, cfg.image_size, cfg.channels), jnp.float32)
    out, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    side = -(-cfg.image_size // 4)
    assert out.pixel_logits.shape == (2, side, side, 2)
    assert out.link_logits.shape == (2, side, side, 16)
    if cfg.segmentation == "none":
        assert out.segmentation_logits is None
    else:
        assert out.segmentation_logits.shape == (2, side, side, cfg.segmentation_classes)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype("float32")}


def random_like(shapes, scale):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: scale * rng.standard_normal(a.shape, np.float32), shapes)


def images(n=2, side=64, channels=12):
    return np.random.default_rng(1).uniform(0, 1, (n, side, side, channels)).astype(np.float32)


@functools.cache
def walked():
    """Variables, answers and everything on the way, of the narrow model with its map."""
    module = models.build("mscr", **MAPPED).module
    variables = random_like(jax.eval_shape(module.init, jax.random.key(0), images()), 0.1)
    apply = functools.partial(module.apply, capture_intermediates=True, mutable=True)
    call = jax.jit(apply, compiler_options=QUICK)

    def run(x):
        out, seen = jax.device_get(call(variables, x))
        return out, {
            name: part["__call__"]
            for name, part in seen["intermediates"].items()
            if "__call__" in part and name != "__call__"
        }

    return variables, run


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def recurrence(kernel, bias, x):
    """TensorFlow 1's ConvLSTMCell at kernel 1, place by place: [B, P, H, W, C] to its states."""
    hidden = kernel.shape[1] // 4
    states = np.zeros((*x.shape[:4], hidden))
    for b, y, z in np.ndindex(x.shape[0], *x.shape[2:4]):
        c, h = np.zeros(hidden), np.zeros(hidden)
        for p in range(x.shape[1]):
            told = np.concatenate([x[b, p, y, z], h]) @ kernel + bias
            new_in, new, forget, out = (told[k * hidden : (k + 1) * hidden] for k in range(4))
            c = sigmoid(forget + 1.0) * c + sigmoid(new_in) * np.tanh(new)
            h = np.tanh(c) * sigmoid(out)
            states[b, p, y, z] = h
    return states


@pytest.mark.parametrize("phases", [1, 4])
def test_the_recurrence_equals_a_plain_one(phases):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, phases, 3, 2, 6)).astype(np.float32)
    part = mscr.ConvLSTM(3)
    params = random_like(jax.eval_shape(part.init, jax.random.key(0), x), 1.0)
    gates = params["params"]["gates"]
    assert gates["kernel"].shape == (1, 1, 9, 12)
    wanted = recurrence(gates["kernel"][0, 0].astype(float), gates["bias"].astype(float), x)
    np.testing.assert_allclose(part.apply(params, x), wanted, atol=1e-5)


def convolved(kernel, bias, x):
    """A convolution of odd side with zeros around, place by place, and ReLU."""
    side = kernel.shape[0]
    padded = np.pad(x, ((0, 0), *[(side // 2, side // 2)] * 2, (0, 0)))
    out = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for y, z in np.ndindex(*x.shape[1:3]):
        window = padded[:, y : y + side, z : z + side].reshape(len(x), -1)
        out[:, y, z] = window @ kernel.reshape(-1, kernel.shape[-1]) + bias
    return np.maximum(out, 0)


@pytest.mark.parametrize("word", ["lstm", "concat"])
def test_phases_are_joined_in_their_order(word):
    """h_1 to h_T side by side, 3x3, 1x1, a ReLU behind each; or the phases and 1x1 (facts, 7)."""
    part = mscr.PHASES_FUSED[word](3)
    x = np.random.default_rng(5).standard_normal((2 * 3, 4, 3, 6)).astype(np.float32)
    params = random_like(jax.eval_shape(part.init, jax.random.key(0), x), 1.0)
    layers = params["params"]

    def layer(name, x):
        return convolved(layers[name]["kernel"].astype(float), layers[name]["bias"], x)

    seen = x.reshape(2, 3, 4, 3, 6)
    if word == "lstm":
        gates = layers["lstm"]["gates"]
        seen = recurrence(gates["kernel"][0, 0].astype(float), gates["bias"].astype(float), seen)
    joined = np.concatenate([seen[:, 0], seen[:, 1], seen[:, 2]], -1)
    wanted = layer("conv1x1", layer("conv3x3", joined) if word == "lstm" else joined)
    answer = np.asarray(part.apply(params, x))
    assert 0.1 < (answer == 0).mean() < 0.9
    np.testing.assert_allclose(answer, wanted, atol=1e-4)


def test_a_state_knows_its_phase_and_those_before():
    x = np.random.default_rng(3).standard_normal((1, 4, 2, 2, 4)).astype(np.float32)
    part = mscr.ConvLSTM(2)
    params = random_like(jax.eval_shape(part.init, jax.random.key(0), x), 1.0)
    other = x.copy()
    other[:, 2] += 1
    moved = np.abs(part.apply(params, x) - part.apply(params, other)).max((0, 2, 3, 4)) > 0
    np.testing.assert_array_equal(moved, [False, False, True, True])


def legacy(x, height, width):
    """TensorFlow 1's bilinear resize, pixel by pixel."""
    _, h, w, _ = x.shape
    out = np.zeros((x.shape[0], height, width, x.shape[3]))
    for i, j in np.ndindex(height, width):
        y, z = i * h / height, j * w / width
        y0, z0 = int(y), int(z)
        y1, z1, fy, fz = min(y0 + 1, h - 1), min(z0 + 1, w - 1), y - y0, z - z0
        upper = x[:, y0, z0] * (1 - fz) + x[:, y0, z1] * fz
        lower = x[:, y1, z0] * (1 - fz) + x[:, y1, z1] * fz
        out[:, i, j] = upper * (1 - fy) + lower * fy
    return out


@pytest.mark.parametrize("sizes", [(19, 38, 38, 75), (19, 19, 5, 5), (1, 3, 2, 7)], ids=str)
def test_maps_grow_as_tensorflow_1_grows_them(sizes):
    h, height, w, width = sizes
    x = np.random.default_rng(4).standard_normal((2, h, w, 3)).astype(np.float32)
    grown = mscr._grown(jnp.asarray(x), height, width)
    np.testing.assert_allclose(grown, legacy(x, height, width), atol=1e-5)


def test_scores_are_added_from_the_top_and_nothing_follows():
    _, run = walked()
    out, seen = run(images())

    def sums(name):
        found = [seen[f"{name}_3"][0]]
        for k in (2, 1, 0):
            finer = seen[f"{name}_{k}"][0]
            found.append(legacy(found[-1], *finer.shape[1:3]) + finer)
        return found

    np.testing.assert_allclose(out.pixel_logits, sums("pixel")[-1], atol=1e-4)
    np.testing.assert_allclose(out.link_logits, sums("link")[-1], atol=1e-4)


def test_the_map_sees_all_sums_the_finest_first():
    variables, run = walked()
    out, seen = run(images())
    sums = [seen["map_3"][0]]
    for k in (2, 1, 0):
        finer = seen[f"map_{k}"][0]
        sums.append(legacy(sums[-1], *finer.shape[1:3]) + finer)
    joined = np.concatenate([sums[-1], *(legacy(x, 16, 16) for x in sums[:-1])], -1)
    head = variables["params"]["map"]
    wanted = joined @ head["kernel"][0, 0] + head["bias"]
    np.testing.assert_allclose(out.segmentation_logits, wanted, atol=1e-4)


def test_one_trunk_reads_every_phase():
    """Exchanged phases give exchanged features; a phase changes its own stream only."""
    _, run = walked()
    x = images(1)
    swapped = np.concatenate([x[..., 9:], x[..., 3:9], x[..., :3]], -1)
    moved = x.copy()
    moved[..., 3:6] = 1 - moved[..., 3:6]
    as_it_was, exchanged, changed = (run(y)[1]["conv7"][0] for y in (x, swapped, moved))
    assert as_it_was.shape[0] == 4 and np.ptp(as_it_was, axis=0).max() > 0
    np.testing.assert_allclose(exchanged, as_it_was[[3, 1, 2, 0]], atol=1e-5)
    far = np.abs(changed - as_it_was).max((1, 2, 3)) > 1e-5
    np.testing.assert_array_equal(far, [False, True, False, False])


def test_images_of_a_batch_stay_apart():
    _, run = walked()
    both = run(images(2))[0]
    for i in range(2):
        alone = run(images(2)[i : i + 1])[0]
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b[0], atol=1e-5), both, alone
        )


def truth(boxes=((8, 8, 24, 28), (36, 32, 60, 44)), masks=True):
    """Two images: the first with all these boxes, the second without any."""
    padded, labels = np.zeros((2, 3, 4), np.float32), np.full((2, 3), -1, np.int32)
    lesions = np.zeros((2, 64, 64), np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        padded[0, i], labels[0, i] = (x0, y0, x1, y1), 0
        lesions[0, y0:y1, x0:x1] = i + 1
    index = np.arange(2, dtype=np.int32)
    return Batch(images(), padded, labels, index, lesions if masks else None)


def losses_of(out, batch, **fields):
    """Of the narrow model, compiled: quicker than one operation after the other."""
    loss = functools.partial(mscr.loss, cfg=models.config("mscr", **{**NARROW, **fields}))
    return jax.device_get(jax.jit(loss, compiler_options=QUICK)(out, batch))


def test_the_loss_is_twice_pixels_and_links_and_the_map():
    batch = truth()
    out = walked()[1](batch.images)[0]
    losses = losses_of(out, batch, segmentation="multiscale")
    logits = np.asarray(out.segmentation_logits, float)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    entropies = [
        -np.log(probs[b, y, x, int(batch.lesions[b, 4 * y, 4 * x] > 0)])
        for b, y, x in np.ndindex(2, 16, 16)
    ]
    assert losses["segmentation"] == pytest.approx(np.mean(entropies), rel=1e-5)
    total = 2 * losses["pixel"] + losses["link"] + losses["segmentation"]
    assert losses["total"] == pytest.approx(total, rel=1e-6)

    alone = losses_of(out._replace(segmentation_logits=None), truth(masks=False))
    assert set(alone) == {"pixel", "link", "total"}
    assert alone["total"] == pytest.approx(2 * losses["pixel"] + losses["link"], rel=1e-5)


def test_cells_of_a_mask_are_not_those_of_its_box():
    """A lesion that fills a corner of its box, as its box and as itself."""
    batch = truth(boxes=((8, 8, 40, 40),))
    batch.lesions[0, 20:40, 8:40] = 0
    batch.lesions[0, 8:40, 20:40] = 0
    batch.lesions[0, 39, 39] = 1
    out = walked()[1](batch.images)[0]._replace(segmentation_logits=None)
    by_box, by_mask = (losses_of(out, batch, truth=word)["total"] for word in ("box", "mask"))
    assert np.isfinite([by_box, by_mask]).all() and abs(by_box - by_mask) > 1e-3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"truth": "mask"}, r'model.truth="mask" wants the masks of lesions: set data.lesions'),
        (
            {"segmentation": "multiscale"},
            r"model.segmentation='multiscale' wants the masks.*data.lesions=True, or model.segment",
        ),
    ],
)
def test_missing_masks_are_refused_with_the_way_out(fields, words):
    with pytest.raises(ValueError, match=words):
        losses_of(walked()[1](images())[0], truth(masks=False), **fields)


def test_every_parameter_learns_and_nothing_is_infinite():
    """With the map; also from a batch without lesions."""
    detector = models.build("mscr", **MAPPED)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def step(variables, batch):
        def total(variables):
            losses = detector.loss(detector.module.apply(variables, batch.images), batch)
            return losses["total"], losses

        return jax.grad(total, has_aux=True)(variables)

    grads, losses = jax.device_get(step(walked()[0], truth()))
    assert np.isfinite([*losses.values()]).all()
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all() and grad.any(), path
    grads, losses = jax.device_get(step(walked()[0], truth(boxes=())))
    assert np.isfinite([*losses.values()]).all() and losses["link"] == 0
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))


def test_detections_are_in_pixels_of_the_image():
    """Of 75 px: the nineteenth cell has only three, and a box ends at the image's last px."""
    cfg = models.config("mscr", **{**NARROW, "image_size": 75, "max_detections": 5})
    pixels = np.tile(np.float32([5, -5]), (2, 19, 19, 1))
    pixels[0, 2:5, 3:7] = [-4, 4]  # rows 2 to 4, columns 3 to 6
    pixels[0, 10:, 17:] = [-1, 1]
    links = np.tile(np.float32([-9, 9]), (2, 19, 19, 8))
    decode = jax.jit(functools.partial(mscr.decode, cfg=cfg), compiler_options=QUICK)
    found = decode(mscr.Outputs(pixels, links, None))
    np.testing.assert_allclose(found.boxes_xyxy[0, :2], [[12, 8, 27, 19], [68, 40, 74, 74]])
    np.testing.assert_allclose(found.scores[0, :2], [sigmoid(8), sigmoid(2)], rtol=1e-5)
    np.testing.assert_array_equal(found.labels, [[0, 0, -1, -1, -1], [-1] * 5])
    assert not found.boxes_xyxy[0, 2:].any() and not found.boxes_xyxy[1].any()
    assert not found.scores[0, 2:].any() and not found.scores[1].any()


def test_the_authors_draw_a_box_around_a_turned_rectangle():
    """As the extent of the cells where a lesion lies straight; larger where it lies aslant."""
    cfg = models.config("mscr", **NARROW, max_detections=4)
    pixels = np.tile(np.float32([5, -5]), (16, 16, 1))
    pixels[2:5, 3:7] = [-4, 4]
    for k in range(6):  # a diagonal bar
        pixels[8 + k, 8 + k : 10 + k] = [-1, 1]
    links = np.tile(np.float32([-9, 9]), (16, 16, 8))
    found = models.official_decode(cfg)((pixels, links, np.zeros((16, 16, 2), np.float32)))
    ours = mscr.decode(mscr.Outputs(pixels[None], links[None], None), cfg=cfg)
    np.testing.assert_array_equal(found.labels, [0, 0, -1, -1])
    np.testing.assert_array_equal(found.boxes_xyxy[0], [12, 8, 27, 19])
    np.testing.assert_array_equal(ours.boxes_xyxy[0, :2], [[12, 8, 27, 19], [32, 32, 59, 55]])
    x0, y0, x1, y1 = found.boxes_xyxy[1]
    assert x0 <= 32 and y0 <= 32 and x1 >= 59 and y1 >= 55
    assert (x1 - x0) * (y1 - y0) > 27 * 23


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"channels": 10}, "multiple of the 4 phases; got 10"),
        ({"channels": 0}, "multiple of the 4 phases; got 0"),
        ({"phases": 0}, "model.phases wants 1 or more; got 0"),
        ({"link_threshold": -1.0}, r"model.link_threshold is a probability in \[0, 1\]; got -1"),
        ({"width": 0.0}, "model.width wants more than 0"),
        ({"num_classes": 2}, "model.num_classes wants 1; got 2"),
        ({"segmentation_classes": 1}, "none and lesion, or more; got 1"),
        ({"image_size": 31}, "model.image_size wants 32 px or more; got 31"),
        ({"phases_fused": "sum"}, "'lstm', 'concat'"),
    ],
)
def test_configs_that_cannot_be_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        models.config("mscr", **fields)


@pytest.mark.parametrize("shape", [(1, 64, 64, 3), (1, 32, 32, 12), (64, 64, 12)])
def test_images_that_do_not_fit_are_refused_with_the_way_out(shape):
    module = models.build("mscr", **NARROW).module
    with pytest.raises(ValueError, match=r"wants images \[B, 64, 64, 12\].*Set model.image_size"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize("start", ["xavier", "he"])
def test_training_starts_by_xavier_or_the_trunk_by_he(start):
    module = models.build("mscr", **MAPPED, trunk_start=start).module
    init = jax.jit(lambda key: module.init(key, images()), compiler_options=QUICK)
    params = jax.device_get(init(jax.random.key(0)))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        if leaf.ndim == 1:
            assert not leaf.any(), path
            continue
        h, w, inputs, outputs = leaf.shape
        outputs *= not (start == "he" and path[0].key.startswith("conv"))
        bound = (6 / (h * w * (inputs + outputs))) ** 0.5
        assert 0.7 * bound < np.abs(leaf).max() <= bound, path
