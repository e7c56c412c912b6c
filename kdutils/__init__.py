"""Knowledge distillation as a course report: what a notebook's cell says begins with `kd.`.

import kdutils as kd
study = kd.open_study("assignment", "smoke", "synthetic")
record = kd.run(study.small_cnn())

`dir(kd)` and tab completion list what there is; the stub `__init__.pyi` says where it lives, for editors and for here.
"""

import lazy_loader

__version__ = "0.1.0"

# a name is imported when it is first used: `python -m kdutils --help` and worker processes need few of them
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
