"""Executes notebooks by papermill, in one kernel of the running interpreter, which the chapters use in turn."""

import asyncio
import os
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_core.utils import run_sync
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from kdutils.errors import InputError
from kdutils.settings import ROOT

_LIMITS = {"start_timeout": 120, "execution_timeout": 24 * 3600, "iopub_timeout": 120}
"""Seconds allowed for a kernel to start, for a cell (overnight, not for ever) and for its output to arrive."""
_BEFOREHAND = """
import gc
gc.disable()
import torchvision, kdutils.report.chapter, kdutils.report.plots
gc.freeze()  # imported modules stay: the collector need not search them whenever a chapter ends
gc.enable()
"""
"""Code that a new kernel runs before a chapter needs it: it imports what chapters use."""


class _Manager(AsyncKernelManager):
    """Starts kernels of the running interpreter, whatever a user has installed as python3."""

    kernel_spec = KernelSpec(**get_kernel_dict(["--log-level=ERROR", "--HistoryManager.enabled=False"]))

    def client(self, **options) -> AsyncKernelClient:
        """A new client; the previous one, no longer needed, is closed."""
        self.stop_client()
        self._client = super().client(**options)
        return self._client

    def stop_client(self) -> None:
        """Close the connections of the last client, which papermill leaves open."""
        if client := getattr(self, "_client", None):
            client.stop_channels()


class _Engine(NBClientEngine):
    """papermill's own engine, but it saves the notebook once, however execution ends, not twice for every cell."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, *arguments, **options) -> None:
        """Execute the cells without saving; the caller saves the notebook afterwards."""
        path, nb_man.output_path = nb_man.output_path, None
        try:
            super().execute_managed_notebook(nb_man, *arguments, **options)
        finally:
            nb_man.output_path = path


papermill_engines.register("once", _Engine)


class Kernel:
    """One kernel for all chapters, because importing PyTorch and the rest takes longer than a short chapter.

    Each chapter starts with fresh names, folder and environment; after one that fails, the next gets a new kernel.
    """

    def __init__(self) -> None:
        if os.pathsep in str(ROOT):  # a kernel would import another kdutils, or none
            raise InputError(f"{ROOT} has a {os.pathsep!r} in its name, behind which Python finds nothing: rename it")
        self._manager: _Manager | None = None

    def execute(self, notebook: Path, draft: Path, given: dict, environment: dict[str, str]) -> str | None:
        """Execute `notebook` with the values `given` into `draft`; returns None, or what went wrong, in one line."""
        paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, draft)]  # not format strings
        named = {"kernel_name": "python3", "language": "python", "engine_name": "once"}  # some notebooks name neither
        shown = {"progress_bar": False, "stdout_file": sys.stdout, "stderr_file": sys.stderr}
        try:
            manager = run_sync(self._renew)(notebook.parent, os.environ | environment)
            papermill.execute_notebook(*paths, given, km=manager, **named, **shown, **_LIMITS)
            return None
        except PapermillExecutionError as failure:
            error = f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}"
        except CellTimeoutError as failure:
            error = f"a cell took longer than {_LIMITS['execution_timeout']} s"
            if "IOPub" in str(failure):
                error = f"the output of a cell did not arrive within {_LIMITS['iopub_timeout']} s of its end"
        except DeadKernelError:
            error = "the kernel died (killed, or out of memory)"
        except (RuntimeError, OSError) as failure:  # RuntimeError: the kernel does not answer
            error = f"the kernel did not start: {failure}"
        self.close()
        return textwrap.shorten(error, 500)  # long enough for the third line of pydantic, which says what is wrong

    def begin(self) -> None:
        """Start the process if there is none, without waiting for it."""
        with suppress(OSError):  # `execute` will report it
            run_sync(self._start)()

    async def _start(self) -> None:
        if self._manager and self._manager.has_kernel:
            return
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # so it imports this package
        self._manager, beforehand = _Manager(), f"--IPKernelApp.exec_lines={_BEFOREHAND}"
        await self._manager.start_kernel(extra_arguments=[beforehand], env=os.environ | {"PYTHONPATH": paths})

    async def _renew(self, folder: Path, environment: dict[str, str]) -> _Manager:
        """The running kernel, cleared, in `folder` and with `environment`; raises `RuntimeError` if none answers."""
        await self._start()
        client = self._manager.client()
        client.start_channels(hb=False)  # a heartbeat stopped while it starts would open sockets without end
        await client.wait_for_ready(_LIMITS["start_timeout"])
        cleared = f"""
            def renew():
                import os
                shell = get_ipython()
                shell.begun_with = getattr(shell, "begun_with", dict(os.environ))
                os.environ.clear(), os.environ.update(shell.begun_with | {environment!r}), os.chdir({str(folder)!r})
                module = {{name: value for name, value in globals().items() if name.startswith("__")}}
                shell.reset(new_session=True)
                shell.user_ns.update(module)
            renew()
        """
        await client.execute(cleared, silent=True, reply=True, timeout=_LIMITS["start_timeout"])
        return self._manager

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._manager is not None:
            self._manager.stop_client()
            run_sync(self._end)()
        self._manager = None

    async def _end(self) -> None:
        """End the process, and tasks left waiting for it by an interrupt, which would report its end as an error."""
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await self._manager.shutdown_kernel(now=True)
        ended, _ = await asyncio.wait(waiting, timeout=10) if waiting else ((), ())
        for task in ended:
            _ = task.cancelled() or task.exception()  # asyncio does not log an exception that was retrieved
