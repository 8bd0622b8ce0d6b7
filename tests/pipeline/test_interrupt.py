import os
import signal
import threading
from io import StringIO

import pytest
from rich.console import Console

from pipeline.interrupt import interruptible


@pytest.fixture
def not_ignored():
    """A shell that starts tests in the background has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("not_ignored")
def test_the_first_signal_asks_and_the_second_one_acts():
    before = signal.getsignal(signal.SIGINT)
    text = StringIO()
    with interruptible(Console(file=text)) as stopping:
        assert not stopping()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping()
        assert "stopping: waiting a little" in text.getvalue()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_asks_as_well_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with interruptible(Console(file=StringIO())) as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping()
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_run_without_signals():
    found = []

    def run():
        with interruptible(Console(file=StringIO())) as stopping:
            found.append(stopping())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
