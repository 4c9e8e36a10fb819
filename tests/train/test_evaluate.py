"""Every image of a dataset is detected once, in order, whatever the batch and the processes."""

import dataclasses
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from jaxdet import metrics
from jaxdet import run as runs
from jaxdet.data import sources
from jaxdet.data.transforms import letterbox
from jaxdet.train import evaluate, loop, parallel, unseen
from jaxdet.types import Detections, Example


@pytest.fixture(autouse=True)
def enlisted(monkeypatch):
    toy.enlist(monkeypatch.setitem)


class Pictures:
    """Images of many shapes, each with a brightness of its own."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        shape = (20 + 3 * (i % 4), 40 - 5 * (i % 3), 1)
        image = np.full(shape, (i + 1) / 32, np.float32)
        return Example(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int32), f"{i}", f"{i}")


def look(variables, images):
    """Two detections an image that tell it from any other, one of them padding in every third."""
    bright = images.mean((1, 2, 3)) * variables
    few = jnp.round(images.max((1, 2, 3)) * 32) % 3 == 0
    boxes = jnp.stack([bright * 8, bright, bright * 8 + 10, bright + 20], -1)[:, None]
    labels = jnp.stack([jnp.zeros_like(few, jnp.int32), jnp.where(few, -1, 1)], -1)
    scores = jnp.stack([bright, jnp.where(few, 0.0, bright / 2)], -1)
    return Detections(jnp.concatenate([boxes, boxes + 2], 1), scores, labels)


@pytest.mark.parametrize("count", [1, 8, 11])
def test_a_last_batch_that_is_not_full_changes_nothing(count):
    """8 devices, 8 images a batch: against one image at a time without any batch."""
    experiment, pictures = toy.experiment(), Pictures(count)
    detect, variables = parallel.map_detect(look), np.float32(2)
    found = evaluate.detect_all(
        detect, parallel.replicate(variables), pictures, experiment, progress=False
    )
    assert found.boxes_xyxy.shape == (count, 2, 4)
    for i in range(count):
        image, place = letterbox(pictures[i].image, 64, (0.0,))
        boxes, scores, labels = (np.asarray(x[0]) for x in jax.jit(look)(variables, image[None]))
        wanted = place.to_original(boxes) * (labels >= 0)[:, None]
        np.testing.assert_allclose(found.boxes_xyxy[i], wanted, atol=1e-4)
        np.testing.assert_allclose(found.scores[i], scores, rtol=1e-6)
        np.testing.assert_array_equal(found.labels[i], labels)


@pytest.mark.parametrize(("total", "processes"), [(7, 3), (8, 4), (1, 2), (5, 1)])
def test_shares_are_equally_long_and_interleave_to_the_whole(total, processes):
    shares = [evaluate.Share(Pictures(total), p, processes) for p in range(processes)]
    assert len({len(share) for share in shares}) == 1
    names = [share[i].name for i in range(len(shares[0])) for share in shares]
    assert names[:total] == [str(i) for i in range(total)]
    assert set(names[total:]) <= set(names[:total])


def test_broken_scores_name_an_image():
    def broken(variables, images):
        found = look(variables, images)
        return found._replace(scores=found.scores * jnp.nan)

    experiment = toy.experiment()
    dataset = sources.load(experiment.data, "val")
    with pytest.raises(
        FloatingPointError, match=r"scores or boxes on phantom patient .* and 3 more"
    ) as told:
        evaluate.evaluate(
            parallel.map_detect(broken),
            parallel.replicate(np.float32(1)),
            dataset,
            experiment,
            progress=False,
        )
    assert dataset.records[0].name in str(told.value)


def test_a_run_is_scored_on_its_own_split_and_protocol(tmp_path):
    experiment = toy.experiment()
    run = runs.create(tmp_path / "run", experiment, ("tumour",))
    variables = jax.device_get(loop.fresh_variables(experiment))
    run.save_weights(variables)
    val = evaluate.evaluate_run(run)
    other = dataclasses.replace(experiment.evaluate, split="train", protocol="coco")
    run = dataclasses.replace(run, experiment=dataclasses.replace(experiment, evaluate=other))
    train = evaluate.evaluate_run(run, "latest")
    assert (val["images"], val["protocol"]) == (4, "yolo")
    assert (train["images"], train["protocol"]) == (16, "coco")
    path = run.write_metrics("train_coco", train)
    assert path == run.path / "metrics" / "train_coco.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(train))


def test_a_batch_that_devices_cannot_share_is_refused(tmp_path):
    experiment = toy.experiment()
    experiment = dataclasses.replace(
        experiment, evaluate=dataclasses.replace(experiment.evaluate, batch_size=20)
    )
    run = runs.create(tmp_path / "run", experiment, ("tumour",))
    with pytest.raises(ValueError, match=r"evaluate.batch_size=20 .* 8 devices.* legal size is 16"):
        evaluate.evaluate_run(run)


def scored_run(path, trained_on=None, **evaluate_fields):
    experiment = toy.experiment()
    facts = {} if trained_on is None else {"trained_on": trained_on}
    run = runs.create(path, experiment, ("tumour",), **facts)
    run.save_weights(jax.device_get(loop.fresh_variables(experiment)))
    wanted = dataclasses.replace(experiment.evaluate, **evaluate_fields)
    return dataclasses.replace(run, experiment=dataclasses.replace(experiment, evaluate=wanted))


def test_facts_of_the_phantom_reach_the_scorecard(tmp_path):
    run = scored_run(tmp_path / "run", protocol="coco")
    scored = evaluate.score_run(run)
    known = evaluate.facts_of(scored.dataset)
    assert set(known.phases) == {"portal"} and np.isfinite(known.pixel_mm).all()
    lesions = [len(record.labels) for record in scored.dataset.records]
    assert [len(d) for d in known.diameters_mm] == lesions and sum(lesions) > 0
    rows = scored.card.numbers["strata"]["diameter_mm"]
    assert sum(row["truths"] for row in rows) == sum(lesions)
    assert "unknown" not in [row["name"] for row in rows]
    assert scored.card.numbers["patients"] == len(set(known.patients)) == 2


def test_facts_that_a_format_does_not_tell_are_unknown():
    record = sources.Record(
        "a.png",
        "a.png",
        np.zeros((2, 4), np.float32),
        np.zeros(2, int),
        np.zeros(2, bool),
        np.ones(2),
    )
    dataset = sources.Dataset(("tumour",), (record,), "val", {}, lambda i: None)
    known = evaluate.facts_of(dataset)
    assert np.isnan(known.diameters_mm[0]).all() and known.diameters_mm[0].shape == (2,)
    assert known.phases == ("",) and np.isnan(known.pixel_mm).all()


def test_what_is_written(tmp_path):
    run = scored_run(tmp_path / "run")
    scored = evaluate.score_run(run)
    evaluate.write(run, "val_yolo", scored)
    numbers = json.loads((run.path / "metrics" / "val_yolo.json").read_text())
    assert numbers["ap50"] == scored.card.numbers["ap50"] and len(numbers["protocols"]) == 7
    rows = (run.path / "metrics" / "val_yolo_patients.csv").read_text().splitlines()
    assert rows[0] == "patient,slices,lesions,found,false,surest" and len(rows) == 3
    with np.load(run.path / "metrics" / "val_yolo_detections.npz") as kept:
        found = Detections(kept["boxes_xyxy"], kept["scores"], kept["labels"])
        names = kept["names"].tolist()
    assert names == [record.name for record in scored.dataset.records]
    again = metrics.summarise(found, evaluate.truths_of(scored.dataset), ("tumour",), "yolo")
    assert again["ap50"] == numbers["ap50"]
    for picture in ("errors", "froc", "precision_recall"):
        assert (run.path / "pictures" / f"val_yolo_{picture}.png").stat().st_size > 1000


def test_patients_that_were_trained_on_are_refused(tmp_path):
    tested = sources.load(toy.experiment().data, "val").records[0].patient
    with pytest.raises(ValueError, match=f"trained on 1 of the patients .*{tested}"):
        evaluate.score_run(scored_run(tmp_path / "seen", [tested]))
    known = evaluate.score_run(scored_run(tmp_path / "new", ["somebody else"])).card.numbers
    assert known["patients_are"] == "unseen"
    assert (
        evaluate.score_run(scored_run(tmp_path / "old")).card.numbers["patients_are"] == "unknown"
    )
    seen = scored_run(tmp_path / "seen_too", [tested])
    with pytest.raises(ValueError, match="trained on 1 of the patients"):
        evaluate.score_run(seen, other_data=True)
    others = evaluate.score_run(seen, other_data=True, other_patients=True).card.numbers
    assert others["patients_are"] == "declared others"
    with pytest.raises(ValueError, match="trained on 1 of the patients"):
        evaluate.score_run(seen, other_patients=True)  # its own data cannot be declared away


def test_the_training_split_says_what_it_is(tmp_path):
    patients = sorted({r.patient for r in sources.load(toy.experiment().data, "train").records})
    run = scored_run(tmp_path / "run", patients, split="train")
    assert evaluate.score_run(run).card.numbers["patients_are"] == "training"


@pytest.mark.parametrize(("protocol", "counts"), [("l0sg", False), ("fixed", True), ("yolo", True)])
def test_a_family_that_skips_empty_images_does_so_under_l0sg_only(
    protocol, counts, monkeypatch, tmp_path
):
    run = scored_run(tmp_path / "run", protocol=protocol)
    dataset = sources.load(run.experiment.data, "val")
    scores = np.zeros((len(dataset), 1))
    nothing = Detections(np.zeros((len(dataset), 1, 4)), scores, scores.astype(int) - 1)
    monkeypatch.setattr(evaluate, "detect_all", lambda *args, **kwargs: nothing)
    lesions = sum(len(record.labels) for record in dataset.records)
    assert evaluate.evaluate_run(run)["truths"] == lesions
    monkeypatch.setattr(toy, "SKIPS_EMPTY_IMAGES", True, raising=False)
    assert evaluate.evaluate_run(run)["truths"] == (lesions if counts else 0)
    # The best weights are not chosen by it: they would be those that find next to nothing.
    seen = evaluate.evaluate(look, None, dataset, run.experiment, progress=False)
    assert seen["truths"] == lesions and seen["protocol"] == protocol


def test_other_truth_under_the_same_names_is_refused(tmp_path):
    """A copy of the data with boxes elsewhere in the test fold, where split_digest is blind."""

    def boxes(name, shifted=()):
        (tmp_path / name).mkdir()
        rows = ["file,x0,y0,x1,y1,patient"]
        for p in range(6):
            cv2.imwrite(str(tmp_path / name / f"{p}.png"), np.full((40, 40), 9 * p, np.uint8))
            rows.append(f"{p}.png,{2 + (p in shifted)},2,20,20,q{p}")
        (tmp_path / name / "boxes.csv").write_text("\n".join(rows))
        return str(tmp_path / name / "boxes.csv")

    told = {"source": "csv", "split": "fold", "folds": 3, "path": boxes("here")}
    experiment = toy.experiment(data={**told, "window_hu": None})
    train, val, test = (sources.load(experiment.data, s) for s in ("train", "val", "test"))
    digests = unseen.digests(experiment.data, train, val)
    assert set(digests) == {"split_digest", "folds_digest"}
    run = runs.create(tmp_path / "run", experiment, train.class_names, **digests)
    unseen.check_unchanged(moved(run, boxes("copy")))
    other = moved(run, boxes("other", [int(record.name[0]) for record in test.records]))
    again = [sources.load(other.experiment.data, s) for s in ("train", "val")]
    assert sources.digest(*again) == digests["split_digest"]
    with pytest.raises(ValueError, match=r"boxes\.csv, their truth or their split have changed"):
        evaluate.score_run(other)


def moved(run, path):
    data = dataclasses.replace(run.experiment.data, path=path)
    return dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, data=data))


def test_the_numbers_are_written_last(tmp_path, monkeypatch):
    run = scored_run(tmp_path / "run")
    scored = evaluate.score_run(run)

    def killed(*_, **__):
        raise KeyboardInterrupt

    for room, part in ((evaluate.tables, "write_csv"), (evaluate.errors, "contact_sheet")):
        with monkeypatch.context() as patch:
            patch.setattr(room, part, killed)
            with pytest.raises(KeyboardInterrupt):
                evaluate.write(run, "val_yolo", scored)
        assert not (run.path / "metrics" / "val_yolo.json").exists()
    evaluate.write(run, "val_yolo", scored)
    assert (run.path / "metrics" / "val_yolo.json").exists()


def test_images_without_room_are_counted():
    labels = np.array([[0, 0, 0], [0, 0, -1], [-1, -1, -1]], np.int32)
    found = Detections(np.zeros((3, 3, 4), np.float32), np.zeros((3, 3), np.float32), labels)
    assert evaluate.full(found) == 1
