import importlib.util

import numpy as np
import pytest

from jaxdet.data.registration import BACKENDS, METHODS, register
from jaxdet.data.registration.dice import dice

needs_elastix = pytest.mark.skipif(
    importlib.util.find_spec("itk") is None, reason="itk-elastix is not installed"
)
BOTH = ["sitk", pytest.param("elastix", marks=needs_elastix)]


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("method", METHODS)
def test_a_known_shift_is_found(slice_of, method, backend):
    fixed, liver, lesion = slice_of(0)
    moving, moved_liver, moved_lesion = slice_of(1, shift=(4.0, -3.0))
    found = register(fixed, moving, method, backend=backend)
    assert found.displacement_px.dtype == np.float32
    # The moving pixel q shows the anatomy at q + shift, so p is found at p - shift.
    np.testing.assert_allclose(found.displacement_px[liver].mean(0), [-4, 3], atol=0.5)
    assert dice(liver, moved_liver) < 0.9 and dice(liver, found.warp_mask(moved_liver)) > 0.97
    assert dice(lesion, found.warp_mask(moved_lesion)) > 0.85 > dice(lesion, moved_lesion)


def left_over(displacement, shift=(0.0, 0.0), degrees=0.0, bend=0.0):
    """By how many px a recovered place shows another point of the anatomy than the pixel itself.

    The moving slice shows at q the anatomy at turn(q) + shift + bend, as conftest.draw does it.
    """
    y, x = np.indices(displacement.shape[:2])
    angle, middle = np.deg2rad(degrees), (len(x) - 1) / 2
    u, v = x + displacement[..., 0] - middle, y + displacement[..., 1] - middle
    off_x = np.cos(angle) * u - np.sin(angle) * v + middle + shift[0] + bend * np.sin(v / 14) - x
    off_y = np.sin(angle) * u + np.cos(angle) * v + middle + shift[1] + bend * np.sin(u / 16) - y
    return np.hypot(off_x, off_y)


@pytest.mark.parametrize("backend", BOTH)
def test_each_method_can_do_what_it_says(slice_of, backend):
    fixed, liver, _ = slice_of(0, size=128)
    warp = {"shift": (2.0, 1.0), "degrees": 5.0}
    turned = slice_of(1, **warp, size=128)[0]
    rigid = register(fixed, turned, "rigid", backend=backend).displacement_px
    before, after = (left_over(field, **warp)[liver].mean() for field in (0 * rigid, rigid))
    assert before > 2.5 and after < 0.5

    bent = slice_of(1, bend=4.0, size=128)[0]
    off = [
        left_over(register(fixed, bent, method, backend=backend).displacement_px, bend=4.0)
        for method in METHODS
    ]
    rigid, affine, nonrigid = (each[liver].mean() for each in off)
    assert nonrigid < 0.6 * affine and affine < 0.6 * rigid


@pytest.mark.parametrize(
    ("method", "backend"),
    [
        ("affine", "sitk"),
        ("nonrigid", "sitk"),
        pytest.param("affine", "elastix", marks=needs_elastix),
        pytest.param("nonrigid", "elastix", marks=[needs_elastix, pytest.mark.slow]),
    ],
)
def test_the_same_seed_gives_the_same_bytes(slice_of, method, backend):
    fixed, moving = slice_of(0)[0], slice_of(1, shift=(3, 2))[0]
    a, b, other = (
        register(fixed, moving, method, backend=backend, seed=seed).displacement_px.tobytes()
        for seed in (0, 0, 1)
    )
    assert a == b != other


def test_the_number_of_threads_is_left_as_it_was(slice_of):
    import SimpleITK

    process = SimpleITK.ProcessObject
    before = process.GetGlobalDefaultNumberOfThreads()
    process.SetGlobalDefaultNumberOfThreads(2)
    try:
        two = register(slice_of(0)[0], slice_of(1, (3, 2))[0], "affine").displacement_px
        assert process.GetGlobalDefaultNumberOfThreads() == 2
        process.SetGlobalDefaultNumberOfThreads(1)
        one = register(slice_of(0)[0], slice_of(1, (3, 2))[0], "affine").displacement_px
    finally:
        process.SetGlobalDefaultNumberOfThreads(before)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("size", [(16, 16), (16, 130), (33, 70)])
@pytest.mark.parametrize("method", METHODS)
def test_small_and_oblong_slices(size, method):
    rng = np.random.default_rng(0)
    fixed = rng.normal(50, 60, size).astype(np.float32)
    field = register(fixed, np.roll(fixed, 1, 1), method).displacement_px
    assert field.shape == (*size, 2) and np.isfinite(field).all()


@pytest.mark.parametrize("method", METHODS)
def test_with_nothing_to_align_all_stays(slice_of, method):
    fixed = slice_of(0)[0]
    for moving in (fixed.copy(), np.zeros_like(fixed), np.full_like(fixed, -1000)):
        assert not register(fixed, moving, method).displacement_px.any()
        assert not register(moving, fixed, method).displacement_px.any()


def test_what_cannot_be_registered_is_refused(slice_of, monkeypatch):
    fixed, moving = slice_of(0)[0], slice_of(1)[0]
    with pytest.raises(ValueError, match="knows rigid, affine, nonrigid; got 'demons'"):
        register(fixed, moving, "demons")
    with pytest.raises(ValueError, match="knows sitk, elastix; got 'ants'"):
        register(fixed, moving, "rigid", backend="ants")
    with pytest.raises(ValueError, match=r"two slices of one shape.*\(96, 96\) and \(95, 96\)"):
        register(fixed, moving[1:], "rigid")
    with pytest.raises(ValueError, match="16 px or more a side"):
        register(fixed[:15], moving[:15], "rigid")
    with pytest.raises(ValueError, match="wants 0 or more; got -1"):
        register(fixed, moving, "rigid", seed=-1)
    broken = moving.astype(np.float32)
    broken[3, 3] = np.nan
    with pytest.raises(ValueError, match="moving slice: 1 of 9216 pixels are NaN"):
        register(fixed, broken, "rigid")

    def gives_up(*_):
        raise RuntimeError("first line\nITK ERROR: all samples map outside")

    monkeypatch.setitem(BACKENDS, "sitk", gives_up)
    with pytest.raises(ValueError, match=r"rigid registration by sitk failed \(ITK ERROR: all"):
        register(fixed, moving, "rigid")


def test_without_elastix_the_way_out_is_said(slice_of, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "itk", None)
    with pytest.raises(ValueError, match=r'pip install "jaxdet\[registration\]"'):
        register(slice_of(0)[0], slice_of(1)[0], "rigid", backend="elastix")


@needs_elastix
def test_the_maps_are_those_of_the_paper():
    import itk

    from jaxdet.data.registration import elastix

    maps = elastix.parameters(itk, "nonrigid", 0)
    affine, spline = (maps.GetParameterMap(i) for i in range(maps.GetNumberOfParameterMaps()))
    assert affine["Transform"] == ("AffineTransform",)
    assert [float(v) for v in spline["GridSpacingSchedule"]] == [2.803221, 1.9881, 1.41, 1.0]
    assert float(spline["FinalGridSpacingInPhysicalUnits"][0]) == 8.0
    assert spline["NumberOfResolutions"] == ("4",)
