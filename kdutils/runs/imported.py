"""What workers compute with, imported once by the process that they are forked from."""

import atexit
import gc
import os

gc.disable()  # none of it is garbage, and it is much to look through
import distributed  # noqa: E402, F401
import torchvision  # noqa: E402, F401

import kdutils.runs.run  # noqa: E402, F401

gc.freeze()
gc.enable()


def _end(process: int) -> None:
    if os.getpid() == process:  # not one that was forked from it
        os._exit(0)  # with nothing taken apart: it has nothing of its own


atexit.register(_end, os.getpid())
