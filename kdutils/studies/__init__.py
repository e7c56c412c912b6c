"""The studies as data: functions that return RunSpecs. Reading one tells its protocol without reading the trainer."""

from kdutils.studies.assignment import assignment
from kdutils.studies.base import PROFILES
from kdutils.studies.binary import LABELS, binarised
from kdutils.studies.cifar100 import cifar100
from kdutils.studies.teacher_init import teacher_init

__all__ = ["LABELS", "PROFILES", "assignment", "binarised", "cifar100", "teacher_init"]
