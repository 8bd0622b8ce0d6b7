from io import StringIO

import pytest
import toys
from rich.console import Console

from pipeline.config import Cluster
from pipeline.errors import ConfigError
from pipeline.plan import check_memory, render


def test_the_plan_names_blocks_levels_tiles_bytes_and_memory(tmp_path):
    made = toys.job(str(tmp_path), shape=(16, 8, 8), cluster={"memory_gib": 2.0})
    steps = [
        toys.step(made, "source", tile=[2, 4, 4], bytes_read=5 << 20, bytes_written=1536),
        toys.step(made, "other", peak_bytes=3 << 29, resource="GPU"),
    ]
    text = StringIO()
    Console(file=text, width=120).print(render(made, steps))
    lines = [line.split() for line in text.getvalue().splitlines()]
    assert "16 blocks (4x2x2) of 4 4 4, 3 octree levels" in text.getvalue()
    assert ["source", "16", "32", "5.0", "MiB", "1.5", "KiB", "0", "B", "CPU"] in lines
    assert ["other", "16", "0", "B", "0", "B", "1.5", "GiB", "GPU"] in lines
    assert "2 workers of 2.0 GiB each" in text.getvalue()


def test_what_does_not_fit_is_refused_with_the_remedy(tmp_path):
    made = toys.job(str(tmp_path))
    fits = toys.step(made, "small", peak_bytes=1 << 30)
    large = toys.step(made, "large", peak_bytes=(1 << 30) + (1 << 27))
    cluster = Cluster(memory_gib=1.0)
    check_memory([fits], cluster)
    with pytest.raises(
        ConfigError,
        match=r"step 'large' needs 1.1 GiB, and a worker has 1.0 GiB. Choose",
    ):
        check_memory([fits, large], cluster)
