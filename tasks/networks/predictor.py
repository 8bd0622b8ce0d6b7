"""A network at work on tiles: normalisation, arithmetic, quantisation, device.

On a GPU the upload of a tile, the network at work on the one before and the
download of the one before that go on at the same time. A process has one
network at work at any time, whatever the number of its threads: on a CPU it
takes all cores that it is given, on a GPU it would only compete for memory.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError, ModelError
from tasks.networks.model import Description, load_network, weights_hash
from tasks.parts import Module

Tile = npt.NDArray[np.uint8]
Precision = Literal["bfloat16", "float32"]

SLAB = 8
"""Slices that go through the last layer at a time, so that float32 features stay in cache."""

_AT_WORK = threading.Lock()


def find_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    ConfigError
        If ``cuda`` is asked for, and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            "device is cuda, but torch finds no CUDA on this machine; set device: auto or cpu, or "
            "install a torch that is built for its GPU"
        )
    if name == "auto":
        name = "cuda" if available else "cpu"
    return torch.device(name)


class Predictor:
    """One head of a model, ready to predict.

    Parameters
    ----------
    description : Description
        Of the model.
    network : Module
        Of prediction; it is moved to `device`.
    head : str
        Name of the head.
    device : torch.device
        Where the network runs.
    precision : {"bfloat16", "float32"}
        Arithmetic of the convolutions; the head's own is always float32.
    """

    def __init__(
        self,
        description: Description,
        network: nn.Module,
        head: str,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.description = description
        self.head = description.head(head)
        self.device = device
        self.dtype = getattr(torch, precision)
        last = dict(cast(Module, network).heads[head].named_parameters())
        self._last = last["weight"].detach()[..., 0, 0, 0].to(device, copy=True)
        self._bias = last["bias"].detach().to(device, copy=True)
        self._network = network.to(device, self.dtype)
        self._network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self._upload = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def submit(self, raw: npt.NDArray[Any]) -> Callable[[], Tile]:
        """Begin to predict a tile.

        Parameters
        ----------
        raw : ndarray
            The core with its context, (z, y, x), of the model's dtype.

        Returns
        -------
        callable
            Waits for the result: uint8, (c, z, y, x) of the core.
        """
        # On a CPU the work is done here; the lock keeps other threads' tiles off its cores.
        with _AT_WORK, torch.inference_mode():
            if self._upload is None:
                result = self.quantised(torch.from_numpy(raw)).numpy()
                return lambda: result
            return self._submit_cuda(raw, self._upload)

    def _submit_cuda(self, raw: npt.NDArray[Any], upload: torch.cuda.Stream) -> Callable[[], Tile]:
        pinned = torch.from_numpy(raw).pin_memory()
        with torch.cuda.stream(upload):
            there = pinned.to(self.device, non_blocking=True)
        compute = torch.cuda.current_stream(self.device)
        compute.wait_stream(upload)
        there.record_stream(compute)
        values = self.quantised(there)
        here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        here.copy_(values, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(compute)

        def result() -> Tile:
            done.synchronize()
            found: Tile = here.numpy()
            return found

        return result

    def quantised(self, raw: Tensor) -> Tensor:
        """Raw (z, y, x) to uint8 (c, z, y, x), on the network's device."""
        scaling = self.description.normalisation
        # In place: new memory costs the kernel more than the arithmetic costs.
        normalised = raw.to(torch.float32, copy=True).sub_(scaling.mean).div_(scaling.std)
        x = normalised.to(self.dtype)[None, None].contiguous(memory_format=torch.channels_last_3d)
        features = cast(Module, self._network).features(x)[0]
        values = torch.empty(
            (self.head.channels, *features.shape[1:]), dtype=torch.uint8, device=self.device
        )
        for z in range(0, features.shape[1], SLAB):
            values[:, z : z + SLAB] = self.head.quantise(self._logits(features[:, z : z + SLAB]))
        return values

    def _logits(self, features: Tensor) -> Tensor:
        # Logits of 8 bits of mantissa would waste half of uint8's levels; and a matrix
        # product is ten times faster here than a 1×1×1 convolution in float32.
        channels_last = features.movedim(0, -1).float()
        return functional.linear(channels_last, self._last, self._bias).movedim(-1, 0)


@functools.lru_cache(maxsize=2)
def predictor(
    folder: Path, weights: str, head: str, device: str, precision: Precision
) -> Predictor:
    """The predictor of a model directory, loaded once per process.

    Raises
    ------
    ModelError
        If the weights are not those whose hash is `weights`.
    """
    found = weights_hash(folder)
    if found != weights:
        raise ModelError(
            f"the weights in {folder} have the hash {found[:12]}…, but the run was begun with "
            f"{weights[:12]}…. Run again if the model was replaced on purpose; otherwise install "
            "the same model wherever workers run."
        )
    return Predictor(*load_network(folder), head, find_device(device), precision)
