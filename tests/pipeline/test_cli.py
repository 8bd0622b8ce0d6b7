import re

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from pipeline import cli
from pipeline.errors import RunError

COMMANDS = ["init", "plan", "run", "status"]


def call(*arguments):
    return CliRunner().invoke(cli.main, arguments)


@pytest.fixture
def config(tmp_path):
    np.save(tmp_path / "a.npy", np.full((3, 8, 8, 8), 255, np.uint8))
    values = {
        "affinities": str(tmp_path / "a.npy"),
        "axes": "czyx",
        "offsets": [[-1, 0, 0], [0, -1, 0], [0, 0, -1]],
        "voxel_size": [10, 10, 10],
        "output": str(tmp_path / "out"),
        "block": [4, 8, 8],
        "cluster": {"processes": False, "memory_gib": 4.0},
    }

    def write(**changes):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(values | changes))
        return str(tmp_path / "c.yaml")

    return write


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"Example: raphe {command} " in result.output


def test_the_commands_of_packages_are_imported_only_when_asked_for(monkeypatch):
    loaded = []

    class Entry:
        name = "dance"

        def load(self):
            loaded.append(True)
            return click.Command("dance", callback=lambda: click.echo("dancing"), help="Dances.")

    monkeypatch.setattr(cli, "entry_points", lambda group: [Entry()])
    assert call("plan", "--help").exit_code == 0
    assert not loaded
    assert re.search(r"dance +Dances", call("--help").output)
    assert call("dance").output == "dancing\n"
    assert call("sing").exit_code == 2


def test_plan_run_and_status(config, tmp_path):
    path = config()
    plan = call("plan", path)
    assert plan.exit_code == 0, plan.output
    assert "in 2 blocks (2x1x1) of 4 8 8, 2 octree levels" in plan.output
    assert not (tmp_path / "out").exists()
    run = call("run", path)
    assert run.exit_code == 0, run.output
    assert f"labels are at {tmp_path}/out/labels/s0" in run.output
    assert call("run", path).output.endswith(
        f"0 blocks were run; labels are at {tmp_path}/out/labels/s0\n"
    )
    status = call("status", str(tmp_path / "out"))
    assert status.exit_code == 0
    assert "relabel" in status.output


def test_bad_input_ends_with_2_and_a_message_without_a_traceback(config, tmp_path):
    result = call("run", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert result.stderr.startswith("raphe: there is no configuration at")
    assert "Traceback" not in result.stderr
    result = call("run", config(affinities=str(tmp_path / "none.zarr")))
    assert result.exit_code == 2
    assert "none.zarr" in result.stderr


def test_what_does_not_fit_is_refused_by_plan_and_by_run(config, tmp_path):
    path = config(cluster={"memory_gib": 0.0001})
    for command in ("plan", "run"):
        result = call(command, path)
        assert result.exit_code == 2
        assert "Choose a smaller block" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RunError("3 blocks failed"), 1, "raphe: 3 blocks failed"),
        (KeyboardInterrupt(), 130, "raphe: stopped. Run the same command again to continue."),
    ],
)
def test_runs_that_do_not_finish_end_with_1_or_130(config, monkeypatch, error, status, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("pipeline.run.run", fail)
    result = call("run", config())
    assert result.exit_code == status
    assert message in result.stderr


def test_init_writes_a_configuration(config, tmp_path):
    config()
    arguments = ["--axes", "czyx", "--voxel-size", "10", "10", "10"]
    path = str(tmp_path / "new.yaml")
    result = call("init", str(tmp_path / "a.npy"), "-o", path, *arguments)
    assert result.exit_code == 0, result.output
    assert f"wrote {path}" in result.output
    assert call("plan", path).exit_code == 0
