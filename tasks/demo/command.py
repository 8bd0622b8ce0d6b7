"""The command `raphe demo`: from shipped raw data to scored labels and a picture."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from pipeline.config import Config, load
from pipeline.geometry import Box, Grid
from pipeline.run import RunSummary, run
from pipeline.store import open_store
from pipeline.volumes import open_volume
from tasks.evaluate import Scores, score
from tasks.evaluate.blockwise import count_truth, gather, pair_up
from tasks.overview import Overview, draw
from tasks.segments import count_segments

FOLDER = Path(__file__).parent
TRUTH = str(FOLDER / "data/fib25.zarr/truth/s0")

HELD_OUT = Box((70, 0, 0), (30, 250, 250))
"""Slices 140 to 170 of the volume that the crop is from; the network saw 0 to 130."""


@click.command(
    short_help="Segment the real EM that ships with Raphe, and score it.",
    epilog="Example: raphe demo --output out/demo",
)
@click.option("--output", default="out/demo", show_default=True, help="Path or URL of the result.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
def demo(output: str, workers: int) -> None:
    """Segment the real EM that ships with Raphe, score the labels and draw them.

    Predicts affinities with the shipped network, segments them exactly in 18
    blocks, and compares with the shipped truth. Running it again continues, or
    finds everything done.
    """
    console = Console()
    config = demo_config(output, workers)
    summary = run(config, console=console)
    labels = f"{config.output}/labels/s0"
    whole, held_out = score_against_truth(labels), score_against_truth(labels, HELD_OUT)
    picture = draw_overview(config, whole)
    open_store(config.output).write("overview.png", picture)
    console.print(report(config, summary, whole, held_out), markup=False, highlight=False)


def demo_config(output: str, workers: int) -> Config:
    """The configuration that ships with Raphe, for this output."""
    config = load(str(FOLDER / "demo.yaml"))
    cluster = config.cluster.model_copy(update={"workers": workers})
    raw = str(FOLDER / str(config.raw))
    return config.model_copy(update={"raw": raw, "output": output.rstrip("/"), "cluster": cluster})


def score_against_truth(labels: str, region: Box | None = None) -> Scores:
    """Scores of the demo's labels, in a region of it or in all of it."""
    pair = pair_up(labels, TRUTH, roi=region)
    return score(gather(count_truth(pair, block.box) for block in Grid(pair.roi, (64, 256, 256))))


def draw_overview(config: Config, scores: Scores) -> bytes:
    """The overview of a finished run as PNG."""
    raw = open_volume(str(config.raw))
    whole = Box((0, 0, 0), raw.shape)
    overview = Overview(
        raw=raw.read(whole),
        affinities=open_volume(f"{config.output}/affinities/s0").read(whole)[:3],
        labels=open_volume(f"{config.output}/labels/s0").read(whole),
        truth=open_volume(TRUTH).read(whole),
        block=config.block,
        voxel_size=raw.voxel_size or (1.0, 1.0, 1.0),
    )
    title = (
        f"FIB-25, {' × '.join(map(str, raw.shape))} voxels in {len(Grid(whole, config.block))} "
        f"blocks (ticks): VOI split {scores.voi_split:.2f}, merge {scores.voi_merge:.2f} bits"
    )
    return draw(overview, title)


def report(config: Config, summary: RunSummary, whole: Scores, held_out: Scores) -> str:
    """What the demo says at its end."""
    lines = ["", f"{'step':<14}{'blocks':>8}{'seconds':>14}"]
    lines += [
        f"{step.name:<14}{step.total:>8}{f'{step.seconds:.1f}' if step.done else 'done before':>14}"
        for step in summary.steps
    ]
    lines += ["", f"{'scores':<22}{'whole crop':>12}{'held-out slices':>18}"]
    rows = (
        ("VOI split (bits)", whole.voi_split, held_out.voi_split),
        ("VOI merge (bits)", whole.voi_merge, held_out.voi_merge),
        ("adapted Rand error", whole.adapted_rand_error, held_out.adapted_rand_error),
    )
    lines += [f"{name:<22}{of_all:>12.3f}{of_some:>18.3f}" for name, of_all, of_some in rows]
    lines += [
        "",
        f"segments  {count_segments(config.output)}",
        f"labels    {config.output}/labels/s0",
        f"picture   {config.output}/overview.png",
    ]
    return "\n".join(lines)
