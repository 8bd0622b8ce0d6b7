"""The text of a training's configuration: what was planned, each choice with its reason."""

from __future__ import annotations

import json
import math

from pipeline.geometry import Box
from tasks.train.fingerprint import Fingerprint
from tasks.train.fitting import GIB
from tasks.train.measures import MEMBRANE
from tasks.train.plan import Plan

CPU_MINUTES = 60
"""Minutes of a training without a GPU: some two thousand steps of the shipped model."""


def configuration(found: list[Fingerprint], plan: Plan, name: str) -> str:
    """The configuration as YAML with comments."""
    lines = ["# Made from a fingerprint of the data. Everything may be changed."]
    lines += [
        f"# {each.raw}: {_row(each.shape)} voxels (z y x), {each.dtype}, mean {each.mean:.1f}, "
        f"standard deviation {each.std:.1f}; {each.n_objects} objects in the middle of it, "
        f"calibre {each.calibre:.0f} nm, {each.labelled:.0%} labelled"
        for each in found
    ]
    parts = [lines, _data(found, plan, name), _network(found[0], plan), _heads(found, plan)]
    parts += [_crops(found[0], plan), _augmentations(found, plan), _course(plan)]
    return "\n".join(line for part in parts for line in part) + "\n"


def _data(found: list[Fingerprint], plan: Plan, name: str) -> list[str]:
    lines = [
        f"output: {json.dumps(f'trained/{name}')}  # the model, its checkpoint, logs, pictures"
    ]
    for key, which in (("training", 0), ("validation", 1)):
        lines.append(f"{key}:")
        if which:
            lines[-1] += "  # the last sixth of the labelled slices, never learnt from"
        for each, held in zip(found, plan.held_out, strict=True):
            raw, labels = json.dumps(each.raw), json.dumps(each.labels)
            background = ", background: [0]" if each.has_gap else ""
            where = _where(held[which], each)
            lines.append(f"  - {{raw: {raw}, labels: {labels}, {where}{background}}}")
    voxel = math.prod(found[0].voxel_size)
    return [
        *lines,
        *(_unlabelled(each) for each in found if each.labelled < 1),
        f"voxel_size: {_row(found[0].voxel_size)}  # nm, z y x",
        f"dust: {plan.dust}  # voxels, {plan.dust * voxel:.0f} nm³: smaller ones are unknown",
    ]


def _where(box: Box, each: Fingerprint) -> str:
    if box.shape[1:] == each.shape[1:]:
        return f"slices: {_row((box.offset[0], box.end[0]))}"
    return f"box: {{offset: {_row(box.offset)}, shape: {_row(box.shape)}}}"


def _unlabelled(each: Fingerprint) -> str:
    """What 0 is taken for in the labels of a volume, and why."""
    seen = f"# {each.labels}: {each.thin:.0%} of 0 is within {MEMBRANE:g} nm of an object, "
    if each.has_gap:
        return seen + "so it is taken for membrane, known to be no object: background: [0]"
    if each.touching < 0.5:
        return seen + (
            "so it is unknown; but few objects touch, and nothing says where they end: annotate "
            "membranes, or set background: [0] where 0 is membrane alone"
        )
    return seen + "and objects touch: 0 is unknown"


def _network(first: Fingerprint, plan: Plan) -> list[str]:
    network = plan.network
    flat = sum(1 in level.factor for level in network.levels)
    reason = (
        f"# voxels are {first.anisotropy:.3g} times longer on one axis: {flat} levels leave it out "
        "of kernels and strides, until voxels are isotropic"
        if flat
        else f"# voxels are isotropic (within {first.anisotropy:.3g}): all kernels are 3-D"
    )
    lines = [reason, "network:", "  kind: unet", "  levels:"]
    lines += [
        f"    - {{channels: {level.channels}, factor: {_row(level.factor)}, "
        f"down: {_rows(level.down)}, up: {_rows(level.up)}}}"
        for level in network.levels
    ]
    context = [round(c * s) for c, s in zip(network.context, first.voxel_size, strict=True)]
    bottom = network.bottom
    return [
        *lines,
        f"  bottom: {{channels: {bottom.channels}, kernels: {_rows(bottom.kernels)}}}",
        f"  # a voxel sees {_row(tuple(context))} nm to each side",
    ]


def _heads(found: list[Fingerprint], plan: Plan) -> list[str]:
    touching = ", ".join(f"{each.touching:.0%}" for each in found)
    nearest = "[[-1, 0, 0], [0, -1, 0], [0, 0, -1]]"
    lines = ["heads:", f"  affinities: {{kind: affinities, offsets: {nearest}}}"]
    losses = ["losses:", "  affinities: [{kind: bce}]"]
    if plan.erode:
        lines += [
            f"  # {touching} of the objects' faces are to other objects: labels leave no gap at",
            "  # membranes, so one is taught besides",
            f"  eroded_affinities: {{kind: affinities, erode: true, offsets: {nearest}}}",
        ]
        losses.append("  eroded_affinities: [{kind: bce}]")
    else:
        lines.append(
            f"  # {touching} of the objects' faces are to other objects: labels have a gap"
        )
    if plan.far:
        near, far = plan.far_nm
        lines += [
            f"  # {near:g} and {far:g} nm: up to a fifth of the objects' calibre (60 to 300 nm)",
            f"  long_range_affinities: {{kind: affinities, offsets: {_rows(plan.far)}}}",
        ]
        losses.append("  long_range_affinities: [{kind: bce, weight: 0.5}]")
    lines += [
        "  # nm: about a twelfth of the calibre, at least two voxels",
        f"  distances: {{kind: distances, scale: {plan.scale:g}}}",
    ]
    return [*lines, *losses, "  distances: [{kind: mse, weight: 2}]"]


def _crops(first: Fingerprint, plan: Plan) -> list[str]:
    nm = [round(c * s) for c, s in zip(plan.crop, first.voxel_size, strict=True)]
    return [
        f"crop: {_row(plan.crop)}  # voxels: {_row(tuple(nm))} nm; a step needs about "
        f"{plan.training_bytes / GIB:.1f} GiB",
        f"batch: {plan.batch}  # crops a step",
    ]


def _augmentations(found: list[Fingerprint], plan: Plan) -> list[str]:
    drift = max(each.drift for each in found)
    lines = [
        "augmentations:",
        "  - {kind: flip}",
        "  - {kind: transpose}  # of axes of equal voxel size",
        "  - {kind: elastic, probability: 0.5}",
        "  - {kind: contrast}",
        f"  - {{kind: brightness, strength: {plan.brightness:g}}}  # the means of sections vary by "
        f"{drift:.2g} standard deviations",
        "  - {kind: gamma}",
        "  - {kind: noise}",
        "  - {kind: blur}",
    ]
    if not plan.serial:
        return [*lines, f"  # no defects of serial sections: anisotropy {found[0].anisotropy:.3g}"]
    return [
        *lines,
        f"  # anisotropy {found[0].anisotropy:.3g}: serial sections, with their defects",
        *(
            f"  - {{kind: {kind}}}"
            for kind in (
                "missing-section",
                "duplicated-section",
                "low-contrast-section",
                "out-of-focus-section",
                "shifted-section",
            )
        ),
    ]


def _course(plan: Plan) -> list[str]:
    gpu = plan.workers > 0
    return [
        "optimiser: {learning_rate: 0.002, warmup: 100, ema: 0.998}",
        f"steps: {50000 if gpu else 20000}",
        "minutes: null" if gpu else f"minutes: {CPU_MINUTES}  # no GPU: the clock ends it earlier",
        "precision: bfloat16",
        f"workers: {plan.workers}  # processes that make crops",
        "validate:",
        f"  minutes: {10 if gpu else 5}",
        f"  absorb_sizes: {_row(tuple(plan.absorb_sizes))}  # voxels; about 600,000 nm³",
        "seed: 0",
    ]


def _row(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:.15g}" for value in values) + "]"


def _rows(values: list[tuple[int, int, int]]) -> str:
    return "[" + ", ".join(_row(value) for value in values) + "]"
