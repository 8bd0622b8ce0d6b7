"""A training leaves a model that can be found, with its record; wrong ones are refused."""

import functools
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainings import network, same, weights, write_truth

from pipeline.errors import ConfigError, RunError
from tasks.networks.model import WEIGHTS, Defaults, find_model, read_description
from tasks.train import keep, learn, report, state
from tasks.train.command import train as command
from tasks.train.config import load
from tasks.train.data import open_pair
from tasks.train.distributed import Team, team
from tasks.train.loop import train
from tasks.train.options import Optimiser
from tasks.train.schedule import learning_rate, progress

pytestmark = pytest.mark.usefixtures("one_thread")

QUIET = Console(quiet=True)


def test_training_leaves_a_model_that_can_be_found_with_its_record(config):
    folder = train(config(), QUIET)
    description = read_description(find_model(str(folder)))
    assert description.training["steps"] == description.training["best_step"] == 4
    assert description.training["validation"][0]["voi_split"] >= 0
    assert description.defaults.segment["threshold"] in (0.4, 0.5, 0.6)
    assert description.defaults.segment["absorb_size"] in (0, 20)
    assert description.normalisation.mean == pytest.approx(145, abs=5)
    assert description.voxel_size == (10, 10, 10)
    assert all(value.dtype == torch.float32 for value in weights(folder).values())
    assert (folder / "pictures/step-000004.png").stat().st_size > 1000


def test_training_learns_the_membrane(config):
    folder = train(
        config(
            steps=60,
            augmentations=[{"kind": "flip"}],
            validate={"steps": 20, "absorb_sizes": [0, 100]},
        ),
        QUIET,
    )
    scores = read_description(folder).training["validation"]
    assert [found["step"] for found in scores] == [20, 40, 60]
    first, *_, last = (found["voi_split"] + found["voi_merge"] for found in scores)
    assert last < 0.6 * first


def test_what_is_kept_is_the_best_and_not_the_last(config, monkeypatch):
    real, bad = keep.validate, iter([False, True, True])

    def worse(*arguments):
        found = real(*arguments)
        found.best["voi_merge"] += 5 * next(bad)
        return found

    monkeypatch.setattr(keep, "validate", worse)
    folder = train(config(steps=2, validate={"steps": 2}), QUIET)
    before = weights(folder)
    train(config(steps=6, validate={"steps": 2}), QUIET)
    description = read_description(folder)
    assert same(weights(folder), before)
    assert description.training["best_step"] == 2
    assert [found["step"] for found in description.training["validation"]] == [2, 4, 6]


def test_training_stops_where_nothing_gets_better(config, monkeypatch):
    scores = iter([3.0, 2.0, 2.5, 2.0, 9.0])
    real = keep.validate

    def scored(*arguments):
        found = real(*arguments)
        found.best.update(voi_split=next(scores), voi_merge=0.0)
        return found

    monkeypatch.setattr(keep, "validate", scored)
    stopping = functools.partial(config, steps=9, validate={"steps": 1}, early_stop=2)
    folder = train(stopping(), QUIET)
    assert read_description(folder).training["steps"] == 4
    assert read_description(folder).training["best_step"] == 2
    train(stopping(), QUIET)
    assert read_description(folder).training["steps"] == 4


def test_tensorboard_sees_losses_scores_of_all_settings_and_the_picture(config):
    folder = train(config(), QUIET)
    found = EventAccumulator(str(folder / "logs")).Reload().Tags()
    assert {
        "loss/affinities.bce",
        "loss/distances.mse",
        "training/learning_rate",
        "training/waiting_share",
        "training/crops_per_second",
        "threshold_0.4_absorb_20/voi_split",
        "validation/voi",
        "validation/adapted_rand_error",
    } <= set(found["scalars"])
    assert found["images"] == ["validation"]


def test_training_that_diverges_is_stopped_with_the_remedy(config, monkeypatch):
    real = learn.losses

    def diverging(*arguments):
        parts, total = real(*arguments)
        return parts | {"far.bce": total * float("nan")}, total

    monkeypatch.setattr(learn, "losses", diverging)
    with pytest.raises(RunError, match=r"at step 4 far.bce is no number.*Lower optimiser"):
        train(config(), QUIET)


@pytest.mark.parametrize("seldom", [{"checkpoint_minutes": 1e-9}, {"validate": {"steps": 1}}])
def test_a_training_that_diverged_is_neither_kept_nor_scored(config, monkeypatch, seldom):
    real = learn.losses

    def diverging(*arguments):
        parts, total = real(*arguments)
        return {name: part * float("nan") for name, part in parts.items()}, total * float("nan")

    folder = train(config(steps=2, **seldom), QUIET)
    before = (folder / state.CHECKPOINT).read_bytes()
    monkeypatch.setattr(report, "READ_SECONDS", 1e9)  # losses are read too late
    monkeypatch.setattr(learn, "losses", diverging)
    with pytest.raises(RunError, match=r"at step 3 .* is no number: training diverged"):
        train(config(**seldom), QUIET)
    assert (folder / state.CHECKPOINT).read_bytes() == before


def test_the_time_of_a_validation_is_none_between_validations(config, monkeypatch):
    clock, scored = [0.0], []

    def validate(self, _):
        clock[0] += 600  # ten minutes, where one is due every five
        scored.append(self.state.step)

    monkeypatch.setattr(keep.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(keep.Keeper, "_validate", validate)
    wanted = config(validate={"minutes": 5})
    found = state.create(wanted)
    keeper = keep.Keeper(wanted, None, found)
    for found.step in range(1, 13):
        clock[0] += 60
        found.seconds = clock[0]
        keeper.keep(0.5, mock.Mock())
    assert scored == [5, 10]
    assert clock[0] == 12 * 60 + 2 * 600


def test_a_training_whose_time_is_over_before_it_was_scored_leaves_a_model(config, monkeypatch):
    # As if it had been killed: the checkpoint is there, and no model.
    killed = config(checkpoint_minutes=1e-9, steps=4)
    monkeypatch.setattr(keep.Keeper, "_validate", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(killed, QUIET)
    monkeypatch.undo()
    folder = train(config(steps=2), QUIET)
    assert len(read_description(folder).training["validation"]) == 1


def test_a_best_model_that_is_gone_is_missed_before_anything_is_learnt(config):
    folder = train(config(steps=2), QUIET)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match=rf"there is no .*{WEIGHTS}, which was the best.*--rest"):
        train(config(), QUIET)


def test_processes_must_go_on_from_one_step(config, monkeypatch):
    monkeypatch.setattr(Team, "told", lambda _, share, over, step: (share, over, step + 2))
    with pytest.raises(ConfigError, match=r"from step 2, process 0 from step 0: .* all see"):
        train(config(), QUIET)


def test_how_a_model_was_scored_is_how_it_is_decoded(config):
    segment = {"linkage": "quantile-50", "low": 0.1}
    validate = {"steps": 9, "thresholds": [0.45], "absorb_sizes": [7], "segment": segment}
    folder = train(config(validate=validate), QUIET)
    expected = segment | {"threshold": 0.45, "absorb_size": 7}
    assert read_description(folder).defaults.segment == expected


def test_deep_levels_learn_by_their_weights(config):
    deep = network(deep_heads=1)
    folder = train(config(network=deep, deep_supervision=[1, 0.5]), QUIET)
    assert not any("deep" in name for name in weights(folder))
    with pytest.raises(ConfigError, match=r"deep_supervision has 3 weights.* 2 levels"):
        train(
            config(network=deep, deep_supervision=[1, 0.5, 0.2], output=f"{folder}-2"),
            QUIET,
        )


def test_a_head_that_is_no_affinities_can_be_scored(config):
    inside = {"boundary": {"kind": "boundary"}}
    folder = train(config(heads=inside, losses={}), QUIET)
    description = read_description(folder)
    assert description.training["validation"][0]["voi_split"] >= 0
    assert description.defaults.predict["output"] == "boundary"


def test_a_head_that_no_run_segments_has_no_defaults(config):
    folder = train(config(heads={"membrane": {"kind": "boundary"}}, losses={}), QUIET)
    assert read_description(folder).defaults == Defaults()


def test_several_volumes_are_scored_as_one(config, tmp_path):
    other = write_truth(tmp_path / "other.npz", (8, 20, 20))
    one = config()
    both = config(validation=[each.model_dump() for each in one.validation] + [other])
    alone, more = (
        read_description(train(each.model_copy(update={"output": f"{tmp_path}/{n}"}), QUIET))
        for n, each in enumerate((one, both))
    )
    assert alone.training["validation"] != more.training["validation"]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("cosine", [1, 0.5, 0]),
        ("polynomial", [1, 0.5**0.9, 0]),
        ("step", [1, 0.1, 0.01]),
        ("constant", [1, 1, 1]),
    ],
)
def test_the_learning_rate_warms_up_and_follows_its_schedule(schedule, rates):
    optimiser = Optimiser(learning_rate=1, warmup=2, schedule=schedule)
    assert learning_rate(optimiser, 0, 0) == pytest.approx(0.5)
    found = [learning_rate(optimiser, 5, share) for share in (0, 0.5, 1)]
    assert found == pytest.approx(rates, abs=1e-9)


def test_the_clock_ends_a_training_as_well(config):
    one = config(minutes=2)
    assert progress(one, 1, 60) == 0.5
    assert progress(one, 1, 600) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": [7, 8, 8]}, r"crop \(7, 8, 8\) is not a multiple .*stride \(2, 2, 2\)"),
        (
            {"losses": {"near": [{"kind": "bce"}]}},
            r"losses of heads that do not exist: near; the heads are affinities, distances, far",
        ),
        ({"losses": {"far": []}}, r"losses: far has none"),
        ({"losses": {"far": [{"kind": "bcee"}]}}, r"losses.far.0: .*'bcee'"),
        (
            {"heads": {"far": {"kind": "affinities", "offsets": [[0, 0, -3]]}}, "losses": {}},
            r"heads needs 'affinities'",
        ),
        (
            {"heads": {"labels": {"kind": "boundary"}}, "losses": {}},
            r"no head can be called 'labels': names are letters.*rename it",
        ),
        ({"heads": {"half": {"kind": "boundary"}}, "losses": {}}, r"no head .* 'half'"),
        ({"heads": {"../far": {"kind": "boundary"}}, "losses": {}}, r"no head .* '../far'"),
        ({"validate": {"head": "far"}}, r"heads needs 'far' of kind affinities"),
        ({"optimiser": {"betas": [0.9, 1]}}, r"optimiser.betas.1: .*less than 1"),
        ({"stepps": 3}, r"stepps: Extra inputs"),
        ({"steps": 0}, r"steps: .*greater than 0"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_field(config, change, message):
    with pytest.raises(ConfigError, match=message):
        config(**change)


def test_a_missing_configuration_is_named():
    with pytest.raises(ConfigError, match=r"no training configuration at 'nowhere.yaml'.*--init"):
        load("nowhere.yaml")


def test_what_cannot_be_scored_is_refused_before_anything_is_learnt(config, tmp_path):
    truth = {"raw": f"{tmp_path}/truth.npz:/raw", "labels": f"{tmp_path}/truth.npz:/labels"}
    np.savez(tmp_path / "none.npz", labels=np.zeros((16, 20, 20), np.uint32))
    with pytest.raises(ConfigError, match=r"none\.npz:/labels' is 0 in all slices"):
        train(config(validation=truth | {"labels": f"{tmp_path}/none.npz:/labels"}), QUIET)
    for raw in (truth["raw"], f"{tmp_path}/../{tmp_path.name}/truth.npz:raw"):
        with pytest.raises(ConfigError, match=r"slices 11 to 12 .* in training and in validation"):
            train(config(validation=truth | {"raw": raw, "slices": [11, 16]}), QUIET)


@pytest.mark.parametrize("where", ["training", "validation"])
def test_negative_ids_are_refused_before_anything_is_learnt(config, tmp_path, where):
    found = config()
    labels = np.full((16, 20, 20), 3, np.int64)
    labels[:, :5] = -1
    np.savez(tmp_path / "negative.npz", labels=labels)
    (truth,) = getattr(found, where)
    changed = truth.model_dump() | {"labels": f"{tmp_path}/negative.npz:/labels"}
    with pytest.raises(ConfigError, match=r"negative.npz:/labels' holds the id -1, but ids are"):
        train(config(**{where: [changed]}), QUIET)


def test_an_absent_gpu_is_named_before_anything_is_learnt(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device is cuda, but torch finds no CUDA"):
        train(config(device="cuda"), QUIET)


def test_more_processes_than_gpus_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    before = torch.backends.cudnn.benchmark
    with pytest.raises(ConfigError, match=r"more processes than the 1 GPUs.*--nproc-per-node 1"):
        team("auto").__enter__()
    torch.backends.cudnn.benchmark = before


def test_time_must_be_positive(config, tmp_path):
    config()
    result = CliRunner().invoke(command, [str(tmp_path / "train.yaml"), "--minutes", "0"])
    assert result.exit_code == 2
    assert "not in the range x>0" in result.output


def test_the_command_trains_and_goes_on(config, tmp_path):
    config()
    run = CliRunner().invoke
    arguments = [str(tmp_path / "train.yaml"), "--output", str(tmp_path / "elsewhere")]
    first = run(command, arguments, catch_exceptions=False)
    assert "step 4: validation threshold 0." in first.output
    assert f"model: {tmp_path / 'elsewhere'}" in first.output
    assert "going on from" in run(command, arguments, catch_exceptions=False).output
    again = run(command, [*arguments, "--restart"], catch_exceptions=False)
    assert "step 4: validation" in again.output


def test_the_command_wants_a_configuration_or_data():
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 2
    assert "give either CONFIG, or --init-from RAW LABELS" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init-from", "raw", "labels", "--restart"], "--restart are for training"),
        (["train.yaml", "--voxel-size", "8", "8", "8"], "CONFIG has a field voxel_size"),
        (["train.yaml", "--force"], "--force are for --init-from"),
    ],
)
def test_options_of_the_other_way_are_refused(arguments, message):
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_checkpoint_holds_no_pickle(config):
    folder = train(config(), QUIET)
    header = (folder / state.CHECKPOINT).read_bytes()
    size = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + size])["__metadata__"]["state"]


DATA = Path("../shared/data/fib25/train.npz")


@pytest.mark.skipif(not DATA.exists(), reason=f"the training volume is not at {DATA}")
def test_the_shipped_models_configuration_finds_its_data():
    shipped = load(str(find_model("fib25-affinities") / "train.yaml"))
    raw, labels = open_pair(shipped.validation[0], shipped.voxel_size)
    assert raw.shape == labels.shape == (170, 250, 250)
    assert raw.voxel_size == (10, 10, 10)
