"""One Jupyter kernel for all notebooks that a process executes, since what they import takes as long as many a notebook."""

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
AS_NEW = """
import os, sys
os.environ.update({environment!r})
os.chdir({folder!r})
if "matplotlib.pyplot" in sys.modules:
    sys.modules["matplotlib.pyplot"].close("all")
for name, module in list(sys.modules.items()):
    own = getattr(module, "__dict__", {{}})
    own.get("__warningregistry__", {{}}).clear()
    for thing in own.values() if name.startswith("bigramlib.") else ():
        getattr(thing, "cache_clear", bool)()
get_ipython().reset()
import gc, sys
gc.collect()
if "torch" in sys.modules:
    sys.modules["torch"].cuda.empty_cache()
del gc, sys
"""
"""Leaves a kernel nothing of the notebook before but what was imported; warnings that come once will come again."""


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

    def made_new(self, folder: Path) -> bool:
        """Whether a kernel runs and could be left with nothing of the notebook before."""
        if not self.has_kernel:
            return False
        client = self.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(SECONDS_TO_ANSWER)
            code = AS_NEW.format(environment=dict(os.environ), folder=str(folder.absolute()))
            reply = client.execute_interactive(code, silent=True, timeout=SECONDS_TO_ANSWER)
            return reply["content"]["status"] == "ok"
        except (RuntimeError, TimeoutError):
            return False
        finally:
            client.stop_channels()


_kernel = _Kernel(kernel_name="python3")


@contextmanager
def kernel_for_notebook(folder: Path) -> Iterator[AsyncKernelManager]:
    """The kernel of this process, as if it were new; where none runs, papermill starts it.

    It ends with the process, or with a notebook that fails.

    Args:
        folder: the working directory of the notebook.
    """
    global _kernel
    if not _kernel.made_new(folder):  # one that ended cannot be started again
        _kernel.end()
        _kernel = _Kernel(kernel_name="python3")
    try:
        yield _kernel
    except BaseException:
        _kernel.end()
        raise
    _kernel.leave()
    _kernel.made_new(folder)  # so that models of a notebook leave the memory with it, and not when the next one comes


@atexit.register
def _end() -> None:
    _kernel.end()
