"""The method contract, its registry, and configuration."""

from bench.methods.base import (
    AdapterStore,
    Capabilities,
    Context,
    Family,
    Job,
    Method,
    MethodConfig,
    PlanSpec,
    Progress,
    Scores,
    ValidationFigures,
)
from bench.protocol.types import DomainView, Requests, TrainView

__all__ = [
    "AdapterStore",
    "Capabilities",
    "Context",
    "DomainView",
    "Family",
    "Job",
    "Method",
    "MethodConfig",
    "PlanSpec",
    "Progress",
    "Requests",
    "Scores",
    "TrainView",
    "ValidationFigures",
]
