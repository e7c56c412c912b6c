"""The modules that workers compute with, imported once by the process that they are forked from."""

import atexit
import gc
import os

gc.disable()  # the imports leave no garbage, and searching them takes time
import distributed  # noqa: E402, F401
import torchvision  # noqa: E402, F401

import kdutils.runs.run  # noqa: E402, F401

gc.freeze()
gc.enable()


def _end(process: int) -> None:
    if os.getpid() == process:  # not in a process that was forked from it
        os._exit(0)  # without cleaning up, as it holds nothing of its own


atexit.register(_end, os.getpid())
