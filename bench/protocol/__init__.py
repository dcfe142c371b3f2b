"""Domains to tasks: leave-one-out split, leak guard, candidate sets, requests."""

from bench.protocol.candidate_files import export_candidates, read_candidates
from bench.protocol.imported import CandidateTable, ImportedCandidates
from bench.protocol.requests_io import export_requests, export_training, export_validation
from bench.protocol.scores_io import read_scores
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
    "export_candidates",
    "export_requests",
    "export_training",
    "export_validation",
    "read_candidates",
    "read_scores",
]
