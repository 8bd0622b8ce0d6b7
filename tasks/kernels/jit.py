"""How kernels are compiled: cached on disk, one thread, without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile a function at its first call."""
    compiled: F = njit(cache=True, nogil=True)(function)
    return compiled


def inlined(function: F) -> F:
    """Compile a function into each kernel that calls it."""
    compiled: F = njit(cache=True, nogil=True, inline="always")(function)
    return compiled
