"""Searches on a real SLURM of two nodes on this machine, with a real Dask and submitit: `make cluster-test` names this file."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import submitit
from dask_jobqueue import SLURMCluster
from distributed import Client
from slurm import NODES, two_nodes

from bigramlib import SparsifyConfig, saved_state
from bigramlib.cluster.searches import Search, find_subnetworks

HERE = Path(__file__).parent
STEPS, STEPS_OF_LONG, SAVED_EVERY = 10, 40, 10


@pytest.fixture(scope="module")
def slurm():
    with two_nodes() as running:
        print(f"\n{len(NODES)} nodes idle after {running.seconds:.1f} s")
        yield running


@pytest.fixture(scope="module")
def text(tmp_path_factory, documents):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(documents))
    return str(path)


def search(text, steps, seed=0, penalty=10.0):
    """A search of exactly so many steps: no gate counts as decided."""
    short = {"steps": steps, "batch_size": 4, "sequence_length": 32, "undecided_share": 0.0}
    return Search("mini", text, SparsifyConfig(sparsity_penalty=penalty, seed=seed, **short))


@pytest.fixture(scope="module")
def searches(text):
    return [search(text, STEPS, seed, penalty) for penalty in (5.0, 20.0) for seed in (0, 1)]


@pytest.fixture(scope="module")
def long(text):
    return search(text, STEPS_OF_LONG)


@pytest.fixture(scope="module")
def found_here(searches, long, tmp_path_factory):
    """What this process finds, in a store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIGRAMLIB_STORE", str(tmp_path_factory.mktemp("store")))
        return find_subnetworks([*searches, long])


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What jobs get: this checkout, one thread, and progress bars in their logs, which tell at which step a search begins."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE.parents[1], HERE))))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("BIGRAMLIB_TEXT_PROGRESS", "1")
    monkeypatch.delenv("TQDM_DISABLE")


@pytest.fixture
def submitting(slurm, tmp_path):
    """An executor whose every call is a job."""
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="slurm")
    # What comes in the last ten minutes of a job submitit takes for the time limit, not for preemption.
    executor.update_parameters(cpus_per_task=1, mem_gb=2, timeout_min=30)
    return executor


@pytest.fixture
def dask_jobs(slurm, tmp_path):
    """A Dask whose workers are jobs, as notebook 14 has it; two at most."""

    @contextmanager
    def start(*prologue):
        with (
            SLURMCluster(
                cores=1,
                memory="2GB",
                walltime="00:10:00",
                nanny=False,
                job_script_prologue=["export OMP_NUM_THREADS=1", *prologue],
                log_directory=tmp_path / "jobs",
                local_directory=tmp_path,
                scheduler_options={"dashboard_address": "127.0.0.1:0"},
            ) as cluster,
            Client(cluster) as client,
        ):
            cluster.adapt(maximum_jobs=2, target_duration="100ms")
            yield client.get_executor(retries=2)

    (tmp_path / "jobs").mkdir()
    return start


class SavingOften:
    """An executor whose workers save the state of a search every few steps."""

    def __init__(self, executor):
        self.executor = executor

    def submit(self, function, /, *arguments):
        return self.executor.submit(often_saved, function, *arguments)


def often_saved(function, *arguments):
    saved_state.EVERY_STEPS, saved_state.WRITING_SHARE = SAVED_EVERY, 1.0
    return function(*arguments)


@contextmanager
def when_saved(slurm, store, act):
    """Meanwhile, as soon as the state of a search is in the store, do something to the job that runs, and its node."""

    def wait():
        last = time.monotonic() + 120
        while not list((store / "unfinished").glob("*.safetensors")):
            assert time.monotonic() < last, "no state was saved"
            time.sleep(0.05)
        ((job, node),) = slurm.jobs().items()
        act(job, node)
        return job, node

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(wait)


def steps_begun_at(log):
    """The steps at which the searches of a job's log began, by their progress bars."""
    return [int(step) for step in re.findall(rf"\b(\d+)/{STEPS_OF_LONG} \[00:00<\?", log)]


def begun_since(slurm, before):
    """The nodes of the jobs that have begun since there were others."""
    return {job: node for job, node in slurm.jobs("all").items() if job not in before}


def test_each_search_is_a_job_of_submitit(slurm, submitting, searches, found_here):
    before = slurm.jobs("all")
    found = find_subnetworks(searches, submitting)
    assert found == {search: found_here[search] for search in searches}
    jobs = begun_since(slurm, before)
    assert len(jobs) == len(searches) and set(jobs.values()) == set(NODES)


def test_jobs_of_dask_share_the_searches(slurm, dask_jobs, searches, found_here):
    before = slurm.jobs("all")
    with dask_jobs() as executor:
        found = find_subnetworks(searches, executor)
    assert found == {search: found_here[search] for search in searches}
    assert set(begun_since(slurm, before).values()) == set(NODES)


def test_a_search_whose_job_is_cancelled_goes_on_in_another_job_on_the_other_node(slurm, dask_jobs, long, tmp_path, found_here):
    def cancel(job, node):
        slurm.drain(node)
        slurm.cancel(job)

    with dask_jobs() as executor, when_saved(slurm, tmp_path / "store", cancel) as cancelled:
        assert find_subnetworks([long], SavingOften(executor)) == {long: found_here[long]}
        job, node = cancelled.result()
    slurm.resume(node)
    begun = {file.stem.rpartition("-")[2]: steps_begun_at(file.read_text()) for file in (tmp_path / "jobs").glob("*.err")}
    (after,) = {other for other, steps in begun.items() if steps} - {job}
    (step,) = begun[after]
    nodes = slurm.jobs("all")
    assert begun[job] == [0] and step >= SAVED_EVERY and nodes[after] != nodes[job] == node
    print(f"\njob {job} on {node} was cancelled; job {after} on {nodes[after]} went on from step {step} of {STEPS_OF_LONG}")


def test_a_search_whose_job_is_preempted_goes_on_when_the_job_begins_again(slurm, submitting, long, tmp_path, found_here):
    with when_saved(slurm, tmp_path / "store", lambda job, node: slurm.cancel(job, "--signal=USR2")) as preempted:
        assert find_subnetworks([long], SavingOften(submitting)) == {long: found_here[long]}
        job, _ = preempted.result()
    (log,) = (tmp_path / "jobs").glob(f"{job}_*.err")
    first, second = steps_begun_at(log.read_text())
    assert first == 0 and second >= SAVED_EVERY
    print(f"\njob {job} was preempted and went on from step {second} of {STEPS_OF_LONG}")


def test_a_store_that_jobs_do_not_see_is_noticed(dask_jobs, long, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    with dask_jobs(f"export BIGRAMLIB_STORE={elsewhere}") as executor:
        sentence = rf"does not see the caller's store '{tmp_path / 'store'}': its own is '{elsewhere}'\. Set BIGRAMLIB_STORE"
        with pytest.raises(ExceptionGroup, match=sentence):
            find_subnetworks([long], executor)
