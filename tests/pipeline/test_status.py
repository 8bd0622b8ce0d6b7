from io import StringIO

import pytest
import toys
from rich.console import Console

from pipeline.errors import ConfigError, RunError
from pipeline.status import read_status, render


def printed(status, **options):
    text = StringIO()
    console = Console(file=text, width=200)
    for part in render(status, **options):
        console.print(part)
    return text.getvalue()


def test_the_store_alone_tells_how_far_a_run_is(tmp_path):
    made = toys.job(str(tmp_path / "o"), retries=0)
    with pytest.raises(RunError):
        toys.run(made, toys.chain(made, {"context": {"fails": {"1.1.1": 9}}}))
    status = read_status(made.config.output)
    assert status.steps == {
        "source": (8, 8),
        "context": (7, 8),
        "up-0": (7, 8),
        "up-1": (0, 1),
        "end": (0, 8),
    }
    assert status.holder is None
    assert [record["block"] for record in status.failed] == ["1.1.1"]
    text = printed(status)
    assert "failed: context/1.1.1, attempt 1" in text
    assert "_misbehave" in text
    assert "block failed" in text
    brief = printed(status, errors=False)
    assert "_misbehave" not in brief
    assert "ValueError: no luck with 1.1.1" in brief
    toys.run(made, toys.chain(made))
    assert read_status(made.config.output).failed == []


def test_where_no_run_was_there_is_no_status(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no run at .*; give the output of a run"):
        read_status(str(tmp_path))
