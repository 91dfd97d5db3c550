"""Training: from labels by a recipe, and healing by a teacher; on a processor or a GPU, bounded in time."""

from tenfold.training.augmentation import Augmentation
from tenfold.training.course import Course
from tenfold.training.ensemble import Ensemble
from tenfold.training.faithfulness import answers_mixed, faithful_views
from tenfold.training.fastest import fastest_precision, precision_and_pace
from tenfold.training.hidden import HiddenDistillation, Transfer, stage_pairs
from tenfold.training.keeping import Keeper
from tenfold.training.loop import Diverged, FitResult, fit, mean_loss
from tenfold.training.losses import (
    attention_loss,
    distillation_loss,
    feature_loss,
    hard_loss,
    relation_loss,
    soft_loss,
)
from tenfold.training.norms import refresh_statistics
from tenfold.training.objectives import Distillation, Objective, Supervised
from tenfold.training.optimizers import AdamW, OptimizerSettings, Sgd
from tenfold.training.outputs import TeacherOutputs, fingerprint
from tenfold.training.place import place_for, training_place
from tenfold.training.precision import Precision
from tenfold.training.recipes import (
    TrainingRecipe,
    parse_training_recipe,
    training_recipe,
    training_recipe_names,
)
from tenfold.training.remembered import Remembered, remembered
from tenfold.training.result import CurvePoint, TrainingResult
from tenfold.training.rules import find_rule
from tenfold.training.schedules import warmup_cosine
from tenfold.training.teacher import joint_teacher
from tenfold.training.trainer import train
from tenfold.training.views import Batch, View
from tenfold.training.zeros import held_zeros

__all__ = [
    "AdamW",
    "Augmentation",
    "Batch",
    "Course",
    "CurvePoint",
    "Distillation",
    "Diverged",
    "Ensemble",
    "FitResult",
    "HiddenDistillation",
    "Keeper",
    "Objective",
    "OptimizerSettings",
    "Precision",
    "Remembered",
    "Sgd",
    "Supervised",
    "TeacherOutputs",
    "Transfer",
    "TrainingRecipe",
    "TrainingResult",
    "View",
    "answers_mixed",
    "attention_loss",
    "distillation_loss",
    "faithful_views",
    "fastest_precision",
    "feature_loss",
    "find_rule",
    "fingerprint",
    "fit",
    "hard_loss",
    "held_zeros",
    "joint_teacher",
    "mean_loss",
    "parse_training_recipe",
    "place_for",
    "precision_and_pace",
    "refresh_statistics",
    "remembered",
    "relation_loss",
    "soft_loss",
    "stage_pairs",
    "train",
    "training_place",
    "training_recipe",
    "training_recipe_names",
    "warmup_cosine",
]
