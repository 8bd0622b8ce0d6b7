"""The configuration of a run, and nothing that computes.

Field descriptions are the reference: ``docs/configuration.md`` is generated
from them. Thresholds on affinities are fractions of 1; `level` turns them into
the integers that everything is compared with.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError
from pipeline.geometry import Triple
from pipeline.store import open_store

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Voxels = Annotated[int, Field(ge=0, le=10**15)]

SCALE = 256
"""Thresholds are integers in units of 1 / (255 * SCALE)."""


def level(fraction: float) -> int:
    """A threshold as an integer: compare ``affinity * SCALE >= level``.

    Examples
    --------
    >>> level(1.0) == 255 * SCALE, level(128 / 255) == 128 * SCALE
    (True, True)
    """
    return round(fraction * 255 * SCALE)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Roi(_Model):
    """A box of voxels."""

    offset: Triple = Field(description="First voxel, z y x.")
    shape: tuple[Positive, Positive, Positive] = Field(description="Extent in voxels, z y x.")


class Supervoxel(_Model):
    """Phase 1: size-dependent single linkage, which makes agglomeration cheap."""

    affinity: Fraction = Field(
        0.02,
        description="Fragments merge along faces of at least this affinity. As low as `low`, "
        "specks in a membrane join a side before its faces are scored, so that all of it counts.",
    )
    size: Annotated[int, Field(gt=0, le=10**15)] = Field(
        50, description="Two fragments that both have this many voxels are never merged here."
    )


class Segment(_Model):
    """From affinities to segments, exactly and by blocks."""

    low: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.02, description="Affinities below this are no connection; a voxel without one is 0."
    )
    high: Fraction | None = Field(
        None, description="If set, all faces of at least this affinity join fragments at once."
    )
    supervoxel: Supervoxel | None = Field(
        Supervoxel(), description="Phase 1; null switches it off."
    )
    linkage: Annotated[str, Field(pattern=r"^(mean|quantile-([1-9][0-9]?))$")] = Field(
        "mean",
        description="Score of two neighbours in phase 2: the mean affinity of their common "
        "faces, or a percentile of it (quantile-50 is the median; quantile-75 the level "
        "that a quarter of the faces exceed).",
    )
    threshold: Fraction | None = Field(
        0.55, description="Phase 2 merges while the score is at least this; null switches it off."
    )
    absorb_size: Voxels = Field(
        600,
        description="Phase 3: segments with fewer voxels join the neighbour behind their "
        "strongest face; 0 switches it off.",
    )
    min_size: Voxels = Field(
        0, description="Segments with fewer voxels than this in the end become 0."
    )

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if level(self.low) < 1:
            raise ValueError(
                f"low: {self.low} is less than the smallest level, {1 / (255 * SCALE):.1e}; "
                "raise it (0.02 is usual)"
            )
        return self


class Waterz(_Model):
    """The classic way (``decoder: waterz``): agglomeration in a block, joined by overlap."""

    scoring: str = Field(
        "mean",
        description="mean; quantile-NN, or quantile-NN-max (initialised by the maximum), with NN "
        "one of 10, 15, 20, ... 95; or size-difference, a control that ignores affinities.",
    )
    queue: Literal[0, 256] = Field(
        0, description="Bins of waterz' priority queue; 0 is exact, 256 is quicker."
    )
    low: Fraction = Field(0.0001, description="waterz' aff_threshold_low.")
    high: Fraction = Field(0.9999, description="waterz' aff_threshold_high.")
    threshold: Fraction = Field(
        0.5, description="Merge while the affinity score is at least this (waterz' 1 - threshold)."
    )
    context: Annotated[int, Field(ge=1)] = Field(
        16, description="Voxels around a block that are segmented with it."
    )
    overlap: Fraction = Field(
        0.5,
        description="Segments of two blocks join if each has at least this share of its voxels, "
        "of those that both blocks have seen, in common with the other.",
    )


class Predict(_Model):
    """How the network is applied; none of it changes what a voxel's prediction means."""

    tile: Triple | None = Field(
        None, description="Core of an inference tile in voxels; null chooses one from the model."
    )
    output: Literal["affinities", "distances", "boundary"] = Field(
        "affinities",
        description="Which head of the model is written, as output/<head>/s0, and segmented. Of "
        "distances and boundary, an edge's affinity is the smaller value of its two voxels.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto takes CUDA where there is one."
    )
    precision: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Arithmetic of the network."
    )
    tta: Literal["none", "flips", "all"] = Field(
        "none",
        description="Test-time augmentation: the mean over the 8 flips, or all flips and "
        "transpositions that the voxel size allows (16 where z differs, 48 where none does), "
        "at as many times the cost.",
    )
    ensemble: Literal["mean", "median", "max"] = Field(
        "mean", description="How the predictions of several models are combined, per voxel."
    )
    blend: tuple[int, int, int] | None = Field(
        None,
        description="Voxels z y x by which tiles overlap their neighbours, blended with weights "
        "that fall towards a tile's border; networks that pad then need no context. null cuts "
        "off what a tile's border may have touched, which is exact.",
    )
    compile: bool = Field(
        False, description="Whether torch compiles the network first; pays on long runs on GPUs."
    )


class Cluster(_Model):
    """Where blocks are run."""

    kind: Literal["local"] = Field("local", description="A Dask cluster on this machine.")
    workers: Positive = Field(2, description="Number of workers.")
    processes: bool = Field(True, description="One process per worker; false uses threads.")
    memory_gib: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="Memory of one worker; null shares what the machine has."
    )


class Config(_Model):
    """Everything that says what a run does."""

    raw: str | None = Field(None, description="Raw volume: a path or URL. Or give `affinities`.")
    affinities: str | None = Field(
        None, description="Affinities to start from, in place of `raw`: uint8, or float32 in 0…1."
    )
    offsets: list[Triple] | None = Field(
        None,
        description="Offsets of the channels of `affinities`, where its metadata has none; "
        "one of them must be [-1, 0, 0] or [1, 0, 0], and likewise for y and x.",
    )
    output: str = Field(
        min_length=1, description="Path or URL of the result; output/labels/s0 is the finest."
    )
    voxel_size: tuple[float, float, float] | None = Field(
        None, description="nm, z y x; only where the input carries none."
    )
    axes: str | None = Field(
        None, description="Order of the input's axes, such as zyx or czyx, where it carries none."
    )
    roi: Roi | None = Field(None, description="What to process; everything if null.")
    mask: str | None = Field(None, description="Volume that is 0 where nothing is processed.")
    model: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="A shipped model's name, or a model directory; needed with `raw`. Several "
        "are an ensemble.",
    )
    predict: Predict = Field(Predict(), description="How the network is applied.")
    block: tuple[Positive, Positive, Positive] = Field(
        (256, 256, 256), description="Voxels that a worker takes at a time. Never changes labels."
    )
    decoder: str = Field(
        "exact",
        description="exact (seam-free), waterz (classic), none (predict only), or a plug-in's.",
    )
    segment: Segment = Field(Segment(), description="Parameters of the exact decoder.")
    waterz: Waterz = Field(Waterz(), description="Parameters of the waterz decoder.")
    relabel: Literal["packed", "consecutive"] = Field(
        "packed",
        description="Ids as packed coordinates, or 1…n in the same order: label n is then the "
        "n-th row of the segment table, whose ids stay packed.",
    )
    pyramid: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Coarser levels of the labels; null makes them until they are small."
    )
    retries: Annotated[int, Field(ge=0)] = Field(
        2, description="How often a block that raised is tried again."
    )
    cluster: Cluster = Field(Cluster(), description="Where blocks are run.")

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.raw is None) == (self.affinities is None):
            raise ValueError("give either raw (with a model) or affinities, not both or neither")
        if self.raw is not None and self.model is None:
            raise ValueError(
                "raw needs a model to predict affinities from it; set model to a shipped "
                "model's name (fib25-affinities) or to a model directory"
            )
        return self


M = TypeVar("M", bound=BaseModel)


def parse(text: str, source: str) -> Config:
    """The configuration of a run from YAML; see `parse_as`."""
    return parse_as(Config, text, source)


def parse_as(model: type[M], text: str, source: str) -> M:
    """What a pydantic model describes, from YAML; `source` names it in error messages.

    Raises
    ------
    ConfigError
        With one line for every field that is wrong.
    """
    try:
        data: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{source} holds no configuration (a mapping of fields is expected)")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}:\n" + "\n".join(_lines(error))) from error


def _lines(error: ValidationError) -> list[str]:
    return [
        f"  {'.'.join(map(str, item['loc']))}: {item['msg']} (given: {item['input']!r})"
        if item["loc"]
        else f"  {item['msg']}"
        for item in error.errors()
    ]


def load(path: str) -> Config:
    """Read a configuration from a YAML file or URL."""
    folder, _, name = path.rpartition("/")
    data = open_store(folder or ".").read(name)
    if data is None:
        raise ConfigError(f"there is no configuration at {path!r}; `raphe init RAW` writes one")
    return parse(data.decode(), path)
