"""Knowledge distillation as a course report: what a notebook's cell says begins with `kd.`.

    import kdutils as kd
    record = kd.run(kd.assignment("smoke", "synthetic").small_cnn())
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {  # loaded on first use: `python -m kdutils --help` and worker processes need few of them
    "specs": ("RunSpec", "DataSpec", "ModelSpec", "OptimiserSpec", "Distillation", "Bayesian", "InputError", "VIEWS"),
    "data": ("load_dataset", "resolve_dataset", "render", "split_indices", "allowed_views", "first_test_images", "NORMALISATION"),
    "models": ("build_model", "layer_summary", "parameter_count", "freeze", "resolve_init"),
    "losses": ("kd_loss", "soft_loss", "teacher_log_probabilities"),
    "records": ("Record",),
    "packing": ("accounting", "accounting_totals", "pack", "load_packed", "check_exactness", "packed_speed"),
    "runs": ("run", "run_all", "run_arms"),
    "studies": ("assignment", "binarised", "teacher_init", "cifar100", "LABELS"),
    "analysis": (
        "spread", "published", "compare", "metrics_table", "cost_table", "gain", "gains_table", "grid_table", "best_cell",
        "agreement_table", "beside", "clipped_share", "confused_sentence", "dataset_table", "memory_table", "networks_table", "precision_table", "ranking_sentence", "stem_sentence", "standard_error", "telling_images", "policies_table", "provenance", "published_gain",
    ),
    "plots": (
        "plot_curves", "plot_overlay", "plot_confusion", "plot_grid", "plot_images", "plot_views", "plot_soft_labels",
        "plot_size_accuracy", "plot_gains", "plot_estimators", "plot_latent_weights",
    ),
    "display": ("Page",),
    "benchmark": ("scaling_table", "inference_table", "fill_rate", "grid_needs"),
}  # fmt: skip
__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str):
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"kdutils.{home}"), name)
    raise AttributeError(f"module 'kdutils' has no attribute {name!r}")
