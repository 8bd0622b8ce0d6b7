"""waterz on one array in memory: its precompiled scorings by name, and quietly.

Traps of waterz 0.10 that are met here: it prints to standard output from C++,
it takes a threshold on 1 - affinity, it compiles whatever scoring it does not
ship, and it holds the GIL, so that only processes run it side by side.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import waterz

from pipeline.errors import ConfigError

_GRAPH = "RegionGraphType"
_SIZES = f"MaxSize<{_GRAPH}>", f"MinSize<{_GRAPH}>"
_FIXED = {
    "mean": f"OneMinus<MeanAffinity<{_GRAPH},ScoreValue>>",
    "size-difference": f"Divide<Subtract<{','.join(_SIZES)}>,Add<{','.join(_SIZES)}>>",
}


def scoring_function(name: str) -> str:
    """The C++ type of a precompiled scoring of waterz.

    Raises
    ------
    ConfigError
        If waterz does not ship it.

    Examples
    --------
    >>> scoring_function("quantile-75-max")
    'OneMinus<HistogramQuantileAffinity<RegionGraphType,75,ScoreValue,256,true>>'
    """
    if name in _FIXED:
        return _FIXED[name]
    match = re.fullmatch(r"quantile-(\d\d)(-max)?", name)
    if match is None or int(match[1]) not in range(10, 96, 5):
        raise ConfigError(
            f"waterz.scoring is {name!r}; choose mean, quantile-NN or quantile-NN-max with NN "
            "one of 10, 15, 20, … 95, or size-difference"
        )
    start = "true" if match[2] else "false"
    return f"OneMinus<HistogramQuantileAffinity<{_GRAPH},{match[1]},ScoreValue,256,{start}>>"


def agglomerate(
    affinities: npt.NDArray[np.uint8], options: Mapping[str, Any]
) -> npt.NDArray[np.uint64]:
    """Watershed and agglomeration of one array by waterz, in memory.

    Parameters
    ----------
    affinities : ndarray of uint8, shape (3, z, y, x)
    options : mapping
        Fields of `pipeline.config.Waterz`.

    Returns
    -------
    ndarray of uint64, shape (z, y, x)
        Segments; 0 where no affinity reaches ``low``.
    """
    with _silent_stdout():
        (segments,) = waterz.agglomerate(
            affinities.astype(np.float32) / np.float32(255),
            [1.0 - options["threshold"]],
            aff_threshold_low=options["low"],
            aff_threshold_high=options["high"],
            scoring_function=scoring_function(options["scoring"]),
            discretize_queue=options["queue"],
        )
    found: npt.NDArray[np.uint64] = segments
    return found


_ONE_AT_A_TIME = threading.Lock()
"""Standard output belongs to the process. waterz holds the GIL, so nothing is lost."""


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Discard what waterz prints, from Python and, below it, from C++."""
    with _ONE_AT_A_TIME:
        sys.stdout.flush()
        kept = os.dup(1)
        try:
            with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
                os.dup2(null.fileno(), 1)
                yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
