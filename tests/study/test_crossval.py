"""A cross-validation from nothing to its table, stopped and gone on with, and refused."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal

import cv2
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import toy

from jaxdet import run as runs
from jaxdet.data import manifest, sources
from jaxdet.report import folds as reporting
from jaxdet.study import crossval, kept
from jaxdet.train import engine, log, loop
from jaxdet.train import evaluate as scoring

EXPERIMENT = {"phantom_patients": 8, "phantom_slices": 1, "folds": 3}


@pytest.fixture(autouse=True)
def enlisted(monkeypatch):
    quick(monkeypatch)


def quick(patch):
    """The toy instead of a detector, and no pictures: a fold takes seconds."""
    toy.enlist(patch.setitem)
    patch.setattr(loop.curves, "curves", lambda *_: None)
    patch.setattr(loop.pictures, "truths_and_detections", lambda *_, **__: None)


def experiment(data=None, **train):
    return toy.experiment(data={**EXPERIMENT, **(data or {})}, **train)


def run(out, one=None, *, say=lambda text: None, **fields):
    return crossval.crossval(one or experiment(), out, say=say, **fields)


def hashed(tree):
    """A digest of every array and its place."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def last(folder):
    """The state of a RUN's last checkpoint and its meta."""
    with runs.open_run(folder).manager(read_only=True) as manager:
        parts = {"state": ocp.args.StandardRestore(), "meta": ocp.args.JsonRestore()}
        kept = manager.restore(manager.latest_step(), args=ocp.args.Composite(**parts))
    return kept["state"], kept["meta"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Three folds that nothing disturbed: the folder, what was told, and the weights of starts."""
    out, told, starts = tmp_path_factory.mktemp("straight") / "cv", [], []
    init_state = engine.init_state

    def watched(variables, plan):
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(variables)):
            starts.append(hashed(variables))
        return init_state(variables, plan)

    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        patch.setattr(engine, "init_state", watched)
        run(out, say=told.append)
    return out, told, starts


def read(file):
    return json.loads(file.read_text())


def test_every_patient_is_tested_once_by_weights_that_never_saw_them(straight):
    out, _, _ = straight
    plan = read(out / "folds.json")
    tested = [name for row in plan["folds"] for name in row["patients"]]
    assert sorted(tested) == sorted(f"phantom patient {i}" for i in range(8))
    for i, row in enumerate(plan["folds"]):
        facts = read(out / f"fold_{i}" / "run.json")
        train, val, test = facts["trained_on"], row["val_patients"], row["patients"]
        assert sorted([*train, *val, *test]) == sorted(tested)  # disjoint, and nobody is lost
        assert train and val and test


def test_the_digest_is_in_every_run_checkpoint_and_report(straight):
    out, _, _ = straight
    digest = read(out / "folds.json")["digest"]
    assert read(out / "crossval.json")["folds_digest"] == digest
    for i in range(3):
        folder = out / f"fold_{i}"
        facts = read(folder / "run.json")
        wanted = {"folds_digest": digest, "split_digest": facts["split_digest"]}
        files = [folder / "run.json", *sorted((folder / "metrics").glob("*.json"))]
        assert {file.name for file in files} == {"run.json", "val.json", "test_yolo.json"}
        for content in (*map(read, files), last(folder)[1]):
            assert {name: content[name] for name in wanted} == wanted


def test_every_fold_starts_from_the_same_fresh_weights(straight):
    out, _, starts = straight
    fresh = hashed(loop.fresh_variables(experiment()))
    assert starts == [fresh] * 3
    ends = {hashed(last(out / f"fold_{i}")[0]["params"]) for i in range(3)}
    assert len(ends) == 3
    assert hashed(loop.fresh_variables(experiment())["params"]) not in ends


def test_the_result_holds_folds_mean_and_sd(straight):
    out, told, _ = straight
    result, plan = read(out / "crossval.json"), read(out / "folds.json")
    assert (result["k"], result["seed"], result["selection"]) == (3, 0, "nested")
    assert (result["protocol"], result["ddof"], result["against"]) == ("yolo", 1, [])
    assert result["experiment"]["data"]["split"] == "fold"
    # With val held out n_test / n_train is larger than 1 / (k - 1).
    shares = [
        len(row["patients"]) / (8 - len(row["patients"]) - len(row["val_patients"]))
        for row in plan["folds"]  # one image a patient
    ]
    assert result["test_share"] == pytest.approx(np.mean(shares))
    assert result["test_share"] > 1 / 2
    audits = [read(out / f"fold_{i}" / "metrics" / "test_yolo.json")["audit"] for i in range(3)]
    for what in ("truths", "detections"):
        assert result["audit"][what]["all"] == sum(one[what]["all"] for one in audits)
    assert result["audit"]["truths"]["all"] == plan["data"]["boxes"]
    assert "verdicts, protocol yolo" in reporting.fold_table(result)
    for row, planned in zip(result["folds"], plan["folds"], strict=True):
        scores = read(out / f"fold_{row['fold']}" / "metrics" / "test_yolo.json")
        assert {name: row[name] for name in crossval.METRICS} == {
            name: scores[name] for name in crossval.METRICS
        }
        assert (scores["weights"], scores["patients_are"]) == ("best", "unseen")
        own = next(r for r in scores["protocols"] if r["protocol"] == "yolo")
        assert {n: row[n] for n in crossval.OVERLAPS} == {n: own[n] for n in crossval.OVERLAPS}
        for name in ("metrics/test_yolo_patients.csv", "pictures/test_yolo_errors.png"):
            assert (out / f"fold_{row['fold']}" / name).stat().st_size > 20
        assert (row["images"], row["patients"]) == (planned["images"], len(planned["patients"]))
        assert row["truths"] == planned["boxes"]
    assert result["pooled"] == {"images": 8, "patients": 8, "truths": plan["data"]["boxes"]}
    values = [row["ap50"] for row in result["folds"]]
    assert result["mean"]["ap50"] == pytest.approx(np.mean(values))
    assert result["sd"]["ap50"] == pytest.approx(np.std(values, ddof=1))
    assert "NaN" not in (out / "crossval.json").read_text()
    assert told[0].startswith("3 folds of 8 patients (8 images, ")
    assert [text.split(":")[0] for text in told[1:]] == [
        f"fold {i} (0 to 2)" for i in (0, 0, 1, 1, 2, 2)
    ]


def test_the_folds_own_run_can_be_scored_as_any_other(straight):
    out, _, _ = straight
    again = scoring.evaluate_run(runs.open_run(out / "fold_1"))
    kept = read(out / "fold_1" / "metrics" / "test_yolo.json")
    assert {k: again[k] for k in crossval.METRICS} == {k: kept[k] for k in crossval.METRICS}


def test_a_patient_that_was_trained_on_is_refused(straight):
    one = runs.open_run(straight[0] / "fold_0")
    wrong = dataclasses.replace(one.experiment.data, fold=1)
    moved = dataclasses.replace(one, experiment=dataclasses.replace(one.experiment, data=wrong))
    dataset = sources.load(wrong, "test")
    with pytest.raises(
        ValueError, match=r"fold_0 was trained on \d of the patients .*\(phantom patient"
    ):
        scoring.unseen.check_unseen(moved, dataset)


def stop_in(patch, folder):
    """SIGTERM to ourselves when the RUN in `folder` tells of its first step."""
    plain = log.Log.step

    def told(self, epoch, now, scalars):
        plain(self, epoch, now, scalars)
        if self.path.parent.name == folder and now == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(log.Log, "step", told)


class Killed(BaseException):
    """As sudden as a kill."""


def kill_at(words):
    def say(text):
        if words in text:
            raise Killed

    return say


def test_stopped_between_and_inside_folds_it_ends_with_the_same_bytes(
    straight, tmp_path, monkeypatch
):
    out, before = tmp_path / "cv", signal.getsignal(signal.SIGTERM)
    with pytest.raises(Killed):
        run(out, say=kill_at("fold 1 (0 to 2): training"))
    assert (out / "fold_0" / "metrics" / "test_yolo.json").exists()
    assert not (out / "fold_1").exists()
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        stop_in(patch, "fold_1")
        run(out, resume=True)
    assert stopped.value.code == 143
    assert not (out / "fold_1" / "metrics").exists()
    assert signal.getsignal(signal.SIGTERM) == before
    run(out, resume=True)
    for name in ("folds.json", "crossval.json"):
        assert (out / name).read_bytes() == (straight[0] / name).read_bytes()
    for i in range(3):
        assert hashed(last(out / f"fold_{i}")) == hashed(last(straight[0] / f"fold_{i}"))


def test_sigterm_between_trainings_ends_with_143(straight, tmp_path, monkeypatch):
    out = shutil.copytree(straight[0], tmp_path / "cv")
    (out / "fold_2" / "metrics" / "test_yolo.json").unlink()

    def evaluate(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.setattr(crossval.scoring, "score_run", evaluate)
    with pytest.raises(SystemExit) as stopped:
        run(out, resume=True)
    assert stopped.value.code == 143


@pytest.fixture
def untrained(monkeypatch):
    """Whoever trains now has failed."""

    def train(*_, **__):
        raise AssertionError("a fold was trained")

    monkeypatch.setattr(loop, "train", train)


@pytest.mark.usefixtures("untrained")
def test_a_finished_one_only_makes_its_table_again(straight, tmp_path):
    out = shutil.copytree(straight[0], tmp_path / "cv")
    (out / "crossval.json").unlink()
    run(out, resume=True)
    assert (out / "crossval.json").read_bytes() == (straight[0] / "crossval.json").read_bytes()


@pytest.mark.usefixtures("untrained")
def test_against_another_of_the_same_folds(straight, tmp_path):
    out, other = (shutil.copytree(straight[0], tmp_path / name) for name in "ab")
    content = read(other / "crossval.json")
    for row, less in zip(content["folds"], (0.1, 0.2, 0.15), strict=True):
        row["ap50"] -= less
    (other / "crossval.json").write_text(json.dumps(content))
    result = run(out, resume=True, against=[str(other)])
    assert read(out / "crossval.json") == json.loads(json.dumps(result))
    rows = {row["metric"]: row for row in result["against"][0]["metrics"]}
    assert result["against"][0]["rival"] == str(other)
    assert rows["ap50"]["difference"] == pytest.approx(0.15)
    # t = 0.15 / (0.05 / sqrt 3) with 2 degrees of freedom
    assert rows["ap50"]["paired_t"]["statistic"] == pytest.approx(5.19615, abs=1e-4)
    assert rows["ap75"]["paired_t"]["p"] is None
    assert rows["ap75"]["paired_t"]["why"] == "all differences are 0"


@pytest.mark.usefixtures("untrained")
def test_tests_of_before_stay_until_there_are_others(straight, tmp_path):
    out, other = (shutil.copytree(straight[0], tmp_path / name) for name in "ab")
    tests = run(out, resume=True, against=[str(other)])["against"]
    assert run(out, resume=True)["against"] == tests
    assert read(out / "crossval.json")["against"] == json.loads(json.dumps(tests))
    assert f"against {other}" in reporting.fold_table(read(out / "crossval.json"))
    content = read(out / "crossval.json")
    content["folds"][0]["ap50"] = 0.125  # as of a fold that was trained anew since
    (out / "crossval.json").write_text(json.dumps(content))
    assert run(out, resume=True)["against"] == []


@pytest.mark.usefixtures("untrained")
def test_itself_and_one_twice_are_refused(straight, tmp_path, monkeypatch):
    out, other = (shutil.copytree(straight[0], tmp_path / name) for name in "ab")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"--against a: .*a is the cross-validation itself"):
        run(out, resume=True, against=["a"])
    with pytest.raises(ValueError, match=r"--against b: .*b is named twice"):
        run(out, resume=True, against=[str(other), "b"])


def changed(content, **fields):
    return json.dumps({**content, **fields})


def rows_with(content, **fields):
    return changed(content, folds=[{**row, **fields} for row in content["folds"]])


BROKEN_RESULTS = {
    "empty": (lambda c: "", "Expecting value"),
    "cut off": (lambda c: json.dumps(c)[:-9], "Expecting|Unterminated|delimiter"),
    "a list": (lambda c: "[]", "wants to hold an object and holds a list"),
    "no digest": (lambda c: json.dumps({k: c[k] for k in c if k != "folds_digest"}), "has no 'fol"),
    "format": (lambda c: changed(c, format=1), "its format is 1; this jaxdet reads 2"),
    "metric missing": (
        lambda c: changed(c, folds=[{"fold": i, "ap50": 0.5} for i in range(3)]),
        "it has no 'precision'",
    ),
    "NaN": (lambda c: rows_with(c, ap50=float("nan")), "ap50 wants a finite number or null"),
    "text": (lambda c: rows_with(c, ap50="0.5"), "ap50 wants a finite number or null; got '0.5'"),
    "two folds": (lambda c: changed(c, folds=c["folds"][:2]), r"0 to 2 and are \[0, 1\]"),
    "one twice": (lambda c: rows_with(c, fold=1), r"0 to 2 and are \[1, 1, 1\]"),
    "audit": (lambda c: changed(c, audit={}), "has no 'protocol'"),
    "against": (lambda c: changed(c, against=[{}]), "is broken: it has no"),
    "experiment": (lambda c: changed(c, experiment={"model": 3}), "is broken"),
}


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", BROKEN_RESULTS)
def test_a_broken_result_is_refused_by_name_ours_or_a_rivals(straight, tmp_path, name):
    broken, message = BROKEN_RESULTS[name]
    other = shutil.copytree(straight[0], tmp_path / "other")
    (other / "crossval.json").write_text(broken(read(other / "crossval.json")))
    for words in (message, r"other/crossval\.json is broken", "Remove that file"):
        with pytest.raises(ValueError, match=words):
            run(tmp_path / "new", against=[str(other)])
        with pytest.raises(ValueError, match=words):
            run(other, resume=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("file", "content", "way"),
    [
        ("folds.json", "", "Choose another --out"),
        ("folds.json", "{}", "it has no 'format'"),
        ("fold_1/metrics/test_yolo.json", "{", "--resume scores the fold again"),
        ("fold_1/run.json", "{", "to train this fold anew"),
        ("fold_1/run.json", '{"format": 1}', "it has no 'family'"),
    ],
)
def test_other_broken_files_are_refused_by_name(straight, tmp_path, file, content, way):
    out = shutil.copytree(straight[0], tmp_path / "cv")
    (out / file).write_text(content)
    with pytest.raises(ValueError, match=f"{file} is broken.*{way}"):
        run(out, resume=True)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ap50": float("inf")}, "ap50 wants a finite number or null"),
        ({"protocols": []}, "test_yolo.json is broken"),
        ({"audit": None}, "audit wants a dict"),
    ],
)
def test_broken_scores_are_refused(straight, tmp_path, fields, message):
    out = shutil.copytree(straight[0], tmp_path / "cv")
    file = out / "fold_1" / "metrics" / "test_yolo.json"
    file.write_text(json.dumps({**read(file), **fields}))
    with pytest.raises(ValueError, match=message):
        run(out, resume=True)
    # Those of other weights are no concern of ours.
    file.write_text(json.dumps({**read(file), "weights": "latest"}))
    assert kept.scores(file, {"weights": "best"}) is None


@pytest.mark.usefixtures("untrained")
def test_others_of_other_folds_are_refused(straight, tmp_path):
    out = straight[0]
    other = shutil.copytree(out, tmp_path / "other")
    content = read(other / "crossval.json")
    (other / "crossval.json").write_text(json.dumps({**content, "folds_digest": "0123"}))
    plan = read(other / "folds.json")
    (other / "folds.json").write_text(json.dumps({**plan, "digest": "0123", "seed": 7}))
    digest = content["folds_digest"]
    message = rf"other has other folds \(digest 0123\) than this .*\(digest {digest}\)"
    with pytest.raises(ValueError, match=message) as told:
        run(out, resume=True, against=[str(other)])
    assert "seed: was 7, now 0" in str(told.value)
    (other / "crossval.json").write_text(json.dumps({**content, "protocol": "coco"}))
    with pytest.raises(ValueError, match="under the protocol coco, this one under yolo"):
        run(out, resume=True, against=[str(other)])
    (other / "crossval.json").unlink()
    with pytest.raises(ValueError, match="other is no finished cross-validation"):
        run(out, resume=True, against=[str(other)])


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("change", "train", "message"),
    [
        ({"folds": 2}, {}, "k: was 3, now 2"),
        ({"split_seed": 5}, {}, "seed: was 0, now 5"),
        ({"selection": "test_fold"}, {}, "selection: was 'nested', now 'test_fold'"),
        ({"val_share": 0.5}, {}, r"val_share: was 0\.125, now 0\.5"),
        ({"phantom_patients": 7}, {}, "1 patients are gone: phantom patient 7"),
        ({}, {"lr": 0.5}, r"train.lr: was 0\.01, now 0\.5"),
        ({}, {"epochs": 9}, "train.epochs: was 2, now 9"),
        ({"max_boxes": 41}, {}, "data.max_boxes: was 40, now 41"),
    ],
)
def test_another_config_or_other_data_are_refused_by_name(straight, change, train, message):
    with pytest.raises(ValueError, match=message) as told:
        run(straight[0], experiment(change, **train), resume=True)
    assert str(straight[0]) in str(told.value)


@pytest.mark.usefixtures("untrained")
def test_a_folder_that_is_there_is_refused_without_resume(straight):
    with pytest.raises(ValueError, match="is a cross-validation already: add --resume"):
        run(straight[0])


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_refused(straight, tmp_path, resume):
    one = shutil.copytree(straight[0] / "fold_0", tmp_path / "run")
    lost = shutil.copytree(straight[0], tmp_path / "lost")
    (lost / "folds.json").unlink()
    (tmp_path / "file").touch()
    for out in (one, lost, tmp_path / "file"):
        with pytest.raises(ValueError, match="is there and is no cross-validation"):
            run(out, resume=resume)
    assert not (one / "folds.json").exists()
    with pytest.raises(ValueError, match="wants a folder"):
        run("", resume=resume)


def test_an_empty_folder_and_one_that_was_only_locked_are_begun(tmp_path, monkeypatch):
    def train(*_, **__):
        raise Killed

    monkeypatch.setattr(loop, "train", train)
    (tmp_path / "cv").mkdir()
    for names in ((), (".lock", "folds.json.part")):
        for name in names:
            (tmp_path / "cv" / name).touch()
        with pytest.raises(Killed):
            run(tmp_path / "cv")
        (tmp_path / "cv" / "folds.json").unlink()


def test_two_at_once_are_refused(straight, tmp_path):
    out = shutil.copytree(straight[0], tmp_path / "cv")
    (out / "fold_1" / "metrics" / "test_yolo.json").unlink()
    seen = []

    def second(text):
        if "fold 1 (0 to 2): training" in text:
            with pytest.raises(ValueError, match="is in use by"):
                run(out, resume=True)
            seen.append(text)
            raise Killed

    with pytest.raises(Killed):
        run(out, resume=True, say=second)
    assert len(seen) == 1


@pytest.mark.usefixtures("untrained")
def test_folds_that_were_extended_or_lost_their_run_are_refused(straight, tmp_path):
    out = shutil.copytree(straight[0], tmp_path / "cv")
    file = out / "fold_1" / "run.json"
    plain = read(file)
    longer = {**plain["experiment"], "train": {**plain["experiment"]["train"], "epochs": 9}}
    file.write_text(changed(plain, experiment=longer))
    with pytest.raises(ValueError, match=r"fold_1 was made with .*\n  train.epochs: was 9, now 2"):
        run(out, resume=True)
    file.unlink()
    with pytest.raises(ValueError, match=r"fold_1 holds checkpoints and no run\.json"):
        run(out, resume=True)
    shutil.rmtree(out / "fold_1")
    content = read(out / "crossval.json")
    other = {**content["experiment"], "train": {**content["experiment"]["train"], "lr": 0.5}}
    (out / "crossval.json").write_text(changed(content, experiment=other))
    with pytest.raises(ValueError, match=r"cv was made with another config.*\n  train\.lr: was 0"):
        run(out, resume=True)


def test_scores_without_their_run_do_not_count_as_done(straight, tmp_path, monkeypatch):
    out, told = shutil.copytree(straight[0], tmp_path / "cv"), []
    (out / "fold_1" / "run.json").unlink()
    shutil.rmtree(out / "fold_1" / "checkpoints")

    def train(*_, **__):
        raise Killed

    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(Killed):
        run(out, resume=True, say=told.append)
    assert "1 folds to do" in told[0]


def listed(folder, corners="5,5,25,25"):
    """A CSV of eight patients with one image each."""
    folder.mkdir(exist_ok=True)
    lines = ["file,x0,y0,x1,y1,patient"]
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64)).astype(np.uint8)
        cv2.imwrite(str(folder / f"p{i}.png"), pixels)
        lines.append(f"p{i}.png,{corners},patient {i}")
    (folder / "boxes.csv").write_text("\n".join(lines))
    data = {"source": "csv", "split": "patient", "window_hu": None}
    return data | {"path": str(folder / "boxes.csv")}


def finished(out, one, summary):
    """A cross-validation of `one` in `out` that nobody trained; every fold has the same scores."""
    plan = manifest.manifest(one.data)
    runs.write_json(out / "folds.json", plan)
    for fold in range(3):
        facts = {"folds_digest": plan["digest"], "split_digest": "0123"}
        made = runs.create(out / f"fold_{fold}", crossval.of_fold(one, fold), ("a",), **facts)
        made.write_metrics("test_yolo", {**summary, "other_data": False})
    return run(out, one, resume=True)


@pytest.mark.usefixtures("untrained")
def test_moved_data_are_the_same_and_moved_boxes_are_not(straight, tmp_path, monkeypatch):
    summary = read(straight[0] / "fold_0" / "metrics" / "test_yolo.json")
    out = tmp_path / "cv"
    result = finished(out, experiment(listed(tmp_path / "a")), summary)
    far = listed(tmp_path / "b")
    again = run(out, experiment(far, log_every=9), resume=True)
    assert (again["folds"], again["folds_digest"]) == (result["folds"], result["folds_digest"])
    monkeypatch.chdir(tmp_path / "b")
    assert run(out, experiment({**far, "path": "boxes.csv"}), resume=True)["folds"]
    moved = experiment(listed(tmp_path / "b", "6,5,26,25"))
    with pytest.raises(ValueError, match="the boxes or labels of some images have changed"):
        run(out, moved, resume=True)
    with pytest.raises(ValueError, match="the boxes or labels of some images have changed"):
        run(tmp_path / "new", moved, against=[str(out)])


@pytest.mark.usefixtures("untrained")
def test_a_nested_val_without_a_lesion_is_refused(tmp_path, monkeypatch):
    without_lesions(monkeypatch, range(2, 8))  # two patients with lesions, and three folds
    with pytest.warns(UserWarning, match="no lesion among them"):  # noqa: SIM117
        with pytest.raises(
            ValueError, match=r"fold \d's val has no lesion .*--selection test_fold"
        ):
            run(tmp_path / "cv")
    assert not (tmp_path / "cv").exists()


@pytest.mark.usefixtures("untrained")
def test_a_run_from_elsewhere_is_no_fold(straight, tmp_path):
    out = shutil.copytree(straight[0], tmp_path / "cv")
    facts = read(out / "fold_1" / "run.json")
    (out / "fold_1" / "run.json").write_text(json.dumps({**facts, "folds_digest": "0123"}))
    with pytest.raises(ValueError, match=r"fold_1 was not trained in these folds .* says 0123"):
        run(out, resume=True)


def test_scores_of_the_latest_weights_or_other_folds_do_not_count_as_done(straight, tmp_path):
    out = shutil.copytree(straight[0], tmp_path / "cv")
    file = out / "fold_0" / "metrics" / "test_yolo.json"
    file.write_text(json.dumps({**read(file), "weights": "latest"}))
    told = []
    run(out, resume=True, say=told.append)
    assert "1 folds to do" in told[0]
    assert (out / "crossval.json").read_bytes() == (straight[0] / "crossval.json").read_bytes()
    assert file.read_bytes() == (straight[0] / "fold_0" / "metrics" / "test_yolo.json").read_bytes()


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("change", "train", "message"),
    [
        ({"folds": 9}, {}, "9 folds want at least 9 patients; there are 8"),
        ({"phantom_patients": 1}, {}, "3 folds want at least 3 patients; there are 1"),
        ({"phantom_patients": 2, "folds": 2}, {}, "outside fold 0 of 2 there is 1 patient"),
        ({"channels": 3}, {}, "model.channels is 1 but data.channels is 3"),
        ({}, {"batch_size": 12}, "cannot be split over 8 devices"),
        ({}, {"init_from": "nowhere"}, "nowhere is not a RUN"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path, change, train, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "cv", experiment(change, **train))
    assert not (tmp_path / "cv").exists()


@pytest.mark.usefixtures("untrained")
def test_a_start_that_knows_the_tested_is_refused(straight, tmp_path):
    start = str(straight[0] / "fold_0")
    with pytest.raises(ValueError, match=r"init_from: .*fold_0 was trained on \d of the patients"):
        run(tmp_path / "cv", experiment(init_from=start))
    assert not (tmp_path / "cv").exists()


def without_lesions(monkeypatch, patients):
    """The phantom, in which some patients are healthy."""
    from jaxdet.data import phantom

    plain = phantom.records

    def records(cfg):
        names, found, read = plain(cfg)
        none = {"boxes_xyxy": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int32)}
        none |= {"crowd": np.zeros(0, bool), "area": np.zeros(0, np.float32)}
        none |= {"diameters_mm": np.zeros(0, np.float32), "misaligned_mm": None}
        healthy = {f"phantom patient {i}" for i in patients}
        changed = [dataclasses.replace(r, **none) if r.patient in healthy else r for r in found]
        return names, changed, read

    monkeypatch.setattr(phantom, "records", records)


def test_test_fold_and_a_fold_without_lesions(tmp_path, monkeypatch):
    """One run for both: the fold that has no truth has no number, and the mean says so."""
    without_lesions(monkeypatch, (1, 2, 3))
    data = {"phantom_patients": 4, "folds": 2, "selection": "test_fold"}
    one = experiment(data, epochs=1)
    with pytest.warns(UserWarning, match="fold 1 of 2 has 1 entries and no lesion among them"):
        result = run(tmp_path / "cv", one)
    plan = read(tmp_path / "cv" / "folds.json")
    empty = [row["fold"] for row in plan["folds"] if not row["boxes"]]
    assert len(empty) == 1
    for row, planned in zip(result["folds"], plan["folds"], strict=True):
        assert (row["ap50"] is None) == (row["fold"] in empty)
        experiment_of = crossval.of_fold(one, row["fold"]).data
        val, test = (sources.load(experiment_of, split) for split in ("val", "test"))
        assert [r.name for r in val.records] == [r.name for r in test.records]
        facts = read(tmp_path / "cv" / f"fold_{row['fold']}" / "run.json")
        assert not set(facts["trained_on"]) & set(planned["patients"])
    assert (result["n"]["ap50"], result["mean"]["ap50"], result["sd"]["ap50"]) == (1, 0, None)
    assert "NaN" not in (tmp_path / "cv" / "crossval.json").read_text()


def test_mean_and_sd_leave_out_what_is_not_defined():
    counts = {"images": 2, "patients": 1, "truths": 3}
    names = (*crossval.METRICS, *crossval.OVERLAPS)
    rows = [{**counts, **dict.fromkeys(names, value)} for value in (0.2, None, 0.6)]
    told = crossval.summarise(rows)
    assert told["mean"]["ap50"] == pytest.approx(0.4)
    assert told["sd"]["ap50"] == pytest.approx(0.2 * 2**0.5)
    assert told["n"] == dict.fromkeys(names, 2)
    assert told["pooled"] == {"images": 6, "patients": 3, "truths": 9}
    none = crossval.summarise(rows[1:2])
    assert (none["mean"]["ap50"], none["sd"]["ap50"], none["n"]["ap50"]) == (None, None, 0)
