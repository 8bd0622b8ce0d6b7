"""The command `raphe train`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="Example: raphe train tasks/models/fib25-affinities/train.yaml --output my-model"
)
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--output", help="Folder of the model, in place of the configuration's.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Time, in place of the configuration's.",
)
@click.option(
    "--restart", is_flag=True, help="Train from the beginning, though there is a checkpoint."
)
def train(config: str, output: str | None, minutes: float | None, restart: bool) -> None:
    """Train a network as CONFIG, a YAML file, says.

    A training that was interrupted goes on from its last checkpoint. The output
    is a model directory that `model:` of a run's configuration may name.
    """
    # Imported here, since torch takes seconds and `raphe --help` shows this command, too.
    from tasks.train.config import load
    from tasks.train.loop import train as run_training
    from tasks.train.state import CHECKPOINT

    loaded = load(config)
    changed = {"output": output, "minutes": minutes}
    loaded = loaded.model_copy(update={k: v for k, v in changed.items() if v is not None})
    checkpoint = Path(loaded.output) / CHECKPOINT
    if restart:
        checkpoint.unlink(missing_ok=True)
    elif checkpoint.exists():
        click.echo(f"going on from {checkpoint}")
    folder = run_training(loaded)
    click.echo(f"model: {folder}")
