"""Liver boxes on real CT: prepare the slices, then judge a RUN on a real DICOM series.

    python scripts/reproduce/msd_liver.py prepare --source MSD_SLICES --out runs/msd_coco
    jaxdet train configs/yolov8n_msd_liver.py --data.path runs/msd_coco --out runs/msd_liver
    python scripts/reproduce/msd_liver.py dicom --run runs/msd_liver --series DICOM \
        --labels SEG.nii.gz --out runs/msd_dicom \
        --result scripts/reproduce/results/msd_liver_dicom.json

MSD_SLICES holds images/*.jpg (256x256, grey = HU clipped to 0..255, the base slices turned by a
quarter or three quarters) and liver_boxes.json (file -> boxes xyxy). DICOM is a series, SEG its
label map with 5 for the liver.
"""

import argparse
import datetime
import json
import pathlib

import cv2
import numpy as np

from jaxdet import run as runs
from jaxdet.data import formats_coco, images, volume
from jaxdet.data.formats import Truth
from jaxdet.predict import predict
from jaxdet.report import figures

LIVER = 5


def prepare(source: pathlib.Path, out: pathlib.Path) -> None:
    """COCO, every slice turned to look as in a radiology viewer: liver left, spine below."""
    boxes = json.loads((source / "liver_boxes.json").read_text())
    (out / "images").mkdir(parents=True, exist_ok=True)
    truths = []
    for name, rows in sorted(boxes.items()):
        quarter = {"flipped": 1, "mirrored": -1}[name.split("_")[0]]
        image = np.rot90(images.read(source / "images" / name, channels=1), quarter)
        height, width = image.shape[:2]
        file = (out / "images" / name).with_suffix(".png")
        cv2.imwrite(str(file), np.ascontiguousarray(image))
        turned = [_turn(box, quarter, side=height) for box in rows]
        xyxy = np.array(turned, np.float32).reshape(-1, 4)
        truths.append(
            Truth(
                file=str(file.relative_to(out)),
                height=height,
                width=width,
                boxes_xyxy=xyxy,
                labels=np.zeros(len(xyxy), np.int32),
                crowd=np.zeros(len(xyxy), bool),
                area=(xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1]),
                faults=(),
            )
        )
    formats_coco.write(out / "annotations.json", ("liver",), truths)
    print(f"{out}: {len(truths)} slices, {sum(len(t.labels) for t in truths)} boxes")


def _turn(box: list[int], quarter: int, side: int) -> list[int]:
    x0, y0, x1, y1 = box
    if quarter == 1:  # counter-clockwise: right becomes top
        return [y0, side - x1, y1, side - x0]
    return [side - y1, x0, side - y0, x1]


def dicom(
    run: str,
    series: str,
    labels: str,
    out: pathlib.Path,
    result: pathlib.Path,
    picture: pathlib.Path | None,
) -> None:
    """The best liver box of every slice against the label map's, through `jaxdet predict`."""
    opened = runs.open_run(run)
    told = predict.predict(opened, [series], out, score_threshold=0.05)
    found = json.loads((out / "detections.json").read_text())
    liver = volume.to_lps(volume.read(labels)).hu == LIVER
    rows = []
    for z, mask in enumerate(liver):
        if not mask.any():
            continue
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        truth = [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]
        here = [row for row in found if row["slice"] == z]
        best = max(here, key=lambda row: row["score"], default=None)
        rows.append(
            {
                "slice": z,
                "truth_xyxy": [int(v) for v in truth],
                "bbox_xywh": best and best["bbox"],
                "score": best and best["score"],
                "iou": _iou(best["bbox"], truth) if best else 0.0,
            }
        )
    ious = [row["iou"] for row in rows]
    content = {
        "date": datetime.date.today().isoformat(),
        "device": runs.device_name(),
        "versions": runs.versions(),
        "run": {"config": "configs/yolov8n_msd_liver.py", "seed": opened.experiment.train.seed},
        "series": "20 slices of a real contrast CT, labels made by a model (TotalSegmentator)",
        "slices": told["images"],
        "slices_with_liver": len(rows),
        "mean_iou": float(np.mean(ious)),
        "min_iou": float(np.min(ious)),
        "iou_above_half": int(np.sum(np.array(ious) > 0.5)),
        "rows": rows,
    }
    runs.write_json(result, content)
    if picture is not None:
        _draw(rows[len(rows) // 2], opened, series, picture)
    print(f"mean IoU {content['mean_iou']:.3f} on {len(rows)} slices, least {min(ious):.3f}")


def _draw(row: dict, opened: runs.Run, series: str, picture: pathlib.Path) -> None:
    """The middle slice: the found box in colour, the label map's in white."""
    ct = volume.to_lps(volume.read(series)).hu[row["slice"]][..., None]
    shown = images.to_range(ct, opened.experiment.data.window_hu)
    x, y, w, h = row["bbox_xywh"]
    drawn = figures.overlay(
        shown,
        np.float32([[x, y, x + w, y + h]]),
        np.float32([row["score"]]),
        np.int32([0]),
        opened.class_names,
        truths_xyxy=np.float32([row["truth_xyxy"]]),
    )
    cv2.imwrite(str(picture), drawn[..., ::-1])


def _iou(xywh: list[float], truth: list[int]) -> float:
    x0, y0, w, h = xywh
    across = max(0.0, min(x0 + w, truth[2]) - max(x0, truth[0]))
    down = max(0.0, min(y0 + h, truth[3]) - max(y0, truth[1]))
    area = (truth[2] - truth[0]) * (truth[3] - truth[1])
    return float(across * down / (w * h + area - across * down))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("prepare")
    one.add_argument("--source", type=pathlib.Path, required=True)
    one.add_argument("--out", type=pathlib.Path, required=True)
    two = verbs.add_parser("dicom")
    two.add_argument("--run", required=True)
    two.add_argument("--series", required=True)
    two.add_argument("--labels", required=True)
    two.add_argument("--out", type=pathlib.Path, required=True)
    two.add_argument("--result", type=pathlib.Path, required=True)
    two.add_argument("--picture", type=pathlib.Path)
    chosen = vars(parser.parse_args())
    {"prepare": prepare, "dicom": dicom}[chosen.pop("verb")](**chosen)


if __name__ == "__main__":
    main()
