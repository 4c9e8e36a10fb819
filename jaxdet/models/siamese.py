"""Does this patch hold a tumour? The Siamese network of PCA-YOLO, which sees patch and slice.

Koch, Zemel, Salakhutdinov 2015: two inputs, one trunk, the distance of the two answers weighed.

    slice -----------> trunk -> pool -> dense, sigmoid -> h1 \\
                         | shared                              |h1 - h2| -> logit
    patch -> bicubic -> trunk -> pool -> dense, sigmoid -> h2 /

The slice passes the trunk once for all its patches. It is no detector: it scores patches, and
`cam` shows where in them it looks. Facts: pca_yolo 2, 4, 5.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from jaxdet.config import Patches, check_side, config
from jaxdet.losses.bce import bce
from jaxdet.nn import pool
from jaxdet.ops import fourier, images, patches, replicas, resample
from jaxdet.types import Array


class Stage(NamedTuple):
    """Some convolutions with ReLU, then perhaps a 2x2 maximum."""

    features: tuple[int, ...]  # of each convolution, before `width`
    kernel: int
    padding: Literal["VALID", "SAME"]
    pool: bool


TRUNKS = {
    "koch": (
        Stage((64,), 10, "VALID", True),
        Stage((128,), 7, "VALID", True),
        Stage((128,), 4, "VALID", True),
        Stage((256,), 4, "VALID", False),
    ),
    # The thirteen convolutions of VGG16 (Simonyan, Zisserman 2015).
    "vgg16": tuple(
        Stage((features,) * depth, 3, "SAME", True)
        for features, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    ),
}
DENSE = {"koch": 4096, "vgg16": 512}
CONVOLUTIONS = {"direct": None, "fourier": fourier.like_lax}  # None: Linen's own
LARGE_PX = 100  # inputs from which Fourier tiles gain on a CPU: 105 do, 3 times a step, 72 do not
IN_TURN_PX = 3 * 256 * 256  # of the images that pass a stage together, with fourier
GRIDS = {"pool7": 7, "pool6": 6, "gap": 1, "flat": 0}  # side after average pooling; 0: not pooled


@config
class Config:
    """Defaults are Koch's network on 512 px pairs, pooled to 7x7 before the dense layer.

    The paper's literal net does not fit its own GPU (head="flat" at 512 px: 3,289,537,345 weights);
    input_size=105 with head="flat" is Koch's own, 38,951,745.
    """

    # koch: the dense layer and its sigmoid come before the distance. vgg16: after it, without
    # sigmoid, as in bubbliiiing's Siamese; 81,824,577 with channels=3, head="flat"
    trunk: Literal["koch", "vgg16"] = "koch"
    # Between trunk and dense layer: means over 7x7 or 6x6 of PyTorch's adaptive bins, or nothing.
    # gap: one mean a channel and no dense layer; each channel's distance has one weight
    head: Literal["pool7", "pool6", "gap", "flat"] = "pool7"
    input_size: int = 512  # px to which slice and patches are brought
    width: float = 1.0  # times the channels of every layer, the dense one included
    channels: int = 1  # pca_yolo wants 1; the vgg16 above then has 81,823,425 weights
    # lecun: scaled by fan in (He's gain in VGG16, whose thirteen layers would fade). koch: of the
    # paper, with the dense layer's 0.2 brought from its 9216 inputs to ours
    init: Literal["lecun", "koch"] = "lecun"
    l2: float = 2e-4  # times the sum of squares of all kernels, in the loss
    bicubic_a: float = -0.75  # OpenCV's; -0.5 is Pillow's
    # Compute a stage again going back, instead of keeping it. On a CPU it is of use with "fourier"
    # alone: XLA joins the second computing of its own convolutions to the first
    rematerialise: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the convolutions; the rest is float32
    # fourier: the same numbers to rounding with less work (ops.fourier). auto: that for large
    # inputs of Koch's trunk on a CPU, else direct. All have the same parameters
    convolution: Literal["auto", "direct", "fourier"] = "auto"
    fitness: Literal["val_loss", "ap"] = "val_loss"  # what early stopping watches
    patches: Patches = Patches()

    def check(self) -> None:
        """Refuses an input that the trunk or the pooling cannot hold, and a start that fades."""
        fine = 0 < self.width < math.inf and self.channels >= 1 and 0 <= self.l2 < math.inf
        if not fine:  # NaN too
            raise ValueError(
                "a Siamese wants width above 0, channels of 1 or more, l2 of 0 or more, all finite;"
                f" got {self.width}, {self.channels}, {self.l2}"
            )
        if not -1 <= self.bicubic_a <= 0:
            raise ValueError(f"siamese.bicubic_a wants -1 to 0; got {self.bicubic_a}")
        if self.trunk == "vgg16" and self.init == "koch":
            raise ValueError(
                "init='koch' (deviation 0.01) fades in the thirteen layers of trunk='vgg16': "
                "set init='lecun'"
            )
        wanted = max(GRIDS[self.head], 1)
        if trunk_side(self.trunk, self.input_size) < wanted:
            least = next(s for s in itertools.count(1) if trunk_side(self.trunk, s) >= wanted)
            raise ValueError(
                f"head={self.head!r} wants {wanted}x{wanted} features or more, and "
                f"trunk={self.trunk!r} leaves fewer of input_size={self.input_size}; the smallest "
                f"input_size is {least}"
            )


def trunk_side(trunk: str, side: int) -> int:
    """Side of the trunk's features for an input of `side` px; 0 where nothing is left."""
    for stage in TRUNKS[trunk]:
        if stage.padding == "VALID":
            side -= len(stage.features) * (stage.kernel - 1)
        side = max(side // 2 if stage.pool else side, 0)
    return side


class Siamese(nn.Module):
    """Slices and some of their patches, in [0, 1] (or uint8), to one logit a patch."""

    cfg: Config

    def setup(self) -> None:
        """The parts; a dense layer that is not called has no parameters."""
        cfg = self.cfg
        self.trunk = Trunk(cfg)
        self.dense = nn.Dense(_scaled(cfg, DENSE[cfg.trunk]), **_dense_init(cfg))
        self.score = nn.Dense(1, **_score_init(cfg))

    def __call__(
        self,
        slices: Shaped[Array, "G H W C"],
        tiles: Shaped[Array, "G P m m C"],
        *,
        train: bool = False,
    ) -> Float[Array, "G P"]:
        """Logits, float32; a positive one says tumour. `train` changes nothing: no dropout here.

        All inputs pass the trunk in one batch, G + G P of them: the slice once, with the gradient
        of all its patches. No slices or no patches give no logits, [0, P] or [G, 0].
        """
        g, p = tiles.shape[:2]
        if not g:
            return jnp.zeros((g, p))
        flat = tiles.reshape(g * p, *tiles.shape[2:])
        h = self.embed(jnp.concatenate([self.enter(slices), self.enter(flat)]))
        return self.compare(h[:g], h[g:].reshape(g, p, h.shape[-1]))

    def enter(self, x: Shaped[Array, "N H W C"]) -> Float[Array, "N I I C"]:
        """Images as the trunk takes them: float32 in [0, 1], input_size px.

        Growing is bicubic and clipped to [0, 1], as OpenCV does on bytes; shrinking antialiased.
        """
        side, cfg = self.cfg.input_size, self.cfg
        if x.shape[-1] != cfg.channels or x.shape[1] != x.shape[2]:
            raise ValueError(
                f"a Siamese with channels={cfg.channels} wants square images [N, S, S, "
                f"{cfg.channels}]; got {x.shape}. Set siamese.channels as the data has them"
            )
        x = images.to_unit(x).astype(jnp.float32)
        if x.shape[1] > side:
            return resample.shrink(x, side, side)
        if x.shape[1] < side:
            return jnp.clip(resample.bicubic(x, side, side, cfg.bicubic_a), 0.0, 1.0)
        return x

    def features(self, x: Shaped[Array, "N H W C"]) -> Float[Array, "N h w F"]:
        """Activations of the last convolution, float32, 56x56 for Koch's trunk at 512 px."""
        return self.trunk(self.enter(x)).astype(jnp.float32)

    def project(self, features: Float[Array, "N h w F"]) -> Float[Array, "N E"]:
        """What is compared: pooled features, behind Koch's dense layer and sigmoid if he has it."""
        cfg, grid = self.cfg, GRIDS[self.cfg.head]
        if grid:
            rows, columns = (resample.average_matrix(n, grid) for n in features.shape[1:3])
            features = resample.apply(features, rows, columns)
        flat = features.reshape(features.shape[0], -1)
        return nn.sigmoid(self.dense(flat)) if _dense_at(cfg) == "before" else flat

    def embed(self, x: Shaped[Array, "N H W C"]) -> Float[Array, "N E"]:
        """One tower: images to what is compared."""
        return self.project(self.features(x))

    def compare(
        self, of_slice: Float[Array, "G E"], of_patches: Float[Array, "G P E"]
    ) -> Float[Array, "G P"]:
        """Logits of embedded patches against the slice that each came from."""
        distance = jnp.abs(of_slice[:, None] - of_patches)
        if _dense_at(self.cfg) == "after":
            distance = self.dense(distance)
        return self.score(distance)[..., 0]


class Trunk(nn.Module):
    """The convolutions that slice and patch share: trunk/conv1 .. conv4, in VGG16 conv1_1 .."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "N I I C"]) -> Float[Array, "N h w F"]:
        """Images to the activations of the last convolution, in the Config's dtype."""
        x = x.astype(self.cfg.dtype)
        for i, stage in enumerate(TRUNKS[self.cfg.trunk], 1):

            def run(trunk: nn.Module, x: Array, stage: Stage = stage, i: int = i) -> Array:
                return _run(trunk.cfg, stage, f"conv{i}", x)

            if self.cfg.rematerialise:
                run = LOOPS[_word(self.cfg)](nn.remat(run), x)
            x = run(self, x)
        return x


def _together(run: Callable, x: Array) -> Callable:
    return run


def _in_turn(run: Callable, x: Array) -> Callable:
    """The stage for a few images at a time, so that those before its pooling are never all there.

    Not with direct convolutions: on a CPU, their gradient is many times slower in a loop.
    """
    n, side = x.shape[:2]
    most = max(min(IN_TURN_PX // side**2, n), 1)
    # So many that few black images fill the last turn: 17 are 3 times 6 less 1, 16 are 4 x 4.
    some = min(range(most, most // 2, -1), key=lambda k: -n % k)

    def turns(trunk: nn.Module, x: Array) -> Array:
        loop = nn.scan(
            lambda trunk, _, part: (None, run(trunk, part)),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        x = jnp.pad(x, ((0, -n % some), (0, 0), (0, 0), (0, 0)))
        _, out = loop(trunk, None, x.reshape(-1, some, *x.shape[1:]))
        return out.reshape(-1, *out.shape[2:])[:n]

    return turns


LOOPS = {"direct": _together, "fourier": _in_turn}


def _word(cfg: Config) -> Literal["direct", "fourier"]:
    """What `convolution` says, or what the bench found faster here (scripts/bench/siamese.py)."""
    if cfg.convolution != "auto":
        return cfg.convolution
    large = cfg.trunk == "koch" and cfg.input_size >= LARGE_PX
    return "fourier" if large and jax.default_backend() == "cpu" else "direct"


def _run(cfg: Config, stage: Stage, name: str, x: Array) -> Array:
    for j, features in enumerate(stage.features, 1):
        if j > 1:
            x = nn.relu(x)
        x = nn.Conv(
            _scaled(cfg, features),
            (stage.kernel, stage.kernel),
            padding=stage.padding,
            dtype=jnp.dtype(cfg.dtype),
            conv_general_dilated=CONVOLUTIONS[_word(cfg)],
            name=name if len(stage.features) == 1 else f"{name}_{j}",
            **_conv_init(cfg),
        )(x)
    # The maximum before the last ReLU: the same numbers and gradients, on a quarter of the pixels.
    return nn.relu(pool.halve(x) if stage.pool else x)


def loss(
    logits: Float[Array, "G P"],
    labels: Float[Array, "G P"],
    weights: Float[Array, "G P"],
    params: Any,
    *,
    cfg: Config,
) -> dict[str, Array]:
    """Binary cross-entropy "bce", regularisation "l2" and their sum "total".

    bce is the weighted mean over the pairs of the whole batch of all replicas; pairs of weight 0
    are padding, and a batch of nothing else has bce 0. On a replica it is its share times the
    number of replicas, so that the mean over the replicas is the value of the whole batch. l2 is
    cfg.l2 times the sum of squares of all kernels (Koch 2015, 3.2); biases go free.
    """
    seen = replicas.mean(weights.sum())
    mean = (bce(logits, labels) * weights).sum() / jnp.where(seen > 0, seen, 1.0)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = [leaf for path, leaf in leaves if path[-1].key == "kernel"]
    l2 = cfg.l2 * sum(jnp.square(kernel).sum() for kernel in kernels)
    return {"bce": mean, "l2": l2, "total": mean + l2}


def score(
    cfg: Config, variables: Any, slices: Shaped[Array, "G S S C"], *, at_once: int = 16
) -> Float[Array, "G n"]:
    """Probability of a tumour for every patch of every slice, row by row.

    Each slice passes the trunk once and each patch once, `at_once` of them in memory together.
    """
    return nn.sigmoid(logits_of(cfg, variables, slices, at_once=at_once))


def logits_of(
    cfg: Config, variables: Any, slices: Shaped[Array, "G S S C"], *, at_once: int = 16
) -> Float[Array, "G n"]:
    """`score` before its sigmoid, which is 1.0 exactly for a logit above 17."""

    def some(call: Callable, tiles: Array, of_slice: Array) -> Array:
        h = call(tiles, method="embed")
        return call(of_slice[None], h[None], method="compare")[0]

    return _each(cfg, variables, slices, some, at_once)


def cam(
    cfg: Config, variables: Any, slices: Shaped[Array, "G S S C"], *, at_once: int = 16
) -> Float[Array, "G S S"]:
    """Where each patch speaks for a tumour: Grad-CAM of its logit, stitched; not yet normalised.

    ReLU(sum_k alpha_k A_k), A the last activations of the patch's branch and alpha_k the mean of
    d logit / d A_k over their pixels (Selvaraju 2017, Eq. 1-2); the slice's branch is a constant.
    Each map is resized to its patch, bilinearly, and where that is smaller with a wider kernel, so
    that no hot pixel falls between two.
    With head="gap" this is ReLU(sum_k a_k s_k A_k) / (h w), where a_k is the weight of channel k
    and s_k the sign of mean A_k - mean A_k of the slice.
    Departs: facts 5(i) has another form for that head, a_k |A_k - mean A_k of the slice| pixel by
    pixel.
    """
    side = cfg.patches.side

    def some(call: Callable, tiles: Array, of_slice: Array) -> Array:
        def logits(a: Array) -> Array:  # their sum: each depends on its own activations alone
            h = call(a, method="project")
            return call(of_slice[None], h[None], method="compare").sum()

        activations = call(tiles, method="features")
        alpha = jax.grad(logits)(activations).mean((1, 2), keepdims=True)
        heat = nn.relu((activations * alpha).sum(-1, keepdims=True))
        return resample.shrink(heat, side, side)[..., 0]

    return patches.stitch(_each(cfg, variables, slices, some, at_once))


def _each(cfg: Config, variables: Any, slices: Array, some: Callable, at_once: int) -> Array:
    """some(call, patches, their embedded slice) of all patches, [G, n, ...]; `at_once` together.

    Slice by slice, so that memory does not grow with their number, which an export leaves open.
    """
    call = functools.partial(Siamese(cfg).apply, variables)

    def of(x: Array) -> Array:
        (tiles,) = patches.crop(x[None], cfg.patches.side)
        (h,) = call(x[None], method="embed")
        n = tiles.shape[0]
        most = next(k for k in range(min(at_once, n), 0, -1) if n % k == 0)
        parts = tiles.reshape(n // most, most, *tiles.shape[1:])
        out = jax.lax.map(lambda part: some(call, part, h), parts)
        return out.reshape(n, *out.shape[2:])

    return jax.lax.map(of, slices)


def example(cfg: Config, side: int) -> tuple[Float[Array, "1 S S C"], Float[Array, "1 1 m m C"]]:
    """A black slice of `side` px and one patch of it, for the module's init."""
    m = cfg.patches.side
    check_side(side, m)
    return jnp.zeros((1, side, side, cfg.channels)), jnp.zeros((1, 1, m, m, cfg.channels))


def build(cfg: Config) -> Siamese:
    """The module of a Config; `loss`, `score` and `cam` take the same Config."""
    return Siamese(cfg)


def _scaled(cfg: Config, features: int) -> int:
    return max(round(features * cfg.width), 1)


def _dense_at(cfg: Config) -> Literal["before", "after", "nowhere"]:
    if cfg.head == "gap":
        return "nowhere"
    return "before" if cfg.trunk == "koch" else "after"


def _conv_init(cfg: Config) -> dict[str, Any]:
    if cfg.init == "koch":
        return {"kernel_init": nn.initializers.normal(0.01), "bias_init": _half}
    scaled = nn.initializers.he_normal if cfg.trunk == "vgg16" else nn.initializers.lecun_normal
    return {"kernel_init": scaled()}


def _dense_init(cfg: Config) -> dict[str, Any]:
    # Koch's 0.2 on 802,816 inputs would drown every sigmoid: brought from his 9216 (facts 4b).
    wide = nn.initializers.variance_scaling(0.2**2 * 9216, "fan_in", "normal")
    return {"kernel_init": wide, "bias_init": _half} if cfg.init == "koch" else {}


def _score_init(cfg: Config) -> dict[str, Any]:
    plain = {"kernel_init": nn.initializers.normal(0.2), "bias_init": _half}
    return plain if cfg.init == "koch" else {}


def _half(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32, **_: Any) -> Array:
    """Koch's start of every bias: N(0.5, 0.01)."""
    return 0.5 + 0.01 * jax.random.normal(key, shape, dtype)
