"""The method contract, its registry, and configuration."""

from bench.methods.base import (
    AdapterUse,
    Capabilities,
    Context,
    Family,
    Method,
    MethodConfig,
    Progress,
    QuietProgress,
    Scores,
    SharedStore,
    ValidationFigures,
)
from bench.methods.config import config_dict, load_config_file, parse_set, resolve_config
from bench.methods.plans import DomainSize, Job, PlanSpec, RunDefaults
from bench.methods.registry import (
    MethodInfo,
    describe,
    describe_all,
    load_class,
    names,
    register,
    resolve,
    source_sha256,
)
from bench.protocol.types import DomainView, Requests, TrainView

__all__ = [
    "AdapterUse",
    "Capabilities",
    "Context",
    "DomainSize",
    "DomainView",
    "Family",
    "Job",
    "Method",
    "MethodConfig",
    "MethodInfo",
    "PlanSpec",
    "Progress",
    "QuietProgress",
    "Requests",
    "RunDefaults",
    "Scores",
    "SharedStore",
    "TrainView",
    "ValidationFigures",
    "config_dict",
    "describe",
    "describe_all",
    "load_class",
    "load_config_file",
    "names",
    "parse_set",
    "register",
    "resolve",
    "resolve_config",
    "source_sha256",
]
