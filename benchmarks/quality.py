"""How good the labels of models are on slices that they never learnt from, beside FFN's.

    python benchmarks/quality.py [MODEL …] [--slices 130 170] [--tta flips]

Data: FIB-25 (`../shared/data/fib25`): raw data and truth of `train.npz`, and the segmentation by
Google's FFN of the same cube in `ffn_train.npz` (`--ffn ''` leaves it out). Raw data are predicted
in the slices, with what lies beyond them as context (mirrored where the volume ends), and cut by
the exact decoder, all with each model's own defaults unless `--tta` says otherwise; a run on this
region finds the same objects. Truth 0 is ignored; other ids of truth are taken as they are, also
where an object falls apart within the slices. Prints JSON:

- `models`: for each model its `predict` and `segment` settings, its scores on all labelled voxels
  (`all`) and on those that FFN labels, too (`on_ffn_voxels`), and `thresholds`, the scores on all
  labelled voxels at thresholds around the default, everything else being the same.
- `mean`, `spread`: of the models' scores, such as those of several seeds; the spread is the sample
  standard deviation, null for one model.
- `ffn`: the same scores of FFN, which saw all of the cube and so knows what joins beyond the
  slices; what it leaves unlabelled counts as one segment in `all`. `ffn_components`: the same of
  its connected components (by faces) within the slices.
- `components`: the same scores of truth's own connected components within the slices, below which
  nothing that sees these slices alone can be expected to come.

Scores are `voi_split`, `voi_merge` and their sum `voi` in bits, and `adapted_rand_error`;
`without` has them with one object of truth left out (set to 0), for the ten largest in the slices.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import numpy as np
from scoring import SCORES, Array, Row, curve, predicted, scores_of, settings_of
from skimage import measure

from pipeline.config import Config
from tasks.core import segment_volume
from tasks.evaluate import contingency

LARGEST = 10
"""Objects that are left out, one at a time."""

AROUND = (-0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2)
"""Thresholds of a sweep, relative to the default."""


def scored(truth: Array, labels: Array, where: Array | None = None) -> Row:
    """Scores on the labelled voxels (`where` is true), and those without each large object."""
    known = truth != 0
    table = contingency(truth, labels, known if where is None else known & where)
    ids, sizes = np.unique(truth[known], return_counts=True)
    largest = np.argsort(-sizes, kind="stable")[:LARGEST]
    without = [
        {"object": int(ids[i]), "voxels": int(sizes[i])}
        | scores_of(table.where(table.truth != ids[i]))
        for i in largest
    ]
    return scores_of(table) | {"voxels": table.n_voxels, "without": without}


def compared(truth: Array, labels: Array, ffn: Array | None) -> Row:
    """Scores on all labelled voxels, and on those that FFN labels, too."""
    found = {"all": scored(truth, labels)}
    return found if ffn is None else found | {"on_ffn_voxels": scored(truth, labels, ffn > 0)}


def row_of(config: Config, affinities: Array, truth: Array, ffn: Array | None) -> Row:
    """Everything that is printed of a model."""
    segment = config.segment
    default = 0.5 if segment.threshold is None else segment.threshold
    thresholds = [default + step for step in AROUND if 0 < default + step < 1]
    return {
        "model": config.model,
        **settings_of(config),
        **compared(truth, segment_volume(affinities, segment), ffn),
        "thresholds": curve(truth, affinities, segment, thresholds),
    }


def over_models(rows: list[Row], of: Callable[[list[float]], float]) -> Row:
    """A statistic of each score over the models."""
    parts = [part for part in ("all", "on_ffn_voxels") if part in rows[0]]
    return {
        part: {name: round(of([row[part][name] for row in rows]), 4) for name in SCORES}
        for part in parts
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", nargs="*", default=["fib25-affinities"], metavar="MODEL")
    parser.add_argument("--data", default="../shared/data/fib25/train.npz")
    parser.add_argument("--slices", nargs=2, type=int, default=[130, 170])
    parser.add_argument("--ffn", default="../shared/data/fib25/ffn_train.npz")
    parser.add_argument("--tta", choices=["none", "flips", "all"])
    options = parser.parse_args()
    used = slice(*options.slices)
    truth = np.load(options.data)["gt"][used]
    ffn = np.load(options.ffn)["ffn"][used] if options.ffn else None
    given = {"tta": options.tta} if options.tta else {}
    rows = [
        row_of(*predicted(model, f"{options.data}:/raw", options.slices, **given), truth, ffn)
        for model in options.models
    ]
    result: Row = {"slices": options.slices, "models": rows}
    result["mean"] = over_models(rows, statistics.mean)
    result["spread"] = over_models(rows, statistics.stdev) if len(rows) > 1 else None
    if ffn is not None:
        result["ffn"] = compared(truth, ffn, ffn)
        result["ffn_components"] = compared(truth, measure.label(ffn, connectivity=1), ffn)
    result["components"] = compared(truth, measure.label(truth, connectivity=1), ffn)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
