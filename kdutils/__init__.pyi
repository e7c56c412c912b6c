# The names that a notebook may use, by module; read by editors, and by __init__.py for its lazy imports.

from .data.datasets import first_test_images as first_test_images, load_dataset as load_dataset
from .data.views import NORMALISATION as NORMALISATION, render as render
from .distillation.losses import standardise as standardise
from .distillation.methods import (
    KD as KD,
    METHODS as METHODS,
    build_method as build_method,
    method_loss as method_loss,
)
from .networks.binary import sign_activations as sign_activations, sign_weights as sign_weights
from .networks.counting import (
    accounting as accounting,
    accounting_totals as accounting_totals,
    layer_summary as layer_summary,
    parameter_count as parameter_count,
)
from .networks.packed import (
    check_exactness as check_exactness,
    load_packed as load_packed,
    pack as pack,
    packed_speed as packed_speed,
)
from .networks.registry import build_model as build_model
from .report.chapter import open_chapter as open_chapter, open_study as open_study, setting_of as setting_of
from .report.costs import (
    cost_table as cost_table,
    inference_table as inference_table,
    networks_table as networks_table,
    policies_table as policies_table,
    precision_table as precision_table,
    stem_sentence as stem_sentence,
    time_sentence as time_sentence,
)
from .report.explore import explore as explore
from .report.methods import (
    Examples as Examples,
    choose as choose,
    claims_sentence as claims_sentence,
    claims_table as claims_table,
    gains_over as gains_over,
    methods_table as methods_table,
    plot_pushes as plot_pushes,
    trials_table as trials_table,
    tuning_sentence as tuning_sentence,
    verdict_sentence as verdict_sentence,
    weights_table as weights_table,
)
from .report.plots import (
    plot_confusion as plot_confusion,
    plot_cost_accuracy as plot_cost_accuracy,
    plot_curves as plot_curves,
    plot_estimators as plot_estimators,
    plot_gains as plot_gains,
    plot_grid as plot_grid,
    plot_images as plot_images,
    plot_lambdas as plot_lambdas,
    plot_latent_weights as plot_latent_weights,
    plot_overlay as plot_overlay,
    plot_seeds as plot_seeds,
    plot_soft_labels as plot_soft_labels,
    plot_views as plot_views,
)
from .report.statistics import (
    apart as apart,
    best_cell as best_cell,
    clipped_share as clipped_share,
    conditions as conditions,
    finished as finished,
    gain as gain,
    lead as lead,
    spread as spread,
    standard_error as standard_error,
    telling_images as telling_images,
)
from .report.tables import (
    agreement_table as agreement_table,
    compare as compare,
    confidence_sentence as confidence_sentence,
    confused_sentence as confused_sentence,
    dataset_table as dataset_table,
    gains_table as gains_table,
    grid_sentence as grid_sentence,
    grid_table as grid_table,
    lambda_sentences as lambda_sentences,
    memory_table as memory_table,
    metrics_table as metrics_table,
    progress_sentence as progress_sentence,
    provenance as provenance,
    published_gain as published_gain,
    published_sentences as published_sentences,
    ranking_sentence as ranking_sentence,
)
from .report.teaching import (
    plot_gradients as plot_gradients,
    plot_means as plot_means,
    plot_reliability as plot_reliability,
    plot_setup as plot_setup,
    plot_signs as plot_signs,
    plot_temperatures as plot_temperatures,
)
from .report.widgets import (
    confusion_widget as confusion_widget,
    grid_widget as grid_widget,
    plot_cells as plot_cells,
    plot_taken as plot_taken,
    temperature_widget as temperature_widget,
)
from .runs.run import run as run, run_all as run_all, run_arms as run_arms
from .specs import (
    Bayesian as Bayesian,
    DataSpec as DataSpec,
    Distillation as Distillation,
    ModelSpec as ModelSpec,
    OptimiserSpec as OptimiserSpec,
    RunSpec as RunSpec,
)
from .studies import LABELS as LABELS, STUDIES as STUDIES

__version__: str
