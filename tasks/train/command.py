"""The command `raphe train`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="""\b
    Examples:
      raphe train --init-from raw.zarr/s0 labels.h5:/labels
      raphe train train.yaml
      torchrun --nproc-per-node 4 --no-python raphe train train.yaml   (4 GPUs)
      tensorboard --logdir trained/train/logs
    """
)
@click.argument("config", type=click.Path(dir_okay=False), required=False)
@click.option(
    "--output",
    help="Folder of the model, in place of the configuration's; with --init-from the file that "
    "is written, train.yaml by default.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Minutes of training, in place of the configuration's.",
)
@click.option(
    "--restart", is_flag=True, help="Train from the beginning, though there is a checkpoint."
)
@click.option(
    "--init-from",
    "pairs",
    nargs=2,
    multiple=True,
    metavar="RAW LABELS",
    help="Write a commented configuration for these volumes, and do not train; may be repeated.",
)
@click.option("--voxel-size", nargs=3, type=float, help="nm, z y x; where RAW carries none.")
@click.option("--force", is_flag=True, help="With --init-from: replace a file that exists.")
def train(
    config: str | None,
    output: str | None,
    minutes: float | None,
    pairs: tuple[tuple[str, str], ...],
    voxel_size: tuple[float, float, float] | None,
    *,
    restart: bool,
    force: bool,
) -> None:
    """Train a network as CONFIG, a YAML file, says.

    A training that was interrupted goes on from its last checkpoint. The output
    is a model directory that `model:` of a run's configuration may name, with
    the checkpoint, logs for TensorBoard and pictures of validations beside it.

    RAW and LABELS are paths or URLs of a raw volume and of its labels, integers
    with 0 for unknown.
    """
    if (config is None) == (not pairs):
        raise click.UsageError("give either CONFIG, or --init-from RAW LABELS to write one")
    if pairs and (minutes is not None or restart):
        raise click.UsageError("--minutes and --restart are for training, not for --init-from")
    if not pairs and (voxel_size or force):
        raise click.UsageError(
            "--voxel-size and --force are for --init-from; CONFIG has a field voxel_size"
        )
    if pairs:
        from tasks.train.init_from import write_training

        target = output or "train.yaml"
        click.echo(write_training(list(pairs), target, voxel_size=voxel_size, force=force))
        return
    _train(str(config), output, minutes, restart)


def _train(config: str, output: str | None, minutes: float | None, restart: bool) -> None:
    # Imported here, since torch takes seconds and `raphe --help` shows this command, too.
    from tasks.train.config import load
    from tasks.train.distributed import is_first
    from tasks.train.loop import train as run_training
    from tasks.train.state import CHECKPOINT

    loaded = load(config)
    changed = {"output": output, "minutes": minutes}
    loaded = loaded.model_copy(update={k: v for k, v in changed.items() if v is not None})
    checkpoint = Path(loaded.output) / CHECKPOINT
    if restart and is_first():
        checkpoint.unlink(missing_ok=True)
    elif checkpoint.exists() and is_first():
        click.echo(f"going on from {checkpoint}")
    folder = run_training(loaded)
    if is_first():
        click.echo(f"model: {folder}")
