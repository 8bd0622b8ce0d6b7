"""Steps of the way from raw data to labels, with the kernels beside them."""

import os

# OpenMP's threads spin while they wait for each other. Where something else needs a core as
# well (reading, compressing, another worker), that made a training step of 0.65 s take 3.3 s.
# The variable is read once, when the first library that uses OpenMP is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Activations come and go by the gigabyte: in pages of 4 KiB, the kernel spent a third of the
# time of prediction on handing them out. torch asks for large pages if this is set.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
