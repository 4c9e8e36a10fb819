"""Writes what a RUN reached as one JSON: config, seed, device, versions, curve, result.

    python scripts/reproduce/record.py RUN --out scripts/reproduce/results/NAME.json [--note TEXT]

The RUN's best checkpoint is evaluated again here; the curve is the RUN's own log.
"""

import argparse
import dataclasses
import datetime
import os
import pathlib

from jaxdet import run as runs
from jaxdet.config import to_json
from jaxdet.train import evaluate, log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    parser.add_argument("--note", default="")
    chosen = parser.parse_args()
    run = runs.open_run(chosen.run)
    rows = log.read_rows(run.path / "train.jsonl")
    experiment = to_json(run.experiment)
    experiment["data"]["path"] = pathlib.Path(experiment["data"]["path"]).name
    wanted = dataclasses.replace(run.experiment.evaluate, split=chosen.split)
    run = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, evaluate=wanted))
    summary = evaluate.evaluate_run(run)
    del summary["per_patient"]  # names of folders and files belong to those who own the data
    content = {
        "date": datetime.date.today().isoformat(),
        "device": runs.device_name(),
        "cores": os.cpu_count(),
        "versions": runs.versions(),
        "note": chosen.note,
        "seed": run.experiment.train.seed,
        "epochs_done": max((row["epoch"] for row in rows), default=-1) + 1,
        "split": chosen.split,
        "result": summary,
        "curve": [row for row in rows if "ap50" in row],
        "experiment": experiment,
    }
    runs.write_json(chosen.out, content)
    print(f"{chosen.out}: AP50 {summary['ap50']:.4f}, AP50-95 {summary['ap50_95']:.4f}")


if __name__ == "__main__":
    main()
