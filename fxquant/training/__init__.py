"""Training through the deployed integers: the stage TRAINING, its modules, and how they round.

`Step` and `WeightStep` hold the scales that are learned, `LiveNorm` a batch norm until it is frozen, `Masks` what stays
zero. `TrainingGraph` is what the user trains; `exact` is its forward pass; `distill` compares it with a teacher. The
passes InsertSteps and FoldSteps lead there and back.
"""

from __future__ import annotations

from fxquant.training.bits import change_bits
from fxquant.training.distillation import Distillation, distill
from fxquant.training.graph import TrainingGraph, damping, freeze_norms, qat_parameters, training_graph
from fxquant.training.masks import Masks, mask_weight
from fxquant.training.norms import FOLDS, LiveNorm, fold_bias, fold_weight
from fxquant.training.steps import Step, Trained, WeightStep

__all__ = [
    "FOLDS",
    "Distillation",
    "LiveNorm",
    "Masks",
    "Step",
    "Trained",
    "TrainingGraph",
    "WeightStep",
    "change_bits",
    "damping",
    "distill",
    "fold_bias",
    "fold_weight",
    "freeze_norms",
    "mask_weight",
    "qat_parameters",
    "training_graph",
]
