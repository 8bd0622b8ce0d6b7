"""How much labels depend on the blocks: the exact decoder and waterz, cut in two ways.

Segments the same affinities in small blocks and in one block with each decoder,
and compares the two results. Prints JSON: voxels that differ and the variation
of information between the two; with --picture, draws where waterz' differ.

    python benchmarks/seams.py [out/demo/affinities/s0] [--picture docs/seams.png]
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path

from rich.console import Console

from pipeline.config import Config, Waterz
from pipeline.geometry import Box, Grid, Triple
from pipeline.run import run
from pipeline.volumes import open_volume
from tasks.evaluate import score
from tasks.evaluate.blockwise import Pair, count_either, gather, pair_up
from tasks.evaluate.difference import Matching
from tasks.evaluate.seams import draw_seams

SMALL: Triple = (50, 84, 84)


def labels(affinities: str, output: str, decoder: str, block: Triple) -> str:
    """Segment and return where the labels are."""
    waterz = Waterz(threshold=0.55)
    config = Config(
        affinities=affinities, output=output, decoder=decoder, block=block, waterz=waterz, pyramid=0
    )
    run(config, console=Console(file=io.StringIO()))
    return f"{output}/labels/s0"


def compare(pair: Pair) -> tuple[dict[str, float], Matching]:
    """Differing voxels and VOI of two label volumes."""
    table = gather(count_either(pair, block.box) for block in Grid(pair.roi, (256, 256, 256)))
    matching, scores = Matching.of(table), score(table)
    differing = int(table.count[matching.differs(table.truth, table.label)].sum())
    return {"differing_voxels": differing, "voi": scores.voi, "voxels": pair.roi.n_voxels}, matching


def main() -> None:
    """Run both decoders in both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("affinities", nargs="?", default="out/demo/affinities/s0")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    whole = Box((0, 0, 0), open_volume(arguments.affinities).shape)
    result: dict[str, object] = {"small_block": SMALL, "large_block": whole.shape}
    with tempfile.TemporaryDirectory() as folder:
        for decoder in ("exact", "waterz"):
            small = labels(arguments.affinities, f"{folder}/{decoder}-small", decoder, SMALL)
            large = labels(arguments.affinities, f"{folder}/{decoder}-large", decoder, whole.shape)
            pair = pair_up(large, small)
            result[decoder], matching = compare(pair)
        if arguments.picture:
            title = "waterz on the same affinities: A in one block, B in small blocks with context"
            arguments.picture.write_bytes(draw_seams(pair, matching, title))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
