"""Knowledge distillation as a course report: notebooks use the names here as `kd.NAME`.

import kdutils as kd
study = kd.open_study("assignment", "smoke", "synthetic")
record = kd.run(study.small_cnn())

`dir(kd)` and tab completion list the names; the stub `__init__.pyi` tells editors and this file where each is defined.
"""

import lazy_loader

__version__ = "0.1.0"

# a name is imported when it is first used: `python -m kdutils --help` and worker processes need few of them
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
