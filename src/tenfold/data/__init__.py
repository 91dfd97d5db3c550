"""Data sets and tasks: the sample that ships, loaders for what users have, and `Task`."""

from tenfold.data.checks import check_alike, check_task
from tenfold.data.loaders import load_data
from tenfold.data.metric import METRICS, Metric, accuracy, checked_score, load_metric
from tenfold.data.sample import fashion_mnist
from tenfold.data.split import Split
from tenfold.data.task import Splits, Task, as_split, task_from

__all__ = [
    "METRICS",
    "Metric",
    "Split",
    "Splits",
    "Task",
    "accuracy",
    "as_split",
    "check_alike",
    "check_task",
    "checked_score",
    "fashion_mnist",
    "load_data",
    "load_metric",
    "task_from",
]
