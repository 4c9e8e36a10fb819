"""Which p-values of paper 1's Table 1 can come from a paired t-test on five folds?

    python scripts/reproduce/table1_tests.py --out scripts/reproduce/results/table1_tests.json

Means and p-values are those of the paper, and so are the SDs of PCA-YOLO, YOLOv8x and SPN-TS. The
SDs of the other rows were not at hand: they were RECOVERED, not read, to one decimal, from the
fold correlations that the printed p-values imply (facts, pca_yolo 3.4), two-sided and one-sided.
Each is the only decimal that gives both. nnU-Net (p .000) is left out: none fits.
"""

import argparse
import datetime
import pathlib

import scipy

from jaxdet import run as runs
from jaxdet.metrics import consistency

PCA_YOLO = (77.2, 2.1)  # AP50 in %, mean and SD of five folds
FOLDS = 5
ROWS = {  # AP50 mean, SD, p against PCA-YOLO
    "SPN-TS": (70.8, 4.6, 0.018),
    "Swin-Unet": (55.8, 6.5, 0.002),
    "RT-DETR": (66.5, 3.6, 0.001),
    "RCS-YOLO": (72.5, 5.0, 0.012),
    "YOLOv8x": (73.7, 3.4, 0.035),
    "+ channel attention": (73.9, 3.3, 0.031),
    "+ self-attention": (74.8, 3.4, 0.052),
    "+ MTNet": (74.9, 2.9, 0.064),
}
READ = ("SPN-TS", "YOLOv8x")  # rows whose SD is the paper's own
READINGS = (("two-sided", 1), ("greater", 1), ("two-sided", 0), ("greater", 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    chosen = parser.parse_args()
    rows = table()
    content = {
        "date": datetime.date.today().isoformat(),
        "device": runs.device_name(),
        "versions": runs.versions() | {"scipy": scipy.__version__},
        "seed": None,  # nothing is drawn
        "folds": FOLDS,
        "pca_yolo": PCA_YOLO,
        "rows": rows,
    }
    runs.write_json(chosen.out, content)
    print(text(rows))


def table() -> list[dict]:
    """One entry a row of the paper and reading of its test: alternative and ddof of the SDs."""
    return [
        {
            "row": name,
            "mean": mean,
            "sd": sd,
            "sd_from": "paper" if name in READ else "recovered from the facts",
            "p": p,
            "alternative": alternative,
            "ddof": ddof,
            **consistency.check(
                *PCA_YOLO, mean, sd, p, n=FOLDS, ddof=ddof, alternative=alternative
            )._asdict(),
        }
        for alternative, ddof in READINGS
        for name, (mean, sd, p) in ROWS.items()
    ]


def text(rows: list[dict]) -> str:
    """The table for a terminal, one block a reading."""
    lines, last = [], None
    for row in rows:
        reading = f"{row['alternative']}, SDs with ddof {row['ddof']}"
        if reading != last:
            lines.append(f"{reading:25}   mean   SD     p     t  SD(d)      r  p can be")
        last = reading
        printed = f"{row['row']:23} {row['mean']:6.1f} {row['sd']:4.1f} {row['p']:5.3f}"
        implied = f"{row['t']:5.2f} {row['sd_difference']:6.2f} {row['correlation']:6.2f}"
        bounds = f"{row['least_p']:.5f} to {row['most_p']:.5f}"
        verdict = "" if row["possible"] else "  IMPOSSIBLE"
        lines.append(f"  {printed} {implied}  {bounds}{verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
