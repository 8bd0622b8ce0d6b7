"""Compiled kernels of the exact core: integers only, one thread each, GIL released."""
