# pyright: strict
"""Other ways to send the error down: rules of credit, each a network made out of a network."""

from jbp.credit import direct, energy, evolution, feedback, local, rule, targets
from jbp.credit.compared import angle, plain, transported
from jbp.credit.direct import DirectFeedbackAlignment
from jbp.credit.energy import EquilibriumPropagation, PredictiveCoding
from jbp.credit.evolution import EvolutionStrategy
from jbp.credit.feedback import (
    FeedbackAlignment,
    KolenPollack,
    SignSymmetry,
    WeightMirror,
    feedback_alignment,
    kolen_pollack,
    sign_symmetry,
    weight_mirror,
)
from jbp.credit.local import EachOutput, ForwardForward, LocalLosses, labelled, ranked
from jbp.credit.rule import RuleInference
from jbp.credit.targets import TargetPropagation

__all__ = [
    "DirectFeedbackAlignment",
    "EachOutput",
    "EquilibriumPropagation",
    "EvolutionStrategy",
    "FeedbackAlignment",
    "ForwardForward",
    "KolenPollack",
    "LocalLosses",
    "PredictiveCoding",
    "RuleInference",
    "SignSymmetry",
    "TargetPropagation",
    "WeightMirror",
    "angle",
    "feedback_alignment",
    "kolen_pollack",
    "labelled",
    "plain",
    "ranked",
    "sign_symmetry",
    "transported",
    "weight_mirror",
]

CASES = (
    *feedback.CASES,
    *rule.CASES,
    *direct.CASES,
    *targets.CASES,
    *energy.CASES,
    *local.CASES,
    *evolution.CASES,
)
LOSSES = local.LOSSES
