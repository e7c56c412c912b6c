"""A Dask scheduler and workers of this machine, in a process that ends with its parent (with its standard input).

It imports little: where processes can be forked, the server that workers are forked from loads their modules once.
"""

import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from multiprocessing import util

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_OPTIONS = {
    "distributed.nanny.pre-spawn-environ": {},  # workers have the environment of this process
    "distributed.scheduler.worker-ttl": None,  # a machine that slept would find all workers dead
    "distributed.worker.profile.enabled": False,  # else Dask profiles itself a hundred times a second,
    "distributed.admin.tick.interval": "1s",  # and runs wait for the interpreter's lock
    "distributed.admin.system-monitor.interval": "5s",
}


def serve(workers: int, threads: int, dashboard: bool) -> None:
    """Print the scheduler's address, on the loopback, and serve until standard input ends.

    workers: processes with one Dask thread each; a dead one is started again; threads: what PyTorch may use in each.
    """
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what workers print goes to standard error
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    if method == "forkserver":
        from multiprocessing import forkserver

        forkserver.set_forkserver_preload(["kdutils.runs.imported"])
        forkserver.ensure_running()
    import dask
    from distributed import LocalCluster

    dask.config.set(_OPTIONS | {"distributed.worker.multiprocessing-method": method})
    folder = tempfile.mkdtemp(prefix="kdutils-")
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=0,  # Dask would count the mapped tables, which all workers share, for each of them
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": dashboard},
        local_directory=folder,
        silence_logs=logging.CRITICAL,
    )
    with suppress(BrokenPipeError), answer:  # whoever started this may have been killed meanwhile
        answer.write(f"{cluster.scheduler_address}\n")
    sys.stdin.read()
    for made in (folder, util.get_temp_dir()):  # the second holds the socket for forking workers
        shutil.rmtree(made, ignore_errors=True)
    os._exit(0)  # at once, and the workers with it, whatever they do
