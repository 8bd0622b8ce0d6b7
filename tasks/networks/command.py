"""The command `raphe model`: models in and out."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.errors import ConfigError


@click.group(
    short_help="Exchange models with others.",
    epilog="Example: raphe model export fib25-affinities fib25.zip",
)
def model() -> None:
    """Exchange models with others, as packages of bioimage.io or for torch."""


@model.command(
    name="import",
    short_help="Make a model directory of a package.",
    epilog="Example: raphe model import neurons.zip models/neurons",
)
@click.argument("package", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def import_model(package: Path, folder: Path) -> None:
    """Make a model directory FOLDER of a bioimage.io PACKAGE that Raphe wrote.

    FOLDER may then be `model:` of a run. No code of a package is run; packages
    of others are refused, since they do not say what their network needs of a
    tile. Needs bioimageio.spec: pip install 'raphe[zoo]'.
    """
    # Imported here, since torch takes seconds and `raphe --help` shows this command, too.
    from tasks.networks.zoo import load_package

    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose another folder for the model")
    load_package(package, folder)
    click.echo(f"model: {folder}")


@model.command(
    name="export",
    short_help="Write a model as one file.",
    epilog="Example: raphe model export fib25-affinities fib25.zip",
)
@click.argument("name")
@click.argument("package", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["bioimageio", "torch-export"]),
    default="bioimageio",
    show_default=True,
    help="A package for bioimage.io, or a program for torch.export.load.",
)
def export_model(name: str, package: Path, kind: str) -> None:
    """Write the model NAME, a shipped one or a directory, as one file PACKAGE.

    bioimageio writes a .zip with weights as TorchScript and as a state dict,
    and needs bioimageio.spec: pip install 'raphe[zoo]'. torch-export writes a
    .pt2, whose program takes normalised raw data and gives probabilities.
    """
    from tasks.networks.export import export_program
    from tasks.networks.zoo import save_package

    suffix = {"bioimageio": ".zip", "torch-export": ".pt2"}[kind]
    if package.suffix != suffix:
        raise ConfigError(
            f"a file of format {kind} ends in {suffix}, and {package} does not; rename it, or "
            "choose another --format"
        )
    if kind == "bioimageio":
        save_package(name, package)
    else:
        export_program(name, package)
    click.echo(f"written: {package}")
