"""Knowledge distillation as a course report: helpers that the notebooks share."""

__version__ = "0.1.0"
