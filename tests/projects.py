"""The command `raphe` in a folder of its own, on a small crop of real affinities."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import yaml
from click.testing import CliRunner

from pipeline.cli import main

SHAPE = (32, 96, 96)
STORED = (16, 48, 48)
"""Voxels of a stored chunk of the input, and of a block: eight of both."""


@dataclass
class Project:
    """A folder with an input and a configuration; `raphe` runs in it."""

    folder: Path
    fields: dict

    @property
    def output(self) -> str:
        return str(self.folder / self.fields["output"])

    @property
    def input(self) -> Path:
        return self.folder / self.fields["affinities"]

    def __call__(self, command: str, **changes) -> tuple[int, str]:
        """Exit status and everything that was printed; `changes` of the configuration stay."""
        self.fields |= changes
        argument = "raphe.yaml"
        (self.folder / argument).write_text(yaml.safe_dump(self.fields))
        if command == "status":
            argument = self.fields["output"]
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            result = CliRunner().invoke(main, [command, argument], env={"COLUMNS": "200"})
        finally:
            os.chdir(before)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    def run(self, **changes) -> str:
        """What a run that goes well prints."""
        status, said = self("run", **changes)
        assert status == 0, said
        return said

    def is_called_done(self) -> bool:
        status, said = self("status")
        assert status == 0, said
        rows = [line.split() for line in said.splitlines()]
        counts = [row[1:] for row in rows if len(row) == 3 and row[1].isdigit()]
        assert len(counts) >= 9, said
        return all(done == total for done, total in counts)


def assert_failed(project, said, *parts):
    """A run that could not finish: named, with a remedy, open for the next run, and no whole."""
    for part in (*parts, "run the same command again"):
        assert part in said
    assert not project.is_called_done()
