"""Model packages of bioimage.io (``pip install 'raphe[zoo]'``), written and read offline.

A package holds the program of `tasks.networks.export` twice: as TorchScript,
for whoever wants to run it, and as a state dict, from which Raphe makes a model
directory again. Nothing is unpickled but tensors, and no code of a package is
run: a package that was not written by Raphe, or whose weights hold anything
else, is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import ValidationError

from pipeline.errors import ConfigError, ModelError
from tasks.networks.export import Program, example_input, load_program
from tasks.networks.model import DESCRIPTION, Description, find_model, save_model
from tasks.networks.rdf import ATTACHED, CARD, RDF, SCRIPT, STATE, card, describe

_NO_TENSORS = (pickle.UnpicklingError, RuntimeError, TypeError, AttributeError, EOFError)

_LARGEST = 8 << 30
"""Bytes of a package's members; more is no model but a bomb."""


def _spec(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            "bioimage.io packages need bioimageio.spec, which is not installed; "
            "pip install 'raphe[zoo]'"
        ) from error


def save_package(model: str, package: Path) -> None:
    """Write a model as a bioimage.io package, a zip file.

    Parameters
    ----------
    model : str
        A shipped model's name, or a directory.
    package : Path
        Ends in ``.zip``.

    Raises
    ------
    ConfigError
        If bioimageio.spec is not installed.
    ModelError
        If there is no such model.
    """
    _spec("bioimageio.spec")
    folder = find_model(model)
    description, made = load_program(model)
    raw = example_input(description)
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        written = Path(temporary)
        torch.save(made.state_dict(), written / STATE)
        torch.jit.trace(made, raw).save(str(written / SCRIPT))  # type: ignore[no-untyped-call]
        np.save(written / "input.npy", raw.numpy())
        for name, values in zip(description.heads, made(raw), strict=True):
            np.save(written / f"{name}.npy", values.numpy())
        (written / ATTACHED).write_bytes((folder / DESCRIPTION).read_bytes())
        (written / CARD).write_text(card(folder.name, description))
        described = describe(folder.name, description, written)
        (written / RDF).write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
        partial = package.with_name(f"{package.stem}.partial.zip")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(written.iterdir()):
                archive.write(path, path.name)
    try:
        _check_valid(partial, files=True)
        partial.replace(package)
    finally:
        partial.unlink(missing_ok=True)


def load_package(package: Path, folder: Path) -> None:
    """Make a model directory of a package that Raphe wrote.

    Parameters
    ----------
    package : Path
        A zip file.
    folder : Path
        Of the model; made if need be.

    Raises
    ------
    ConfigError
        If bioimageio.spec is not installed.
    ModelError
        If it is no valid package, was not written by Raphe, or is damaged.
    """
    _check_valid(package)
    try:
        with zipfile.ZipFile(package) as archive:
            description = _attached(package, archive)
            rdf = yaml.safe_load(_member(package, archive, RDF))
            weights = rdf["weights"]["pytorch_state_dict"]
            state, expected = _member(package, archive, weights["source"]), str(weights["sha256"])
    except (zipfile.BadZipFile, KeyError, TypeError) as error:
        raise ModelError(
            f"{package} has no weights that Raphe can read ({error!r}); it needs "
            "pytorch_state_dict, as `raphe model export` writes it"
        ) from error
    found = hashlib.sha256(state).hexdigest()
    if found != expected:
        raise ModelError(
            f"the weights in {package} have the hash {found[:12]}…, not {expected[:12]}… as it "
            "says; copy the package again"
        )
    network = description.network.build(description.channels(), plain=True)
    made = Program(network, description.heads)
    try:
        # The unpickler of tensors alone, which refuses everything else before it is made.
        tensors = torch.load(io.BytesIO(state), weights_only=True, map_location="cpu")
        made.load_state_dict(tensors)
    except _NO_TENSORS as error:
        raise ModelError(
            f"the weights in {package} are not the tensors that {ATTACHED} describes; "
            f"whatever else they are was not run ({error!r:.200})"
        ) from error
    weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    save_model(folder, description, weights)


def _check_valid(package: Path, *, files: bool = False) -> None:
    """Refuse what is no valid description of a model; `files` checks tensors and hashes, too."""
    spec = _spec("bioimageio.spec")
    # A package from elsewhere is not asked for its files, which may be links, so that nothing
    # is fetched.
    found = spec.load_description(package, perform_io_checks=files)
    if isinstance(found, spec.InvalidDescr):
        summary = found.validation_summary.errors
        lines = "; ".join(f"{'.'.join(map(str, e.loc))}: {e.msg}" for e in summary)
        raise ModelError(f"{package} is no valid bioimage.io package: {lines}")
    if found.type != "model":
        raise ModelError(f"{package} holds a {found.type}, not a model")


def _member(package: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > _LARGEST:
        raise ModelError(f"{name} in {package} has {size} bytes; no more than {_LARGEST} are read")
    return archive.read(name)


def _attached(package: Path, archive: zipfile.ZipFile) -> Description:
    if ATTACHED not in archive.namelist():
        raise ModelError(
            f"{package} was not written by Raphe (it has no {ATTACHED}): what its network needs "
            "of a tile is not known, and its code is not run. Packages that `raphe model export` "
            "wrote can be imported."
        )
    try:
        return Description.model_validate(yaml.safe_load(_member(package, archive, ATTACHED)))
    except (yaml.YAMLError, ValidationError) as error:
        raise ModelError(f"{ATTACHED} in {package} does not describe a model: {error}") from error
