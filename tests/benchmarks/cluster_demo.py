"""`make cluster-demo`: the smoke report, its runs done by a Dask scheduler and two workers of this machine."""

from __future__ import annotations

import sys

from kdutils.__main__ import main
from kdutils.runs.cluster import local_cluster

if __name__ == "__main__":
    with local_cluster(2, threads=1) as address:
        command = ["report", "--profile", "smoke", "--scheduler", address, *sys.argv[1:]]
        print("python -m kdutils", *command, flush=True)
        sys.exit(main(command))
