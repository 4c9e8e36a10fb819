import dataclasses
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from jaxdet.cli import main
from jaxdet.data import inspection
from jaxdet.data.builders import BUILDERS, store
from jaxdet.data.phantom import SETS, cases
from jaxdet.types import PHASES


@pytest.fixture
def gssd(tmp_path):
    folder = tmp_path / "npy"
    folder.mkdir()
    for i in range(2):
        unit = np.random.default_rng(i).random((4, 3, 32, 32), np.float32)
        np.save(folder / f"HCC_1_{i}_ct.npy", unit)
        np.save(folder / f"HCC_1_{i}_bbox.npy", np.array([[2, 3, 9, 12, 0]]))
        np.save(folder / f"HCC_1_{i}_phase.npy", np.array(2))
    (folder / "metadata.txt").write_text("HCC_1_0|HCC_1\nHCC_1_1|HCC_1\n")
    return folder


def test_make_and_list(gssd, tmp_path, capsys):
    sets = tmp_path / "sets"
    main.main(["data", "make", "multiphase_ct", "--out", str(sets), "--path", str(gssd)])
    line = capsys.readouterr().out.strip()
    assert line.startswith("multiphase_ct/gssd: whole 2 slices of 1 patients; ")
    assert line.endswith(f"MiB in {sets / 'multiphase_ct/gssd' / store.VERSION}")
    main.main(["data", "list", "--path", str(sets)])
    told = capsys.readouterr().out
    assert line in told and all(name in told for name in BUILDERS)
    main.main(["data", "list", "--path", str(tmp_path / "nothing")])
    assert "nothing: none" in capsys.readouterr().out


def test_make_and_list_tell_faults_and_take_a_stored_window(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((32, 40), 51, np.uint8))
    rows = [f"{name},30,2,{x1},12" for name in ("a.png", "b.png") for x1 in (39, 45, 47)]
    (tmp_path / "boxes.csv").write_text("\n".join(["file,x0,y0,x1,y1", *rows]) + "\n")
    argv = ["data", "make", "sltd", "--layout", "csv", "--path", str(tmp_path / "boxes.csv")]
    argv += ["--out", str(tmp_path / "sets"), "--faulty-boxes", "drop"]
    with pytest.raises(SystemExit):
        main.main(argv)
    assert "--stored-window LOW HIGH" in capsys.readouterr().err
    main.main([*argv, "--stored-window", "-25", "125", "--spacing-mm", "0.7", "0.7", "5"])
    line = capsys.readouterr().out.strip()
    assert "whole 2 slices of 2 patients; faults: box partly outside 4; " in line
    main.main(["data", "list", "--path", str(tmp_path / "sets")])
    assert line in capsys.readouterr().out
    one = store.find(tmp_path / "sets", "sltd/csv").slices("whole")[0]
    assert one.hu[0, 0, 0] == pytest.approx(5.0) and one.spacing_mm == (0.7, 0.7, 5.0)


def test_errors_are_one_message_and_code_2(gssd, tmp_path, capsys):
    for argv, message in [
        (["make", "lits", "--out", str(tmp_path)], "jaxdet: lits wants --path, the data"),
        (["make", "nothing", "--out", str(tmp_path)], "jaxdet: there is no builder 'nothing'"),
    ]:
        with pytest.raises(SystemExit) as end:
            main.main(["data", *argv])
        assert end.value.code == 2 and message in capsys.readouterr().err
    for argv in ([], ["mkae"], ["make", "lits"], ["make", "lits", "--out", "x", "--size", "huge"]):
        with pytest.raises(SystemExit) as end:
            main.main(["data", *argv])
        assert end.value.code == 2


def test_neither_jax_nor_tensorflow_is_loaded(gssd, tmp_path):
    code = (
        "import sys; from jaxdet.cli.main import main\n"
        "main(['data', 'make', 'multiphase_ct', '--out', sys.argv[1], '--path', sys.argv[2]])\n"
        "main(['data', 'list', '--path', sys.argv[1]])\n"
        "import jaxdet.data; jaxdet.data.sources; jaxdet.data.builders\n"
        "print([m for m in ('jax', 'tensorflow', 'torch') if m in sys.modules])\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "sets"), str(gssd)],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=True,
    )
    assert told.stdout.splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """A four-phase set of three slices, small enough to be registered within seconds."""
    folder = tmp_path_factory.mktemp("sets")
    which = dataclasses.replace(SETS["multiphase"]["paper"], size=64)
    examples = [("whole", one) for one in cases(which, 0, 1, most=3)]
    store.write(folder, "phantom_multiphase/small", examples, {"class_names": ["tumour"]})
    return folder


def test_inspect_tells_what_is_there(phantom, tmp_path, capsys):
    out = tmp_path / "told"
    name = "phantom_multiphase/small"
    main.main(["data", "inspect", name, "--path", str(phantom), "--out", str(out)])
    told = capsys.readouterr().out
    found = json.loads((out / "inspect.json").read_text())
    truths = store.find(phantom, name).truths("whole")
    assert found["whole"] == {
        "slices": 3,
        "patients": 1,
        "boxes": sum(len(truth.labels) for truth in truths),
    }
    sides = [side for truth in truths for side in inspection.box_sides_mm(truth)]
    assert found["box_mm"]["mean"] == pytest.approx(np.mean(sides))
    assert found["phases"] == list(PHASES) and found["spacing_mm"]["z"]["mean"] == 2.25
    misaligned = np.concatenate([truth.misaligned_mm for truth in truths])
    assert found["misaligned_mm"]["count"] == len(misaligned)
    assert found["misaligned_mm"]["p50"] == pytest.approx(np.median(misaligned), abs=1e-3)
    assert "how far the phases lie apart at a lesion, mm: " in told
    assert set(found["liver_hu"]) == set(PHASES) and 0.5 < found["liver_dice"]["mean"] < 1
    assert "lesions that touch another: not known" not in told
    assert "3 slices" in told and "liver Dice with portal" in told and "faults    none" in told
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet.shape[1] == 4 * 320 and sheet.shape[0] == 3 * 320 and sheet.max() > 200


def test_inspect_of_a_set_without_masks_and_spacing(gssd, tmp_path, capsys):
    sets = tmp_path / "sets"
    main.main(["data", "make", "multiphase_ct", "--out", str(sets), "--path", str(gssd)])
    main.main(["data", "inspect", "multiphase_ct/gssd", "--path", str(sets)])
    told = capsys.readouterr().out
    assert "2 slices" in told and "liver" not in told and "nan" not in told
    assert "apart at a lesion" not in told
    assert "lesions that touch another: not known" in told
    folder = sets / "multiphase_ct/gssd/inspect"
    assert json.loads((folder / "inspect.json").read_text())["touching"] is None
    assert (folder / "contact_sheet.png").is_file()


def test_a_segmenter_stands_in_for_liver_masks(gssd, tmp_path, capsys, monkeypatch):
    (tmp_path / "my_livers.py").write_text("def bright(hu):\n    return hu > 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    sets, name = tmp_path / "sets", "multiphase_ct/gssd"
    main.main(["data", "make", "multiphase_ct", "--out", str(sets), "--path", str(gssd)])
    place = ["--path", str(sets), "--out", str(tmp_path / "told")]
    main.main(["data", "inspect", name, *place, "--segmenter", "my_livers:bright"])
    assert "liver Dice with portal" in capsys.readouterr().out
    found = json.loads((tmp_path / "told/inspect.json").read_text())
    case = store.find(sets, name).slices("whole")[0]
    livers = case.hu[:, :, 1::3] > 0
    portal = livers[..., case.phases.index("portal")]
    assert found["liver_dice"]["pairs"] == 6 and set(found["liver_hu"]) == set(PHASES)
    assert found["liver_hu"]["portal"]["count"] == 2
    hu = np.median(case.hu[:, :, 7][portal])
    assert (
        found["liver_hu"]["portal"]["p0"]
        <= round(float(hu), 3)
        <= found["liver_hu"]["portal"]["p100"]
    )
    main.main(["data", "figures", name, *place, "--segmenter", "my_livers:bright"])
    assert cv2.imread(str(tmp_path / "told/alignment.png")).shape[1] == 4 * 320
    for argv, message in (
        ([], "got none"),
        (["--segmenter", "my_livers:dark"], "'my_livers:dark' cannot be loaded"),
    ):
        with pytest.raises(SystemExit):
            main.main(["data", "figures", name, *place, *argv])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["inspect", "--sample", "0"], "--sample wants 1 or more; got 0"),
        (["figures", "--out", "x", "--sample", "-3"], "--sample wants 1 or more; got -3"),
        (["register", "--method", "rigid", "--workers", "0"], "--workers wants 1 or more; got 0"),
        (["register", "--method", "rigid", "--seed", "-1"], "--seed wants 0 or more; got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(phantom, capsys, argv, message):
    with pytest.raises(SystemExit) as end:
        main.main(["data", argv[0], "phantom_multiphase/small", "--path", str(phantom), *argv[1:]])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_register_and_figures(phantom, tmp_path, capsys):
    name = "phantom_multiphase/small"
    argv = ["data", "register", name, "--method", "rigid", "--path", str(phantom), "--central"]
    main.main([*argv, "--workers", "1"])
    assert capsys.readouterr().out.startswith("phantom_multiphase/small_rigid: whole 3 slices")
    before, after = (store.find(phantom, n).slices("whole")[0] for n in (name, f"{name}_rigid"))
    portal = slice(6, 9)
    assert np.array_equal(before.hu[..., portal], after.hu[..., portal])
    assert not np.array_equal(before.hu[..., :3], after.hu[..., :3])
    (truth, *_), (moved, *_) = (
        store.find(phantom, n).truths("whole") for n in (name, f"{name}_rigid")
    )
    assert np.isfinite(truth.misaligned_mm).all() and np.isnan(moved.misaligned_mm).all()
    assert store.find(phantom, f"{name}_rigid").metadata["registration"]["method"] == "rigid"
    assert not list((phantom / "phantom_multiphase").glob("*.work"))
    main.main(
        [
            "data",
            "figures",
            name,
            "--path",
            str(phantom),
            "--out",
            str(tmp_path),
            "--registered",
            f"{name}_rigid",
        ]
    )
    for file, rows in (("alignment.png", 3), ("registration.png", 6)):
        assert cv2.imread(str(tmp_path / file)).shape[:2] == (rows * 320, 4 * 320)
    for wrong, message in (
        (argv, "is there already"),
        ([*argv[:2], f"{name}_rigid", *argv[3:]], "is registered already"),
    ):
        with pytest.raises(SystemExit):
            main.main(wrong)
        assert message in capsys.readouterr().err
