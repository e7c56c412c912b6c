"""Knowledge distillation as a course report: what a notebook's cell says begins with `kd.`.

import kdutils as kd
record = kd.run(kd.assignment("smoke", "synthetic").small_cnn())
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {  # loaded on first use: `python -m kdutils --help` and worker processes need few of them
    "specs": ("RunSpec", "DataSpec", "ModelSpec", "OptimiserSpec", "Distillation", "Bayesian"),
    "errors": ("InputError",),
    "data.views": ("VIEWS", "render", "split_indices", "allowed_views", "NORMALISATION"),
    "data.datasets": ("load_dataset", "resolve_dataset", "first_test_images"),
    "networks.registry": ("build_model",),
    "networks.counting": ("layer_summary", "parameter_count", "accounting", "accounting_totals"),
    "training.frozen": ("freeze",),
    "networks.weights": ("resolve_init",),
    "distillation.losses": ("kd_loss", "soft_loss", "teacher_log_probabilities"),
    "runs.records": ("Record",),
    "networks.packed": ("pack", "load_packed", "check_exactness", "packed_speed"),
    "runs.run": ("run", "run_all", "run_arms"),
    "studies": ("assignment", "binarised", "teacher_init", "cifar100", "LABELS"),
    "report.statistics": ("spread", "gain", "best_cell", "clipped_share", "standard_error", "telling_images"),
    "report.tables": (
        "published",
        "compare",
        "metrics_table",
        "cost_table",
        "gains_table",
        "grid_table",
        "agreement_table",
        "beside",
        "confused_sentence",
        "dataset_table",
        "memory_table",
        "networks_table",
        "precision_table",
        "ranking_sentence",
        "stem_sentence",
        "policies_table",
        "provenance",
        "published_gain",
    ),
    "report.plots": (
        "plot_curves",
        "plot_overlay",
        "plot_confusion",
        "plot_grid",
        "plot_images",
        "plot_views",
        "plot_soft_labels",
        "plot_size_accuracy",
        "plot_gains",
        "plot_estimators",
        "plot_latent_weights",
    ),
    "report.page": ("Page",),
    "report.costs": ("scaling_table", "inference_table", "fill_rate", "grid_needs"),
}
__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str):
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"kdutils.{home}"), name)
    raise AttributeError(f"module 'kdutils' has no attribute {name!r}")
