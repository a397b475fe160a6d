"""Where searches run: on a Dask scheduler, or in processes of this machine that Dask starts, watches and starts again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bigramlib.cluster.executors import LACKING, Executor

RETRIES = 2
"""How often a call is begun anew whose worker was lost."""
SECONDS_TO_CONNECT = 10
AT_LEAST, OF_A_WEIGHT = 2 * 2**30, 24
"""Bytes of memory that a process takes, and for each maskable weight of its model."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@contextmanager
def workers(
    scheduler: str = "", processes: int | None = None, device: str = "cpu", weights: int = 0
) -> Iterator[Executor | None]:
    """Within the context, an executor for `find_subnetworks`; None, which stands for this very process, if one is enough.

    Its processes have one thread each: results depend on the number of threads in their last bits, and two processes of one
    thread are faster than one of two.

    Args:
        scheduler: the address of a Dask scheduler ("tcp://host:8786"), whose workers are used; processes of this machine if
            empty.
        processes: how many of them; if None, one for each core that is free for us and has the memory, on a GPU one.
        device: where they compute.
        weights: maskable weights of the largest model, by which the memory of a process is estimated.

    Raises:
        ConnectionError: no scheduler answers at that address.
        ModuleNotFoundError: Dask is not installed (it comes with the extra "cluster"), or the scheduler or a worker lacks
            bigramlib.
    """
    if scheduler:
        with _connected(scheduler) as client:
            yield client.get_executor(retries=RETRIES)
        return
    count = processes or (1 if device != "cpu" else suited_processes(weights))
    if count == 1:
        yield None
        return
    import dask
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.ERROR)
    # Dask would have its workers give memory back to the system at every chance, which costs a third of their time.
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": ONE_THREAD}),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=None,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
            env={"TQDM_DISABLE": "1"},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client.get_executor(retries=RETRIES)


def suited_processes(weights: int) -> int:
    """How many processes of one thread fit on this machine: one for each core, as far as there is memory.

    Args:
        weights: maskable weights of the largest model.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores, memory // (AT_LEAST + OF_A_WEIGHT * weights)))


@contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    """A client of a scheduler that has workers."""
    from distributed import Client

    remedy = "start one (`dask scheduler`, `dask worker`) or check its address; without SCHEDULER, this machine is used"
    try:
        client = Client(scheduler, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConnectionError(f"No Dask scheduler answers at {scheduler!r} ({type(error).__name__}); {remedy}.") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=SECONDS_TO_CONNECT)
        except TimeoutError:
            logging.getLogger(__name__).warning("The scheduler at %s has no workers yet; waiting for some.", scheduler)
        _check_library(client)
        yield client


def _check_library(client: Any) -> None:
    """Raise ModuleNotFoundError unless the scheduler and its workers can import this library.

    A worker that cannot would end without a word at its first call, which would wait for ever.
    """
    try:
        client.run_on_scheduler(exec, "import bigramlib")
        client.run(exec, "import bigramlib")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(LACKING) from error
