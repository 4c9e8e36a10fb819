"""The tables of GSSD++ from nothing to their numbers, gone on with and refused, with toys."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import toy

from jaxdet import models
from jaxdet import run as runs
from jaxdet.config import SSDAugment, Train
from jaxdet.data import sources
from jaxdet.data.builders import registered, store
from jaxdet.metrics.audit import audit, to_json
from jaxdet.report import reproduced_gssd
from jaxdet.study import asked_gssd as asking
from jaxdet.study import kept, papers_gssd, scales_gssd, twins
from jaxdet.study import multiphase as study
from jaxdet.study.asked_gssd import Asked
from jaxdet.study.papers_gssd import EIGHT, FOUR, Row
from jaxdet.train import loop, unseen
from jaxdet.types import PHASES, CtSlice

BUILDER = "toy/phases"  # no phantom of ours, so nothing is made by itself
SCALE = dataclasses.replace(
    scales_gssd.TINY,
    train=Train(
        epochs=1,
        batch_size=8,
        nominal_batch=8,
        optimizer="adamw",
        warmup_epochs=0.0,
        lr_factors=scales_gssd.ALIGN_FACTORS,
    ),
    ssd=SSDAugment(crop="none"),
)
AUDIT = to_json(audit([], [], score_threshold=0.5, protocol="l0sg"))
TOYS = (
    Row("ssd", "SSD", dict.fromkeys(EIGHT, 50.0), "toy", {"width": 4}),
    Row("gssd", "GSSD", dict.fromkeys(EIGHT, 60.0), "toy", {"width": 6}),
    Row("mscr", "MSCR", dict.fromkeys(EIGHT, 55.57), "not there yet"),
)
TWINS = tuple(
    row._replace(title=f"{row.title}, {kind}", paper=dict.fromkeys(EIGHT), registration=kind)
    for row in TOYS[1:]
    for kind in ("rigid", "nonrigid")
)


def slices():
    """Two slices of each of five patients, a box and a liver in each."""
    rng = np.random.default_rng(0)
    for patient in range(5):
        for z in range(2):
            livers = np.zeros((16, 16, 4), bool)
            livers[:8, : 8 + z] = True
            livers[:8, : 8 - patient, 0] = True
            yield CtSlice(
                hu=rng.integers(-100, 200, (16, 16, 12)).astype(np.int16),
                boxes_xyxy=np.array([[2, 3, 8, 9]], np.float32),
                labels=np.zeros(1, np.int32),
                diameters_mm=np.full(1, 8, np.float32),
                lesions=None,
                livers=livers if patient else livers & (np.arange(4) == 2),
                displacement_mm=None,
                spacing_mm=(1.0, 1.0, 2.0),
                phases=PHASES,
                annotated="portal",
                touching=0,
                patient=f"p{patient}",
                name=f"p{patient} slice {z}",
                z=z,
            )


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A set of five patients, and the same slices once more as a twin that is called non-rigid."""
    folder, metadata = tmp_path_factory.mktemp("sets"), {"class_names": ["lesion"], "seed": 0}
    told = {"method": "nonrigid", "backend": "sitk", "per_slice": False, "seed": 0}
    for name, more in ((BUILDER, {}), (f"{BUILDER}_nonrigid", {"registration": told})):
        store.write(folder, name, (("whole", one) for one in slices()), {**metadata, **more})
    return folder


def trained(experiment, place, *, resume):
    """A RUN that says what was trained, without weights."""
    splits = {name: sources.load(experiment.data, name) for name in ("train", "val")}
    told = unseen.digests(experiment.data, splits["train"], splits["val"])
    return runs.create(place, experiment, ("lesion",), **told)


def scored(run):
    """Numbers that differ from row to row, seed to seed and file to file."""
    for which in study.WEIGHTS:
        for split in study.SPLITS:
            key = f"{run.path.parent.name} {run.path.name} {which} {split}"
            values = np.random.default_rng(list(key.encode())).uniform(0.2, 0.9, 6)
            row = dict(zip(kept.OVERLAPS, values.tolist(), strict=True))
            told = {"weights": which, "split": split, "other_data": False, "audit": AUDIT}
            told |= {"boxes": "model", "full": 2 if key.startswith("ssd seed_1 best val") else 0}
            told |= {"images": 2, "truths": 2, "threshold": 0.5, "protocol": "l0sg"}
            told |= dict.fromkeys(kept.METRICS, 0.5)
            half = {overlap: value / 2 for overlap, value in row.items()}
            told["protocols"] = [{"protocol": "coco"}, {"protocol": "l0sg", **row}]
            told["protocols"].append({"protocol": "fixed", **half})
            run.write_metrics(study._name(split, which), told)
            if models.draws_otherwise(run.experiment.model):
                third = {overlap: value / 3 for overlap, value in row.items()}
                told["protocols"] = [{"protocol": "l0sg", **third}]
                told["boxes"] = "official"
                run.write_metrics(study._name(split, which, "official"), told)


PLAIN = loop.train, study.score


def quick(patch):
    """Toys for networks, and numbers out of a hat."""
    toy.enlist(patch.setitem)
    patch.setattr(loop, "train", trained)
    patch.setattr(study, "score", scored)
    patch.setattr(models, "draws_otherwise", lambda cfg: cfg.width == 6)  # the row gssd
    patch.setattr(scales_gssd, "SIDE_PX", 16)
    patch.setitem(scales_gssd.SCALES, "tiny", SCALE)
    patch.setitem(papers_gssd.TABLES, "gssd-table1", TOYS)
    patch.setitem(papers_gssd.TABLES, "gssd-tableS1", TWINS)
    sensitivities = [row._replace(paper=dict.fromkeys((*EIGHT, "mean"))) for row in TWINS]
    patch.setitem(papers_gssd.TABLES, "gssd-tableS2", tuple(sensitivities))
    patch.setitem(papers_gssd.TABLES, "gssd-fig5", (*TOYS[1:], *TWINS))


@pytest.fixture(autouse=True)
def enlisted(monkeypatch):
    quick(monkeypatch)


def asked(sets, **fields):
    return Asked(**{"table": "gssd-table1", "path": str(sets), "builder": BUILDER, **fields})


def run(out, one, *, say=lambda text: None, **fields):
    return study.reproduce(one, out, say=say, **fields)


def read(file):
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def straight(sets, tmp_path_factory):
    """Two seeds of Table I that nothing disturbed: its folder, what it holds, what was told."""
    out, told = tmp_path_factory.mktemp("straight") / "out", []
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        result = run(out, asked(sets, seeds=2), say=told.append)
    return out, result, told


def test_the_table_holds_the_paper_beside_ours(straight):
    out, result, told = straight
    assert read(out / "gssd-table1.json") == json.loads(json.dumps(result))
    rows = {row["name"]: row for row in result["rows"]}
    assert [row["state"] for row in rows.values()] == ["trained", "trained", "not built"]
    assert "MSCR: not built" in told and "seeds" not in rows["mscr"]
    assert rows["gssd"]["paper"] == dict.fromkeys(EIGHT, 60.0)
    assert result["protocol"] == "l0sg" and result["metrics"] == list(EIGHT)
    of = result["set"]
    assert sum(of[split]["patients"] for split in ("train", "val", "test")) == 5
    for name in ("ssd", "gssd"):
        row = rows[name]
        assert [one["seed"] for one in row["seeds"]] == [0, 1]
        for which, file in (("best", "val_l0sg"), ("latest", "val_l0sg_latest")):
            for seed, one in enumerate(row["seeds"]):
                kept = read(out / "rows" / name / f"seed_{seed}" / "metrics" / f"{file}.json")
                assert kept["weights"] == which and kept["split"] == "val"
                (line,) = [r for r in kept["protocols"] if r["protocol"] == "l0sg"]
                assert one[which]["val IoBB70"] == line["iobb70"]
            values = [one[which]["test IoU50"] for one in row["seeds"]]
            assert row[which]["n"]["test IoU50"] == 2
            assert row[which]["mean"]["test IoU50"] == pytest.approx(np.mean(values))
            assert row[which]["sd"]["test IoU50"] == pytest.approx(np.std(values, ddof=1))
            fixed = row["beside"]["fixed"][which]["mean"]  # half of it in these files
            assert fixed["test IoU50"] == pytest.approx(np.mean(values) / 2)
        for which in study.WEIGHTS:
            values = {
                kind: told[which]["mean"]["val IoU30"] for kind, told in row["beside"].items()
            }
            wanted = {"fixed": row[which]["mean"]["val IoU30"] / 2}
            if name == "gssd":
                wanted["l0sg, official boxes"] = row[which]["mean"]["val IoU30"] / 3
            assert values == pytest.approx(wanted)
    full = [one["full"] for name in ("ssd", "gssd") for one in rows[name]["seeds"]]
    assert [one["best"]["val"] for one in full] == [0, 2, 0, 0]
    assert all(one["best"]["test"] == 0 for one in full)


def test_the_text_of_the_table(straight):
    lines = reproduced_gssd.text(straight[1]).splitlines()
    assert lines[0].startswith("gssd-table1, scale tiny: toy/phases; train 3 patients")
    assert lines[1].startswith("nonrigid: registered to the portal phase, all slices by")
    place = lines.index("MSCR")
    assert lines[place + 1].split() == ["paper", *["55.57"] * 8]
    assert lines[place + 2].split() == ["not", "built", *["-"] * 8]
    place = lines.index("GSSD")
    assert lines[place + 2].startswith("  best on val") and "+-" in lines[place + 2]
    assert lines[place + 3].startswith("  last") and "fixed" not in lines[place + 3]
    assert lines[place + 4].startswith("  best on val, fixed")
    assert lines[place + 5].startswith("  last, fixed")
    assert lines[place + 6].startswith("  best on val, l0sg, official boxes")
    (told,) = (line for line in lines if "as many detections as fit" in line)
    assert told.startswith("SSD, seed 1: 2 images of val and 0 images of test hold")


def test_going_on_trains_nothing_anew_and_more_seeds_join(straight, sets, tmp_path, monkeypatch):
    out = shutil.copytree(straight[0], tmp_path / "out")
    calls = []

    def train(experiment, place, *, resume):
        calls.append((place.parent.name, place.name, experiment.train.seed))
        return trained(experiment, place, resume=resume)

    monkeypatch.setattr(loop, "train", train)
    again = run(out, asked(sets, seeds=2), resume=True)
    assert calls == [] and again["rows"] == straight[1]["rows"]
    more = run(out, asked(sets, seeds=3, rows=("ssd",)), resume=True)
    assert calls == [("ssd", "seed_2", 2)]
    ssd, gssd, _ = more["rows"]
    assert [one["seed"] for one in ssd["seeds"]] == [0, 1, 2]
    assert gssd == straight[1]["rows"][1]  # it was not asked for, and stays


def test_what_was_scored_otherwise_is_scored_again(straight, sets, tmp_path, monkeypatch):
    """As by `jaxdet evaluate --which latest`, which writes the same file."""
    out = shutil.copytree(straight[0], tmp_path / "out")
    file = out / "rows" / "ssd" / "seed_0" / "metrics" / "val_l0sg.json"
    file.write_text(json.dumps({**read(file), "weights": "latest"}))
    calls = []
    monkeypatch.setattr(loop, "train", lambda _, place, **__: runs.open_run(place))
    monkeypatch.setattr(study, "score", lambda run: calls.append(run.path.name) or scored(run))
    again = run(out, asked(sets, seeds=2), resume=True)
    assert calls == ["seed_0"]
    assert again["rows"] == straight[1]["rows"]


def test_sensitivities_pair_the_seeds_of_a_model(straight, sets, tmp_path):
    out = shutil.copytree(straight[0], tmp_path / "out")
    result = run(out, asked(sets, table="gssd-tableS1"), resume=True)
    states = {row["key"]: row["state"] for row in result["rows"]}
    assert states == {
        "gssd_rigid": "not at this scale",
        "gssd_nonrigid": "trained",
        "mscr_rigid": "not built",
        "mscr_nonrigid": "not built",
    }
    assert result["registrations"]["nonrigid"]["per_slice"] is False
    result = run(out, asked(sets, table="gssd-tableS2", seeds=2), resume=True)
    row = {row["key"]: row for row in result["rows"]}["gssd_nonrigid"]
    for seed, one in enumerate(row["seeds"]):
        before, after = (
            read(out / "rows" / key / f"seed_{seed}" / "metrics" / "test_l0sg.json")
            for key in ("gssd", "gssd_nonrigid")
        )
        iou50 = [
            next(r["iou50"] for r in kept["protocols"] if r["protocol"] == "l0sg")
            for kept in (before, after)
        ]
        wanted = None if not iou50[1] else pytest.approx(1 - iou50[0] / iou50[1])
        assert one["best"]["test IoU50"] == wanted
    assert result["metrics"][-1] == "mean"
    assert "sensitivity, 1 - unregistered / registered" in reproduced_gssd.text(result)
    result = run(out, asked(sets, table="gssd-fig5", seeds=2), resume=True)
    assert (out / result["figures"][0]["file"]).stat().st_size > 1000


def test_a_sensitivity_of_table_s2():
    """GSSD, non-rigid: the one number of S1 and of S2 that is known."""
    metrics = dict.fromkeys(EIGHT, 0.5658), dict.fromkeys(EIGHT, 0.6368)
    both = ({"seed": 0, "epochs": 1, **dict.fromkeys(("best", "latest"), m)} for m in metrics)
    lost = study._sensitivity(*both)
    assert round(100 * lost["best"]["val IoU30"], 2) == 11.15
    assert lost["latest"]["mean"] == pytest.approx(lost["best"]["val IoU30"])
    whole = {row.key: row for row in papers_gssd.TABLE_S2}["gssd_nonrigid"]
    assert whole.paper["val IoU30"] == 11.15
    assert [v for row in papers_gssd.TABLE_S2 for v in row.paper.values() if v] == [11.15]


def test_livers_of_the_sets_that_are_there(sets, tmp_path):
    result = run(tmp_path / "out", asked(sets, table="gssd-table2"))
    states = {row["name"]: row["state"] for row in result["rows"]}
    assert states == {
        "none": "made",
        "rigid": "not registered",
        "affine": "not registered",
        "nonrigid": "made",
    }
    plain, nonrigid = result["rows"][0], result["rows"][-1]
    # The first phase's liver is the others' but for 8 - patient columns less; no liver, no pair.
    assert (plain["pairs"], plain["left_out"]) == (24, 6)
    assert 0.9 < plain["dice"] <= 1 and plain["dice"] == nonrigid["dice"]  # the same slices here
    lines = reproduced_gssd.text(result).splitlines()
    assert any(line.split()[:2] == ["unregistered", "90.01"] for line in lines)
    assert any(line.startswith("rigid (not registered)") for line in lines)


def all_twins(sets, out):
    """The folder of sets with the non-rigid twin under the other kinds' names too."""
    folder = shutil.copytree(sets, out)
    made = folder / f"{BUILDER}_nonrigid" / store.VERSION / "metadata.json"
    known = read(made)
    for kind in ("rigid", "affine"):
        twin = shutil.copytree(folder / f"{BUILDER}_nonrigid", folder / f"{BUILDER}_{kind}")
        told = {**known, "registration": {**known["registration"], "method": kind}}
        (twin / store.VERSION / "metadata.json").write_text(json.dumps(told))
    return folder


def inside(patch, kinds):
    """The rows of gssd-inside as toys, at a scale that has these registrations."""
    rows = [row._replace(model="toy", fields={"width": 4}) for row in papers_gssd.INSIDE]
    patch.setitem(papers_gssd.TABLES, "gssd-inside", tuple(rows))
    patch.setitem(scales_gssd.SCALES, "tiny", dataclasses.replace(SCALE, kinds=kinds))


def test_a_row_is_held_against_its_nonrigid_twin(sets, tmp_path, monkeypatch):
    """The paper's known sensitivity is of non-rigid registration; all three are trained."""
    folder, calls = all_twins(sets, tmp_path / "sets"), []
    monkeypatch.setattr(study.insights, "write", lambda *told: calls.append(told) or [])
    for kinds in (("rigid", "affine", "nonrigid"), ("rigid", "affine")):
        inside(monkeypatch, kinds)
        out = tmp_path / kinds[-1]
        run(out, asked(folder, table="gssd-inside"))
        plain, twin, where, _ = calls.pop()
        keys = {"GSSD": "gssd", "GSSD++": "gssd_pp"}
        assert where == out and list(plain) == list(twin) == list(keys)
        for title, key in keys.items():
            assert plain[title].path == out / "rows" / key / "seed_0"
            assert twin[title].path == out / "rows" / f"{key}_{kinds[-1]}" / "seed_0"
            assert twin[title].experiment.data.builder == f"{BUILDER}_{kinds[-1]}"


def test_gssd_inside_of_data_that_are_no_phantoms(sets, tmp_path, monkeypatch):
    """From the verb's function to its file; the slices know their pixels and no displacement."""

    def train(experiment, place, *, resume):
        made = trained(experiment, place, resume=resume)
        made.save_weights(loop.fresh_variables(experiment))
        return made

    monkeypatch.setattr(loop, "train", train)
    inside(monkeypatch, ("nonrigid",))
    out = tmp_path / "out"
    result = run(out, asked(sets, table="gssd-inside"))
    assert read(out / "gssd-inside.json") == json.loads(json.dumps(result))
    made = [one["file"] for one in result["figures"] if "why" not in one]
    assert [name.rpartition("/")[2] for name in made] == [
        "detections.png",
        "shifted.json",
        "shifted_iou50.png",
        "shifted_iobb50.png",
    ]
    assert all((out / name).is_file() for name in made)
    why = {one["file"]: one["why"] for one in result["figures"] if "why" in one}
    assert list(why) == [
        f"figures/gssd-inside/{name}.json" for name in ("misaligned", "sensitivity", "offsets")
    ]
    lines = reproduced_gssd.text(result).splitlines()
    assert any("misaligned.json: of 2 data points none has a known" in line for line in lines)


def test_a_twin_is_made_once_and_refused_when_it_is_of_another_set(sets, tmp_path, monkeypatch):
    folder = shutil.copytree(sets, tmp_path / "sets")
    one = asking.study(asked(folder), tmp_path)
    made, said = [], []
    monkeypatch.setattr(
        registered, "make", lambda whole, path, kind, *, per_slice: made.append((kind, per_slice))
    )
    twins.make(one.data, "affine", True, said.append)
    twins.make(one.data, "nonrigid", False, said.append)
    assert made == [("affine", True)] and len(said) == 1
    twins.make(one.data, "nonrigid", True, said.append)  # by the central slice, and says so
    assert len(made) == 1 and "is taken as it is" in said[1]
    file = folder / "toy" / "phases_nonrigid" / store.VERSION / "metadata.json"
    file.write_text(json.dumps({**read(file), "seed": 7}))
    with pytest.raises(ValueError, match=r"(?s)is not toy/phases registered.*seed"):
        twins.make(one.data, "nonrigid", False, said.append)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 1}, r"(?s)other flags or recipes.*seed: was 0, now 1"),
        ({"epochs": 7}, r"train\.epochs: was 1, now 7"),
        ({"scale": "small"}, "scale: was 'tiny', now 'small'"),
    ],
)
def test_other_flags_are_refused_by_name(straight, sets, fields, message):
    with pytest.raises(ValueError, match=message):
        run(straight[0], asked(sets, **fields), resume=True)


def test_what_cannot_be_is_refused_before_anything_is_made(straight, sets, tmp_path):
    out = tmp_path / "out"
    for fields, message in (
        ({"table": "gssd-table9"}, "no table is called 'gssd-table9'; there are gssd-table1"),
        ({"rows": ("yolo",)}, "gssd-table1 has no row 'yolo'; it has ssd, gssd, mscr"),
        ({"seeds": 0}, "--seeds wants 1 or more"),
        ({"builder": "multiphase_ct/gssd"}, "there is no prepared set 'multiphase_ct/gssd'"),
    ):
        with pytest.raises(ValueError, match=message):
            run(out, asked(sets, **fields))
    with pytest.raises(ValueError, match="wants a folder; got --out ''"):
        run("", asked(sets))
    with pytest.raises(ValueError, match="add --resume"):
        run(straight[0], asked(sets))
    assert not out.exists()


def test_a_run_of_other_images_is_refused(straight, sets, tmp_path):
    out = shutil.copytree(straight[0], tmp_path / "out")
    file = out / "rows" / "gssd" / "seed_1" / "run.json"
    file.write_text(json.dumps({**read(file), "split_digest": "0123"}))
    with pytest.raises(ValueError, match="was not trained on these images"):
        run(out, asked(sets, seeds=2), resume=True)
    file.unlink()
    (file.parent / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"holds checkpoints and no run\.json"):
        run(out, asked(sets, seeds=2), resume=True)


@pytest.mark.parametrize("table", ["gssd-table1", "gssd-table3"])
def test_every_row_that_is_built_has_an_experiment(table, tmp_path, monkeypatch):
    monkeypatch.undo()
    one = asking.study(Asked(table, "paper"), tmp_path)
    rows = {row.name: row for row in papers_gssd.TABLES[table] if asking.is_built(row)}
    made = {
        name: asking.experiment(one, row, 3, classes=1, images=3672) for name, row in rows.items()
    }
    pp = made["gssd_pp"]
    assert models.name_of(pp.model) == "gssd_pp" and pp.train.seed == 3
    # 60,000 steps of batch 32
    assert abs(pp.train.epochs * np.ceil(3672 / 32) - 60_000) < 60
    assert (pp.data.split, pp.data.input, pp.evaluate.protocol) == ("official", "official", "l0sg")
    if table == "gssd-table1":
        linked = {"pixellink", "pixellink_g", "pixellink_pp", "mscr"}
        assert set(made) >= {"ssd", "gssd", "gssd_portal", "gssd_pp", *linked}
        assert all(made[name].model.border == "official" for name in linked)
        assert all(made[name].model.score == "pixels" for name in linked)
        assert all(made[name].model.trunk_start == "xavier" for name in linked)
        assert made["gssd_portal"].data.phases == ("portal",) * 4
        assert made["gssd_portal"].model == made["gssd"].model
        assert made["gssd"].train.lr_factors == ()
        return
    for whole in ("gssd_pp", "pixellink_pp"):
        changed = {
            name: {
                field.name: getattr(of.model, field.name)
                for field in dataclasses.fields(of.model)
                if getattr(of.model, field.name) != getattr(made[whole].model, field.name)
            }
            for name, of in made.items()
            if name.startswith(whole)
        }
        assert changed == {
            whole: {},
            f"{whole}_offsets": {"align_groups": 1},
            f"{whole}_dc": {"align": "none"},
            f"{whole}_base": {"attention_trunk": "none"},
            f"{whole}_fusion": {"attention_heads": "none"},
            f"{whole}_interphase": {"interphase": "grouped"},
            f"{whole}_interphase_maps": {"interphase": "per_phase"},
        }
        assert made[f"{whole}_dc"].train.lr_factors == () != made[whole].train.lr_factors
    assert pp.train.lr_factors_until == "first_drop"
    assert made["pixellink_pp"].train.lr_factors_until == "end"
    assert papers_gssd.TABLE3[0].paper == dict(zip(FOUR, (52.90, 65.20, 67.87, 77.22), strict=True))


@pytest.mark.parametrize("scale", ["tiny", "small"])
def test_what_a_scale_says_reaches_the_models_that_have_it(scale, tmp_path, monkeypatch):
    monkeypatch.undo()
    one = asking.study(Asked("gssd-table1", scale), tmp_path)
    rows = [row for row in papers_gssd.TABLE1 if asking.is_built(row)]
    made = {row.name: asking.experiment(one, row, 0, classes=1).model for row in rows}
    assert all(model.width == one.scale.width for model in made.values())
    linked = ("pixellink", "pixellink_g", "pixellink_pp", "mscr")
    assert {made[name].trunk_start for name in linked} == {"he"}
    assert {made[name].border for name in linked} == {"clean"}
    assert {made[name].score for name in linked} == {"cells"}
    assert {made[name].fuse_norm for name in linked[:3]} == {"batch"}
    assert made["pixellink_pp"].gate_pool == {"tiny": 4, "small": 2}[scale]
    assert made["gssd_pp"].gate_pool == {"tiny": 4, "small": 1}[scale]


def test_a_summary_leaves_out_what_is_not_known():
    told = study.summarise([{"a": 0.5, "b": None}, {"a": 0.7, "b": None}], ("a", "b"))
    assert told["mean"] == {"a": pytest.approx(0.6), "b": None}
    assert told["n"] == {"a": 2, "b": 0} and told["sd"]["b"] is None
    one = study.summarise([{"a": 0.5}], ("a",))
    assert one["sd"] == {"a": None}


@pytest.mark.slow
def test_a_toy_is_trained_and_scored_in_earnest(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", PLAIN[0])
    monkeypatch.setattr(study, "score", PLAIN[1])
    result = run(tmp_path / "out", asked(sets, rows=("ssd",)))
    row, other, _ = result["rows"]
    assert (row["state"], other["state"]) == ("trained", "not trained")
    place = tmp_path / "out" / "rows" / "ssd" / "seed_0"
    for which, end in (("best", ""), ("latest", "_latest")):
        for split in ("val", "test"):
            kept = read(place / "metrics" / f"{split}_l0sg{end}.json")
            assert (kept["weights"], kept["split"], kept["protocol"]) == (which, split, "l0sg")
            assert (place / "metrics" / f"{split}_l0sg{end}_detections.npz").is_file()
        assert set(row[which]["mean"]) == set(EIGHT)
    assert "not trained" in reproduced_gssd.text(result)
    again = run(tmp_path / "out", asked(sets, rows=("ssd",)), resume=True)
    assert again["rows"] == result["rows"]
