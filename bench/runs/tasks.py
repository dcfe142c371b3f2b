"""Domains and tasks of a matrix: loaded when first needed, shared by the runs that follow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.data.domain import Domain
from bench.data.load import load_domain, missing_domains, namespace_domains
from bench.io import hash_json
from bench.protocol import ImportedCandidates, Task, build_task
from bench.runs.privacy import without_paths
from bench.runs.records import jsonable
from bench.runs.spec import RunSpec

__all__ = ["LoadedTask", "TaskCache"]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedTask:
    """A task and where its data came from.

    Attributes:
        task: target, sources and leak guard, as the protocol built them.
        data: per domain: role, content hash, size, provenance (without paths of this machine).
    """

    task: Task
    data: Mapping[str, Any]


class TaskCache:
    """Keeps the last few tasks; runs of one target that need the same sources share one.

    Args:
        size: how many.
        domains: domains in memory; their names mean them, whatever is on disk.

    Attributes:
        domains: these domains by name.
    """

    def __init__(self, size: int = 2, domains: Iterable[Domain] = ()) -> None:
        self._size = size
        self.domains: Mapping[str, Domain] = {domain.name: domain for domain in domains}
        self._tasks: OrderedDict[str, LoadedTask] = OrderedDict()

    def get(self, spec: RunSpec) -> LoadedTask:
        """The task of a resolved specification (its sources are explicit).

        Raises:
            DataError, ProtocolError: a domain cannot be read or a task not be built.
        """
        key = hash_json(
            spec.model_dump(
                mode="json",
                include={
                    "target",
                    "sources",
                    "protocol",
                    "candidates",
                    "ties",
                    "on_error",
                    "data_root",
                },
            )
        )
        if key not in self._tasks:
            self._tasks[key] = load_task(spec, self.domains)
            while len(self._tasks) > self._size:
                self._tasks.popitem(last=False)
        self._tasks.move_to_end(key)
        return self._tasks[key]


def load_task(spec: RunSpec, given: Mapping[str, Domain] | None = None) -> LoadedTask:
    """Load the domains of a resolved specification and build its task.

    The other domains of the namespace, of the catalogue and imported ones, take part in the leak
    guard if they are on disk; those that are not are named to the protocol, which then marks the
    guard as partial.

    Args:
        spec: the specification.
        given: domains in memory, by name.
    """
    given = given or {}
    sources = spec.sources or ()
    domains = {name: given.get(name) or _load(name, spec) for name in (spec.target, *sources)}
    roles = {spec.target: "target"} | dict.fromkeys(sources, "source")
    absent: tuple[str, ...] = ()
    if not spec.protocol.keep_leak:
        spaces = sorted({d.namespace for d in domains.values() if d.namespace is not None})
        others = [
            name
            for space in spaces
            for name in namespace_domains(space, spec.data_root)
            if name not in domains
        ]
        absent = missing_domains(others, data_root=spec.data_root)
        for name in others:
            if name not in absent:
                domains[name] = _load(name, spec)
                roles[name] = "leak guard"
    task = build_task(
        domains[spec.target],
        sources=[domains[name] for name in sources],
        siblings=[domain for name, domain in domains.items() if name != spec.target],
        missing_siblings=absent,
        options=spec.protocol,
        imported=_imported(spec),
    )
    data = {name: _describe(domains[name], role) for name, role in roles.items()}
    users = set(domains[spec.target].user_ids)
    for name in sources:
        # Users are never matched across domains; readers of a table must know how many could be.
        data[name]["users_shared_with_target"] = len(users & set(domains[name].user_ids))
    return LoadedTask(task, data)


def _imported(spec: RunSpec) -> ImportedCandidates | None:
    if spec.candidates is None:
        return None
    from bench.protocol.candidate_files import read_candidates

    return read_candidates(spec.candidates)


def _load(name: str, spec: RunSpec) -> Domain:
    return load_domain(name, data_root=spec.data_root, ties=spec.ties, on_error=spec.on_error)


def _describe(domain: Domain, role: str) -> dict[str, Any]:
    return {
        "role": role,
        "content_hash": domain.content_hash,
        "users": domain.n_users,
        "items": domain.n_items,
        "items_without_title": domain.items.n_placeholders,
        "events": domain.n_events,
        "provenance": without_paths(jsonable(domain.provenance)),
    }
