"""The passes in the order of the road: this file is the table of contents.

FLOAT      RemoveIdentities, Decompose, RewriteProducts, FoldConstants, FoldBatchConstants, FoldScalars, RewriteWindows,
           RewriteMoves, FoldAffine, FoldBatchNorm, FlattenVolumes, Annotate, NarrowOperands, FuseOps
OBSERVED   InsertObservers  (then fxquant.calibrate), PropagateRanges
QUANTIZED  InsertQDQ, InsertDynamic, FuseRequantize
INTEGER    FoldQDQ, DefineReals, EliminateDeadCode, PackWeights; IntegerPorts (for standalone code)

Beside the road, for training: InsertSteps takes a QUANTIZED graph to TRAINING, FoldSteps takes it back. Behind
IntegerPorts, TrainOnDevice adds a step of training to the network itself.

Beside the road, for accuracy (RECOVERY): EqualizeLayers and EqualizeTables before Annotate, FitRanges and WidenValues
behind calibration, RoundWeights behind InsertQDQ, CorrectBiases at the end. `fxquant.tools.effort` puts them together,
and undoes what does not help.
"""

from __future__ import annotations

from fxquant.passes.annotate import Annotate
from fxquant.passes.correct_biases import CorrectBiases
from fxquant.passes.decompose import Decompose
from fxquant.passes.define_reals import DefineReals
from fxquant.passes.eliminate_dead_code import EliminateDeadCode
from fxquant.passes.equalize_layers import EqualizeLayers
from fxquant.passes.equalize_tables import EqualizeTables
from fxquant.passes.fit_ranges import FitRanges
from fxquant.passes.flatten_volumes import FlattenVolumes
from fxquant.passes.fold_affine import FoldAffine
from fxquant.passes.fold_batch_constants import FoldBatchConstants
from fxquant.passes.fold_batch_norm import FoldBatchNorm
from fxquant.passes.fold_constants import FoldConstants
from fxquant.passes.fold_qdq import FoldQDQ
from fxquant.passes.fold_scalars import FoldScalars
from fxquant.passes.fold_steps import FoldSteps
from fxquant.passes.fuse_ops import FuseOps
from fxquant.passes.fuse_requantize import FuseRequantize
from fxquant.passes.insert_dynamic import InsertDynamic
from fxquant.passes.insert_observers import InsertObservers
from fxquant.passes.insert_qdq import InsertQDQ
from fxquant.passes.insert_steps import InsertSteps
from fxquant.passes.integer_ports import IntegerPorts
from fxquant.passes.narrow_operands import NarrowOperands
from fxquant.passes.pack_weights import PackWeights
from fxquant.passes.propagate_ranges import PropagateRanges
from fxquant.passes.remove_channels import RemoveChannels
from fxquant.passes.remove_identities import RemoveIdentities
from fxquant.passes.rewrite_moves import RewriteMoves
from fxquant.passes.rewrite_products import RewriteProducts
from fxquant.passes.rewrite_windows import RewriteWindows
from fxquant.passes.round_weights import RoundWeights
from fxquant.passes.train_on_device import TrainOnDevice
from fxquant.passes.widen_values import WidenValues
from fxquant.passmanager import Pass, Pipeline
from fxquant.recipe import Recipe

ALL: tuple[type[Pass], ...] = (
    RemoveIdentities,
    Decompose,
    RewriteProducts,
    FoldConstants,
    FoldBatchConstants,
    FoldScalars,
    RewriteWindows,
    RewriteMoves,
    FoldAffine,
    FoldBatchNorm,
    FlattenVolumes,
    Annotate,
    NarrowOperands,
    FuseOps,
    InsertObservers,
    PropagateRanges,
    InsertQDQ,
    InsertDynamic,
    FuseRequantize,
    FoldQDQ,
    DefineReals,
    EliminateDeadCode,
    PackWeights,
    IntegerPorts,
)
PRUNING: tuple[type[Pass], ...] = (RemoveChannels,)
TRAINING: tuple[type[Pass], ...] = (InsertSteps, FoldSteps, TrainOnDevice)
RECOVERY: tuple[type[Pass], ...] = (EqualizeLayers, EqualizeTables, FitRanges, WidenValues, RoundWeights, CorrectBiases)


def prepare(recipe: Recipe) -> Pipeline:
    """From a traced FLOAT graph to one that is ready for calibration."""
    return Pipeline(
        (
            RemoveIdentities(),
            Decompose(),
            RewriteProducts(),
            FoldConstants(),
            FoldBatchConstants(),
            FoldScalars(),
            RewriteWindows(),
            RewriteMoves(),
            FoldAffine(),
            FoldBatchNorm(),
            FlattenVolumes(),
            Annotate(recipe),
            NarrowOperands(),
            FuseOps(),
            InsertObservers(),
        )
    )


def convert() -> Pipeline:
    """From a calibrated OBSERVED graph to integers."""
    return Pipeline(
        (
            PropagateRanges(),
            InsertQDQ(),
            InsertDynamic(),
            FuseRequantize(),
            FoldQDQ(),
            DefineReals(),
            EliminateDeadCode(),
            PackWeights(),
        )
    )


def train(exact: bool, freeze_after: int | None) -> Pipeline:
    """From a calibrated OBSERVED graph to one that is trained."""
    return Pipeline((PropagateRanges(), InsertQDQ(), FuseRequantize(), InsertSteps(exact, freeze_after)))


def convert_trained() -> Pipeline:
    """From a trained graph to integers."""
    return Pipeline((FoldSteps(), FoldQDQ(), EliminateDeadCode(), PackWeights()))


__all__ = [
    "ALL",
    "PRUNING",
    "RECOVERY",
    "TRAINING",
    "Annotate",
    "CorrectBiases",
    "Decompose",
    "DefineReals",
    "EliminateDeadCode",
    "EqualizeLayers",
    "EqualizeTables",
    "FitRanges",
    "FlattenVolumes",
    "FoldAffine",
    "FoldBatchConstants",
    "FoldBatchNorm",
    "FoldConstants",
    "FoldQDQ",
    "FoldScalars",
    "FoldSteps",
    "FuseOps",
    "InsertDynamic",
    "InsertObservers",
    "InsertQDQ",
    "InsertSteps",
    "IntegerPorts",
    "NarrowOperands",
    "PackWeights",
    "PropagateRanges",
    "RemoveChannels",
    "RemoveIdentities",
    "RewriteMoves",
    "RewriteProducts",
    "RewriteWindows",
    "RoundWeights",
    "TrainOnDevice",
    "WidenValues",
    "convert",
    "convert_trained",
    "prepare",
    "train",
]
