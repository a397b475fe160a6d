"""Kernels that the notebooks of a process use one after another, since what they import takes as long as many a notebook."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync

SECONDS_TO_ANSWER = 30
PLACED = """
import os
os.environ.update({environment!r})
os.chdir({folder!r})
del os
"""
"""Gives a kernel the environment of this process and the working directory of the next notebook."""
EMPTIED = """
import sys
if "matplotlib.pyplot" in sys.modules:
    sys.modules["matplotlib.pyplot"].close("all")
for name, module in list(sys.modules.items()):
    own = getattr(module, "__dict__", {})
    own.get("__warningregistry__", {}).clear()
    for thing in own.values() if name.startswith("bigramlib.") else ():
        getattr(thing, "cache_clear", bool)()
get_ipython().reset()
import gc, sys
gc.collect()
if "torch" in sys.modules:
    sys.modules["torch"].cuda.empty_cache()
del gc, sys
"""
"""Leaves a kernel nothing of a notebook but what was imported; warnings that come once will come again."""


class _Kernel(AsyncKernelManager):
    """A kernel that closes its last client, as papermill leaves open those of kernels that it is given."""

    latest: AsyncKernelClient | None = None

    def client(self, **given: Any) -> Any:
        self.latest = super().client(**given)
        return self.latest

    def leave(self) -> None:
        """Close the last client, if it is open."""
        if self.latest:
            self.latest.stop_channels()
            self.latest = None

    def end(self) -> None:
        """End the kernel, if it runs."""
        self.leave()
        if self.has_kernel:
            run_sync(self.shutdown_kernel)(now=True)

    def does(self, code: str) -> bool:
        """Whether the kernel runs and some code could be executed in it."""
        if not self.has_kernel:
            return False
        client = self.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(SECONDS_TO_ANSWER)
            reply = client.execute_interactive(code, silent=True, timeout=SECONDS_TO_ANSWER)
            return reply["content"]["status"] == "ok"
        except (RuntimeError, TimeoutError):
            return False
        finally:
            client.stop_channels()


_idle: list[_Kernel] = []
"""Kernels of this process that no notebook uses: one, or as many as threads of it have executed notebooks at the same time."""


@contextmanager
def kernel_for_notebook(folder: Path) -> Iterator[AsyncKernelManager]:
    """A kernel as if it were new, of which no other notebook makes use; where none is left, papermill starts one.

    It ends with the process, or with a notebook that fails. What a notebook had in memory goes with the notebook.

    Args:
        folder: the working directory of the notebook.
    """
    place = PLACED.format(environment=dict(os.environ), folder=str(folder.absolute()))
    kernel = _taken()
    if not kernel.does(place):
        kernel.end()
        kernel = _Kernel(kernel_name="python3")  # one that ended cannot be started again
    try:
        yield kernel
    except BaseException:
        kernel.end()
        raise
    kernel.leave()
    if kernel.does(EMPTIED):
        _idle.append(kernel)
    else:
        kernel.end()


def _taken() -> _Kernel:
    """A kernel that was idle, or one that is not started."""
    try:
        return _idle.pop()
    except IndexError:
        return _Kernel(kernel_name="python3")


@atexit.register
def _end() -> None:
    for kernel in _idle:
        kernel.end()
