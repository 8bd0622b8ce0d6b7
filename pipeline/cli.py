"""The command `raphe`.

Errors that Raphe raises on purpose are printed without a traceback: exit
status 2 if the input is at fault, 1 if a run could not finish, 130 after
Ctrl-C. Commands of other packages come in through the entry-point group
``raphe.commands`` and are imported only when they are asked for.
"""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from pipeline.errors import RapheError, RunError

GROUP = "raphe.commands"


class Commands(click.Group):
    """The built-in commands, and those that packages register."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return sorted({*super().list_commands(ctx), *_registered()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; a registered one is imported now."""
        built_in = super().get_command(ctx, cmd_name)
        if built_in is not None or cmd_name not in _registered():
            return built_in
        command: click.Command = _registered()[cmd_name].load()
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; errors meant for the user become a message and a status."""
        try:
            return super().invoke(ctx)
        except RapheError as error:
            click.echo(f"raphe: {error}", err=True)
            ctx.exit(1 if isinstance(error, RunError) else 2)
        except KeyboardInterrupt:
            click.echo("raphe: stopped. Run the same command again to continue.", err=True)
            ctx.exit(130)


def _registered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


@click.group(
    cls=Commands,
    epilog="Example: raphe init raw.zarr && raphe run raphe.yaml; "
    "raphe COMMAND --help says more of a command.",
)
@click.version_option(package_name="raphe")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries log, too.")
def main(*, verbose: bool) -> None:
    """Seam-free instance segmentation of electron-microscopy volumes."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR)


@main.command(epilog="Example: raphe init raw.zarr/s0 -o raphe.yaml")
@click.argument("raw")
@click.option("-o", "--output", default="raphe.yaml", show_default=True, help="File to write.")
@click.option("--voxel-size", nargs=3, type=float, help="nm, z y x; where RAW carries none.")
@click.option("--axes", help="Order of RAW's axes, such as zyx, where it carries none.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def init(
    raw: str,
    output: str,
    voxel_size: tuple[float, float, float] | None,
    axes: str | None,
    *,
    force: bool,
) -> None:
    """Write a commented configuration for the volume RAW.

    RAW is a path or URL.
    """
    from pipeline.init import write_configuration

    click.echo(write_configuration(raw, output, voxel_size=voxel_size, axes=axes, force=force))


@main.command(epilog="Example: raphe plan raphe.yaml")
@click.argument("config")
def plan(config: str) -> None:
    """Print what a run of CONFIG would do; refuse what does not fit.

    For each step: its blocks, bytes read and written, and the memory of a worker.
    """
    from rich.console import Console

    from pipeline.config import load
    from pipeline.job import make_job, make_steps
    from pipeline.plan import check_memory, render

    job = make_job(load(config))
    steps = make_steps(job)
    Console().print(render(job, steps), soft_wrap=True)
    check_memory(steps, job.config.cluster)


@main.command(epilog="Example: raphe run raphe.yaml")
@click.argument("config")
def run(config: str) -> None:
    """Run CONFIG, a YAML file, or continue where it stopped.

    With a changed CONFIG, what depends on the change is done again. The exit
    status is 2 if the input is at fault, 1 if blocks failed, 130 after Ctrl-C.
    """
    from pipeline.config import load
    from pipeline.run import run as run_all

    summary = run_all(load(config))
    made = summary.made
    click.echo(f"{summary.blocks} blocks were run; {made} are at {summary.output}/{made}/s0")


@main.command(epilog="Example: raphe status segmentation.zarr")
@click.argument("output")
@click.option("--errors/--no-errors", default=True, help="Whether errors are shown in full.")
def status(output: str, *, errors: bool) -> None:
    """Show how far the run that writes to OUTPUT is, and what failed.

    OUTPUT is a path or URL, the `output` of the configuration.
    """
    from rich.console import Console

    from pipeline.status import read_status, render

    console = Console()
    for part in render(read_status(output), errors=errors):
        console.print(part, soft_wrap=True)
