"""One run: from a configuration to everything that it asks for.

What is wrong with the configuration, the input or the memory is found before
anything is written or run. Running the same configuration again continues;
a changed one redoes what depends on the change, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from pipeline.blocks import Blocks, check_order
from pipeline.clusters import check_output, open_cluster
from pipeline.config import Config
from pipeline.done import Review, finish, review, settle
from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.faults import Faults, failures
from pipeline.fingerprint import Keys
from pipeline.geometry import Box
from pipeline.interrupt import interruptible
from pipeline.job import NO_DECODER, make_job, make_steps
from pipeline.lock import locked
from pipeline.plan import check_memory
from pipeline.progress import Progress, StepProgress
from pipeline.provenance import check_continuable, check_place, write_provenance
from pipeline.schedule import Schedule
from pipeline.steps import Job, Step
from pipeline.store import Store, open_store


@dataclass(frozen=True)
class RunSummary:
    """What a run did, step by step in their order; `made` is the array that it was for."""

    output: str
    made: str
    steps: tuple[StepProgress, ...]

    @property
    def blocks(self) -> int:
        """Blocks that were run."""
        return sum(step.done for step in self.steps)


def run(config: Config, *, console: Console | None = None) -> RunSummary:
    """Run everything that a configuration asks for, or continue with it.

    Parameters
    ----------
    config : Config
        What to do.
    console : rich.console.Console, optional
        Where progress is shown; standard error if None.

    Raises
    ------
    ConfigError, VolumeError, ModelError
        If it cannot be done as it is asked for; nothing has been run then.
    RunError
        If blocks failed for good; everything that does not depend on them is done.
    KeyboardInterrupt
        If it was interrupted; the same call continues.
    """
    job = make_job(config)
    return execute(job, make_steps(job), console=console)


def execute(job: Job, steps: Sequence[Step], *, console: Console | None = None) -> RunSummary:
    """Run steps on a cluster; see `run`.

    Parameters
    ----------
    job : Job
        The input, the output and the configuration.
    steps : sequence of Step
        Every step after those that it needs.
    console : rich.console.Console, optional
        Where progress is shown; standard error if None.
    """
    console = console or Console(stderr=True)
    check_order(steps)
    check_memory(steps, job.config.cluster)
    check_output(job.config.cluster, job.config.output)
    store = open_store(job.config.output)
    check_place(store, job.config.output)
    keys = Keys(steps, Box((0, 0, 0), job.shape), job.identity)
    with locked(store):
        check_continuable(store, job)
        reviews = review(store, steps, keys)
        _announce(reviews, console)
        if others := settle(store, reviews):
            console.print(
                f"removed, since this run has no such steps: {', '.join(others)}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        write_provenance(store, job, steps)
        return _execute(job, steps, keys, reviews, store, console)


def _execute(
    job: Job,
    steps: Sequence[Step],
    keys: Keys,
    reviews: dict[str, Review],
    store: Store,
    console: Console,
) -> RunSummary:
    events = Events(store)
    progress = Progress(steps, {name: each.done for name, each in reviews.items()}, console)
    made = job.config.predict.output if job.config.decoder == NO_DECODER else "labels"
    summary = RunSummary(job.config.output, made, tuple(progress.steps.values()))
    if all(each.done == each.total for each in reviews.values()):
        return summary
    faults = Faults(store, events)
    events.write("run starts", blocks=sum(each.total - each.done for each in reviews.values()))
    with (
        Blocks(steps, {name: each.mask for name, each in reviews.items()}) as blocks,
        interruptible(console) as stopping,
        open_cluster(job.config.cluster, steps) as workers,
        progress.shown(),
    ):
        schedule = Schedule(
            job.config.output,
            steps,
            blocks,
            keys,
            workers,
            retries=job.config.retries,
            progress=progress,
            faults=faults,
            stopping=stopping,
        )
        try:
            schedule.run()
        finally:
            _close(store, steps, progress, events)
        orphans = blocks.orphans()
    if faults.failed:
        raise RunError(failures(faults, orphans))
    return summary


def _close(store: Store, steps: Sequence[Step], progress: Progress, events: Events) -> None:
    for step in steps:
        state = progress.steps[step.name]
        if state.skipped + state.done == state.total:
            finish(store, step)
    events.write(
        "run ends",
        left=sum(state.left for state in progress.steps.values()),
        steps={
            name: {"done": state.done, "failed": state.failed, "seconds": round(state.seconds, 3)}
            for name, state in progress.steps.items()
        },
    )
    events.flush()


def _announce(reviews: dict[str, Review], console: Console) -> None:
    """Say which steps are redone and why, and which go on where they were."""
    for name, each in reviews.items():
        if each.reasons:
            text = f"{name}: {len(each.stale)} blocks are redone: {'; '.join(each.reasons)}"
        elif 0 < each.done < each.total:
            text = f"{name}: continues, {each.done} of {each.total} blocks are done"
        else:
            continue
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if all(each.done == each.total for each in reviews.values()):
        console.print("everything is done already", markup=False, highlight=False)
