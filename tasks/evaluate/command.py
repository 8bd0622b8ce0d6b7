"""The commands `raphe evaluate` and `raphe compare`."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import click

from pipeline.arrays import create_array
from pipeline.geometry import Box, Grid, Triple, triple
from pipeline.store import open_store
from pipeline.volumes import open_volume
from tasks.evaluate import blockwise
from tasks.evaluate.difference import Matching
from tasks.evaluate.scores import Scores, score
from tasks.evaluate.seams import draw_seams
from tasks.evaluate.workers import over_boxes


class _Voxel(click.ParamType[Triple]):
    name = "Z,Y,X"

    def convert(self, value: Any, param: Any, ctx: Any) -> Triple:
        try:
            return triple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not three integers such as 0,128,128", param, ctx)


class _Shape(_Voxel):
    def convert(self, value: Any, param: Any, ctx: Any) -> Triple:
        shape = super().convert(value, param, ctx)
        if min(shape) < 1:
            self.fail(f"{value!r} must have at least one voxel on each axis", param, ctx)
        return shape


class _Region(click.ParamType[Box]):
    name = "Z0:Z1,Y0:Y1,X0:X1"

    def convert(self, value: Any, param: Any, ctx: Any) -> Box:
        try:
            begin, end = zip(*(part.split(":") for part in value.split(",")), strict=True)
            return Box.between(triple(map(int, begin)), triple(map(int, end)))
        except ValueError:
            self.fail(f"{value!r} is no region such as 0:100,0:250,0:250", param, ctx)


_REGION = click.option(
    "--roi", type=_Region(), help="Compare only this region, in voxels of the first volume."
)
_OFFSET = click.option(
    "--offset",
    type=_Voxel(),
    help="Voxel of the first volume on which the first voxel of the second one lies.",
)
_BLOCK = click.option(
    "--block", type=_Shape(), default="256,256,256", show_default=True, help="Voxels at a time."
)
_WORKERS = click.option(
    "--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command(
    short_help="Score labels against a truth.",
    epilog="Example: raphe evaluate out/labels/s0 truth.h5:/labels --roi 70:100,0:250,0:250",
)
@click.argument("labels")
@click.argument("truth")
@click.option("--mask", help="Volume of the labels' shape; voxels where it is 0 do not count.")
@_REGION
@_OFFSET
@_BLOCK
@_WORKERS
@_JSON
def evaluate(
    labels: str,
    truth: str,
    mask: str | None,
    roi: Box | None,
    offset: Triple | None,
    block: Triple,
    workers: int,
    as_json: bool,
) -> None:
    """Score LABELS against TRUTH; voxels where the truth is 0 do not count.

    LABELS and TRUTH are paths or URLs. Prints variation of information (bits,
    split and merge), adapted Rand error and CREMI score. All of them come from
    one table of exact counts, so they do not depend on blocks or workers.
    """
    pair = blockwise.pair_up(labels, truth, mask=mask, roi=roi, offset=offset)
    count = functools.partial(blockwise.count_truth, pair)
    scores = score(blockwise.gather(over_boxes(count, _boxes(pair, block), workers)))
    click.echo(json.dumps(scores.as_dict()) if as_json else describe(scores, "labels", "truth"))


@click.command(
    short_help="Compare two segmentations, and map where they differ.",
    epilog="Example: raphe compare exact/labels/s0 waterz/labels/s0 --png seams.png",
)
@click.argument("a")
@click.argument("b")
@click.option("--map", "map_url", help="Write a uint8 volume (OME-Zarr): 1 where they differ.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Draw the middle.")
@_REGION
@_OFFSET
@_BLOCK
@_WORKERS
@_JSON
def compare(
    a: str,
    b: str,
    map_url: str | None,
    png: Path | None,
    roi: Box | None,
    offset: Triple | None,
    block: Triple,
    workers: int,
    as_json: bool,
) -> None:
    """Compare the segmentations A and B, whatever their ids; zeros of both do not count.

    A and B are paths or URLs. Split is what B splits of A's segments, merge what
    it merges of them. A voxel differs unless its segments in A and B are each
    other's main partner.
    """
    pair = blockwise.pair_up(a, b, roi=roi, offset=offset)
    boxes = _boxes(pair, block)
    count = functools.partial(blockwise.count_either, pair)
    table = blockwise.gather(over_boxes(count, boxes, workers))
    scores, matching = score(table), Matching.of(table)
    differing = int(table.count[matching.differs(table.truth, table.label)].sum())
    if map_url is not None:
        _create_map(map_url, pair, block)
        write = functools.partial(blockwise.write_difference, pair, matching, f"{map_url}/s0")
        sum(over_boxes(write, boxes, workers))
    if png is not None:
        title = f"A: {a}\nB: {b}\nVOI {scores.voi:.4g} bits, {differing} voxels differ"
        png.write_bytes(draw_seams(pair, matching, title))
    if as_json:
        click.echo(json.dumps({**scores.as_dict(), "n_differing": differing}))
    else:
        click.echo(describe(scores, "B", "A"))
        click.echo(f"{'differing voxels':<20}{differing}")


def describe(scores: Scores, labels: str, truth: str) -> str:
    """Scores as lines for people; `labels` and `truth` name the two volumes."""
    rows = [
        ("VOI split", f"{scores.voi_split:.4f} bits"),
        ("VOI merge", f"{scores.voi_merge:.4f} bits"),
        ("adapted Rand error", f"{scores.adapted_rand_error:.4f}"),
        ("CREMI score", f"{scores.cremi_score:.4f}"),
        (f"segments in {labels}", f"{scores.n_labels}"),
        (f"segments in {truth}", f"{scores.n_truth}"),
        ("voxels compared", f"{scores.n_voxels}"),
    ]
    return "\n".join(f"{name:<20}{value}" for name, value in rows)


def _boxes(pair: blockwise.Pair, block: Triple) -> list[Box]:
    return [part.box for part in Grid(pair.roi, block)]


def _create_map(url: str, pair: blockwise.Pair, block: Triple) -> None:
    """An array of zeros, also if there is a map of an earlier comparison."""
    labels = open_volume(pair.labels)
    create_array(
        f"{url}/s0",
        shape=labels.shape,
        dtype="uint8",
        block=block,
        voxel_size=labels.voxel_size or (1.0, 1.0, 1.0),
        translation=labels.translation,
        kind="image",
    )
    open_store(f"{url}/s0").delete_prefix("c/")
