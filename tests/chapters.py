"""The chapters that the project tells, by name: written out, so that one that is lost is missed."""

CHAPTERS = (
    "00_data",
    "01_baseline_small_cnn",
    "02_finetune_resnets",
    "03_one_teacher",
    "04_two_teachers",
    "05_binary_wideresnet",
    "06_binary_distillation",
    "07_teacher_initialisation",
    "08_cifar100_grid",
    "09_report",
    "10_methods",
    "11_explore",
)
