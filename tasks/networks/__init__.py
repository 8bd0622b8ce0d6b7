"""Networks that turn raw data into affinities or distances, and their model directories."""

import os

# OpenMP's threads spin while they wait for each other. Where something else needs a core as
# well (reading, compressing, another worker), that made a training step of 0.65 s take 3.3 s.
# It is read when torch is loaded, which only the modules of this package do.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
