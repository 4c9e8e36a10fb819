"""Makes pixellink_float64.npz: gradients of the golden training steps by jaxdet in float64.

    JAXDET_SHARED=../shared python tests/golden/pixellink_float64.py

A copy of the package in which every float32 of nn, models, ops and losses is float64 takes the
step of each case. Kept are the tensors of `OFF`, whose golden in float32 is further than 1e-3 from
that, rounded to float32 at the end. Prints how far each is.
"""

import os
import pathlib
import shutil
import sys
import tempfile

OFF = {"pixellink": ("conv6.bias",)}
ABOUT = (
    "Gradients of the golden training step by jaxdet in float64 (every float32 of nn, models, ops "
    "and losses replaced), of tensors whose golden, in float32, is further than 1e-3 from them. "
    "Weights and inputs: recipe.py of the goldens. Made by pixellink_float64.py."
)
HERE = pathlib.Path(__file__).parent


def in_double(package: pathlib.Path, folder: pathlib.Path) -> None:
    """A copy of the package whose networks compute in float64."""
    copy = shutil.copytree(package, folder / "jaxdet")
    for room in ("nn", "models", "ops", "losses"):
        for file in (copy / room).rglob("*.py"):
            text = file.read_text()
            for single in ('jnp.dtype("float32")', "jnp.dtype(cfg.dtype)"):
                text = text.replace(single, 'jnp.dtype("float64")')
            file.write_text(text.replace("jnp.float32", "jnp.float64"))


def main() -> None:
    shared = pathlib.Path(os.environ["JAXDET_SHARED"])
    with tempfile.TemporaryDirectory() as folder:
        in_double(HERE.parents[1] / "jaxdet", pathlib.Path(folder))
        sys.path[:0] = [folder, str(HERE.parent / "models")]
        import jax

        jax.config.update("jax_enable_x64", True)
        import goldens
        import numpy as np
        import test_pixellink as tests

        from jaxdet import bridge, models

        kept = {"about": ABOUT}
        recipe = goldens.recipe(shared)
        for case, tensors in OFF.items():
            wanted, (name, fields, *_) = goldens.golden(shared, case), tests.CASES[case]
            variables = bridge.from_torch(name, goldens.official(shared, case), **fields)
            variables = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)
            detector = models.build(name, **fields, grouping="split")
            batch = tests.golden_batch(recipe)
            batch = batch._replace(images=np.asarray(batch.images, np.float64))

            def total(params, rest, detector=detector, batch=batch):
                given = {**rest, "params": params}
                out, changed = detector.module.apply(
                    given, batch.images, train=True, mutable=["batch_stats"]
                )
                return detector.loss(out, batch)["total"], changed

            rest = {key: tree for key, tree in variables.items() if key != "params"}
            grads, changed = jax.jit(jax.grad(total, has_aux=True))(variables["params"], rest)
            assert all(grad.dtype == np.float64 for grad in jax.tree.leaves(grads))
            stats = changed.get("batch_stats", {})
            exact = bridge.to_torch(name, {"params": grads, "batch_stats": stats}, **fields)
            for tensor in tensors:
                want, ours = wanted[f"train/grad/{tensor}"], exact[tensor]  # now in float32
                far = np.abs(ours.ravel() - want.ravel()).max() / np.abs(want).max()
                print(f"{case} {tensor}: the golden is {far:.1e} away")
                kept[f"{case}/{tensor}"] = ours
    np.savez(HERE / "pixellink_float64.npz", **kept)


if __name__ == "__main__":
    main()
