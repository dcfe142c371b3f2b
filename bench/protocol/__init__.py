"""Domains to tasks: leave-one-out split, leak guard, candidate sets, requests."""

from bench.protocol.imported import CandidateTable, ImportedCandidates
from bench.protocol.task import PROTOCOL_VERSION, RequestSet, Task, build_task
from bench.protocol.types import DomainView, Labels, ProtocolOptions, Requests, Split, TrainView

__all__ = [
    "PROTOCOL_VERSION",
    "CandidateTable",
    "DomainView",
    "ImportedCandidates",
    "Labels",
    "ProtocolOptions",
    "RequestSet",
    "Requests",
    "Split",
    "Task",
    "TrainView",
    "build_task",
]
