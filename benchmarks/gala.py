"""A model of FIB-25 on other tissue, without and with fine-tuning on half of it.

    python benchmarks/gala.py [MODEL] [--steps 400] [--output FOLDER] [--device auto]

Data: gala's training volume (`../shared/data/gala/train.npz`, 50×100×200 voxels of a size that is
not stored and taken for the model's own). Slices 25 to 50 are scored, slices 0 to 20 are learnt
from and 20 to 25 validate, by `benchmarks/gala.yaml` with the model's own network, heads and
decoder; truth 0, the line between objects, is ignored. Context is mirrored where the volume (in
training: what is learnt from) ends. The fine-tuned model is kept in `--output`, if given; to go on
there with other steps is to go on with the same training. Prints JSON, for each of

- `as_it_is`: the model, with its fixed scaling of raw data;
- `rescaled`: the same weights, with raw data scaled by mean and deviation of slices 0 to 20, so
  that what learning adds to this can be told;
- `fine_tuned`: after `steps` steps, the best of the validations;

`raw_mean` and `raw_std`, by which raw data are scaled, the `predict` and `segment` settings that
the model carries as its defaults, and scores: `at_defaults`, with all of these, and
`at_best_threshold`, at the `threshold` of least VOI on the very slices that are scored, which no
user would know: the difference is what the choice of a threshold costs. Scores are `voi_split`,
`voi_merge` and their sum `voi` in bits, and `adapted_rand_error`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import yaml
from rich.console import Console
from scoring import Row, curve, predicted, scores_of, settings_of

from pipeline.geometry import Box
from pipeline.volumes import open_volume
from tasks.core import segment_volume
from tasks.evaluate import contingency
from tasks.networks.model import find_model, load_network, read_description, save_model
from tasks.train.config import Training
from tasks.train.data import normalisation
from tasks.train.loop import train

CONFIGURATION = Path(__file__).with_suffix(".yaml")
SLICES = (25, 50)
THRESHOLDS = [0.05 * n for n in range(4, 19)]


def fine_tuning(model: str, output: str, steps: int, device: str) -> Training:
    """The committed configuration, for the network, heads and decoder of a model."""
    description = read_description(find_model(model))
    given = yaml.safe_load(CONFIGURATION.read_text())
    own = description.model_dump(mode="json", include={"network", "heads", "voxel_size"})
    losses = given["losses"]
    predict = description.defaults.predict
    given |= own | {"init": model, "output": output, "steps": steps, "device": device}
    # Heads that the configuration does not know are taught by their default losses.
    given["losses"] = {name: losses[name] for name in own["heads"] if name in losses}
    given["validate"] |= {
        "segment": description.defaults.segment,
        "tta": predict.get("tta", "none"),
        "head": predict.get("output"),
    }
    return Training.model_validate(given)


def rescale(model: str, config: Training, folder: Path) -> None:
    """Write the model with the scaling of the raw data that would be learnt from."""
    description, network = load_network(find_model(model))
    scaling, _ = normalisation(config.training, config.voxel_size)
    changed = description.model_copy(update={"normalisation": scaling})
    save_model(folder, changed, network.state_dict())


def row_of(model: str, config: Training) -> Row:
    """Scores of a model on the slices that are kept apart."""
    data = config.training[0]
    run, affinities = predicted(model, data.raw, SLICES, device=config.device)
    volume = open_volume(data.labels, voxel_size=config.voxel_size)
    truth = volume.read(Box.between((SLICES[0], 0, 0), (SLICES[1], *volume.shape[1:])))
    found = segment_volume(affinities, run.segment)
    scores = curve(truth, affinities, run.segment, THRESHOLDS)
    best = min(scores, key=lambda threshold: scores[threshold]["voi"])
    scaling = read_description(find_model(model)).normalisation
    return {
        "raw_mean": round(scaling.mean, 2),
        "raw_std": round(scaling.std, 2),
        **settings_of(run),
        "at_defaults": scores_of(contingency(truth, found)),
        "at_best_threshold": {"threshold": float(best)} | scores[best],
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", nargs="?", default="fib25-affinities", metavar="MODEL")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--output", help="where to keep the fine-tuned model")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tuned = options.output or f"{folder}/fine-tuned"
        config = fine_tuning(options.model, tuned, options.steps, options.device)
        rescale(options.model, config, Path(folder) / "rescaled")
        train(config, Console(stderr=True, highlight=False))
        models = {
            "as_it_is": options.model,
            "rescaled": f"{folder}/rescaled",
            "fine_tuned": tuned,
        }
        rows = {name: row_of(each, config) for name, each in models.items()}
    print(json.dumps({"model": options.model, "steps": options.steps, **rows}, indent=1))


if __name__ == "__main__":
    main()
