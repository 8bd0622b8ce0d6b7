"""Steps that do next to nothing, importable by workers: numbers in one object a block."""

import json
import time

from pipeline.geometry import Block
from pipeline.steps import Params
from pipeline.store import open_store


def name(step: str, block: Block) -> str:
    return f"toys/{step}/{block.name}"


def nothing(params: Params, block: Block) -> None:
    """Do nothing."""


def source(params: Params, block: Block) -> dict[str, int]:
    """Write a number that depends on the block and on a parameter."""
    time.sleep(params.get("sleep", 0))
    value = params["value"] + block.box.n_voxels
    open_store(params["output"]).write(name(params["step"], block), json.dumps(value).encode())
    return {"blocks": 1}
