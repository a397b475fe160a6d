"""Calls of one function with many items, on any executor, with one store for all."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from bigramlib.progress import tqdm
from bigramlib.store import check_writable, store_folder, store_root

POLLED_EVERY = 0.05
"""Seconds between two looks at which calls have ended."""
MARKS = "sweeps"
"""The folder of the store in which workers look for what the caller put there."""
LACKING = "A worker or the scheduler cannot import bigramlib; install it in their environment, in the same version."
Item = TypeVar("Item")
Result = TypeVar("Result")


@runtime_checkable
class Executor(Protocol):
    """What runs searches, as concurrent.futures, Dask (`client.get_executor()`), submitit, mpi4py and Parsl have it."""

    def submit(self, function: Any, /, *arguments: Any) -> Any:
        """Begin a call; what is returned has `done()`, whether it has ended, and `result()`, which raises what it raised."""
        ...


def on_each(
    function: Callable[[Item], Result], items: Iterable[Item], executor: Executor | None, described: str
) -> dict[Item, Result]:
    """Call a function with each of some items, where an executor runs it, and see to it that all share one store.

    Args:
        function: a function of the library, which workers import.
        items: hashable, and small.
        executor: where to call it; here, one after another, if None.
        described: what the items are, for the progress bar and messages.

    Returns:
        The result of each item, in the order of the items.

    Raises:
        ExceptionGroup: it failed for some items, after all others have ended; each error has a note that names its item.
        OSError: nothing can be written to the store.
    """
    items = list(dict.fromkeys(items))
    results: dict[Item, Result] = {}
    errors: list[Exception] = []
    if not items:
        return {}
    calls = here(function, items) if executor is None else elsewhere(function, items, executor)
    with closing(calls), tqdm(total=len(items), desc=described, unit="") as progress:
        for item, result in calls:
            try:
                results[item] = result()
            except Exception as error:
                errors.append(_explained(error, item))
            progress.update()
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(items)} {described} failed; ask again to go on ({errors[0]})", errors)
    return {item: results[item] for item in items}


def here(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[tuple[Item, Callable[[], Result]], None, None]:
    """Items, each with the call that gives its result."""
    for item in items:
        yield item, partial(function, item)


def elsewhere(
    function: Callable[[Item], Result], items: Iterable[Item], executor: Executor
) -> Generator[tuple[Item, Callable[[], Result]], None, None]:
    """Items, each with what gives its result, those that end first first; when it is closed early, the rest is cancelled."""
    check_writable(store_folder(MARKS))
    with tempfile.NamedTemporaryFile(dir=store_folder(MARKS)) as mark:
        pending = {item: executor.submit(in_worker, function, item, str(store_root()), Path(mark.name).name) for item in items}
        try:
            while pending:
                ended = [item for item, future in pending.items() if future.done()]
                for item in ended:
                    yield item, pending.pop(item).result
                if not ended:
                    time.sleep(POLLED_EVERY)
        finally:
            for future in pending.values():
                with suppress(Exception):  # not all executors can
                    future.cancel()


def in_worker(function: Callable[[Item], Result], item: Item, store: str, mark: str) -> Result:
    """Call a function in a worker, if its store is that of the caller.

    Args:
        function: of `on_each`.
        item: of `on_each`.
        store: the path of the caller's store, for the message.
        mark: the name of a file that the caller keeps there.

    Raises:
        ValueError: the worker does not see the file.
    """
    if not os.path.exists(store_root() / MARKS / mark):  # noqa: PTH110 (a path that cannot be looked at is no error)
        raise ValueError(
            f"The worker on {socket.gethostname()} does not see the caller's store {store!r}: its own is "
            f"{str(store_root())!r}. Set BIGRAMLIB_STORE, where workers start, to a folder that all machines share."
        )
    return function(item)


def _explained(error: Exception, item: object) -> Exception:
    """An error with a note that names its item; if a worker lacks this library, an error that says so."""
    link: BaseException | None = error
    while link is not None:
        if "No module named 'bigramlib" in str(link):
            explained = ModuleNotFoundError(LACKING)
            explained.__cause__ = error
            error = explained
            break
        link = link.__cause__ or link.__context__
    error.add_note(f"in {item}")
    return error
