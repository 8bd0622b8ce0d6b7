import os

import dask
import pytest
import toys
from dask.utils import parse_timedelta

import pipeline.clusters
from pipeline.clusters import check_output, memory_per_worker, open_cluster
from pipeline.config import Cluster
from pipeline.errors import ConfigError, RunError
from pipeline.geometry import Box, Grid
from pipeline.steps import Step

GRID = Grid(Box((0, 0, 0), (1, 1, 1)), (1, 1, 1))


def test_workers_share_the_cores_and_leave_ctrl_c_to_the_driver():
    with open_cluster(Cluster(workers=2), []) as workers:
        answers = list(workers.client.run(toys.surroundings).values())
    cores = str(max(1, (os.cpu_count() or 1) // 2))
    for environment, ignores, _ in answers:
        assert environment["OMP_NUM_THREADS"] == environment["NUMBA_NUM_THREADS"] == cores
        assert environment["OPENBLAS_NUM_THREADS"] == "1"
        assert ignores
    assert len({os.getpid(), *(pid for _, _, pid in answers)}) == 3


def test_workers_listen_on_loopback_only_and_offer_slots():
    step = Step("s", toys.nothing, {}, GRID)
    with open_cluster(Cluster(workers=3, processes=False), [step]) as workers:
        info = workers.client.scheduler_info(n_workers=-1)["workers"]
        resources = workers.client.cluster.scheduler.workers.values()
        offered = [dict(each.resources) for each in resources]
    assert all(address.startswith(("tcp://127.0.0.1:", "inproc://")) for address in info)
    assert [each["nthreads"] for each in info.values()] == [1, 1, 1]
    assert offered == [{"CPU": 1, "GPU": 1}] * 3
    assert workers.slots == {"CPU": 3, "GPU": 3}


def test_with_a_gpu_one_worker_offers_it_beside_its_cpu(monkeypatch):
    monkeypatch.setattr("pipeline.clusters._count_gpus", lambda: 1)
    step = Step("s", toys.nothing, {}, GRID, resource="GPU")
    with open_cluster(Cluster(workers=2, processes=False), [step]) as workers:
        found = workers.client.cluster.scheduler.workers.values()
        offered = sorted((each.nthreads, dict(each.resources).get("GPU", 0)) for each in found)
    assert offered == [(1, 0), (2, 1)]
    assert workers.slots == {"CPU": 2, "GPU": 1}


def test_memory_is_what_is_configured_or_a_share():
    assert memory_per_worker(Cluster(memory_gib=1.5)) == 3 * 2**29
    assert memory_per_worker(Cluster(workers=4)) * 2 == pytest.approx(
        memory_per_worker(Cluster(workers=2)), rel=1e-6
    )


def test_memory_of_one_process_is_no_output_for_others():
    with pytest.raises(ConfigError, match="output 'memory://x' lies in the memory of one process"):
        check_output(Cluster(), "memory://x")
    check_output(Cluster(processes=False), "memory://x")
    check_output(Cluster(), "/data/x")


def test_workers_that_die_while_they_start_are_started_again(monkeypatch):
    started, calls = pipeline.clusters.SpecCluster, []

    def start(**options):
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("Nanny failed to start.")
        return started(**options)

    monkeypatch.setattr("pipeline.clusters.SpecCluster", start)
    with open_cluster(Cluster(workers=1, processes=False), []) as workers:
        assert workers.slots["CPU"] == 1
    assert len(calls) == 3


def test_workers_that_never_start_are_given_up(monkeypatch):
    def start(**options):
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("pipeline.clusters.SpecCluster", start)
    message = r"3 workers could not be started, 5 times .*Choose fewer cluster.workers"
    with pytest.raises(RunError, match=message), open_cluster(Cluster(workers=3), []):
        pass


def test_a_worker_that_is_replaced_slowly_is_not_given_up():
    with open_cluster(Cluster(workers=1, processes=False), []):
        timeout = dask.config.get("distributed.deploy.lost-worker-timeout")
    assert parse_timedelta(timeout) > 24 * 3600
