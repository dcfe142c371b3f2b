"""Domains to a task: what one target is trained and judged on, with its identity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Domain
from bench.errors import ProtocolError
from bench.io import hash_arrays, hash_json
from bench.mixing import mix64
from bench.protocol.candidate_sets import CandidateSets, FullSets
from bench.protocol.guard import GuardedDomain, guard_domain
from bench.protocol.imported import ImportedCandidates
from bench.protocol.keys import salt64
from bench.protocol.part import DomainPart
from bench.protocol.split import LeaveOneOut, leave_one_out
from bench.protocol.types import Labels, ProtocolOptions, Requests, Split, TrainView

__all__ = ["PROTOCOL_VERSION", "GuardState", "RequestSet", "Task", "build_task"]

PROTOCOL_VERSION = 1
"""Raised whenever the split, the guard or the candidates of an unchanged domain can change."""

GuardState = Literal["full", "partial", "off", "none"]


@dataclass(frozen=True, eq=False)
class RequestSet:
    """Requests of one split for some users, built chunk by chunk.

    Attributes:
        split: ``valid`` or ``test``.
        users: int32, shape ``(n,)``, canonical user indices, in the order of the requests.
        n_candidates: candidates per user.
        candidates_hash: identity of the candidate sets of *all* evaluated users.
    """

    split: Split
    users: NDArray[np.int32]
    n_candidates: int
    candidates_hash: str
    _part: DomainPart
    _sets: CandidateSets
    _rows: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Number of requests."""
        return len(self.users)

    @property
    def is_full(self) -> bool:
        """Whether the whole catalogue is ranked."""
        return isinstance(self._sets, FullSets)

    @property
    def domain(self) -> Domain:
        """The domain that the indices belong to."""
        return self._part.domain

    def __len__(self) -> int:
        return self.n

    def chunks(self, size: int) -> Iterator[tuple[Requests, Labels]]:
        """Requests and labels, at most ``size`` users at a time, in order."""
        if size < 1:
            raise ProtocolError(f"chunks of {size} requests; expected a size of at least 1.")
        for start in range(0, self.n, size):
            yield self._part.requests(self._sets, self._rows[start : start + size])


class Task:
    """One target domain under the protocol; built by :func:`build_task`.

    Methods see :meth:`train_view` while they fit; the runner asks for :meth:`test` afterwards. The
    task itself holds everything, so it must not be handed to a method.

    Attributes:
        target: name of the target domain.
        options: protocol options, with ``candidates_file`` filled in for imported sets.
        guard: state of the leak guard for the target: ``full``; ``partial`` (sibling domains were
            not on disk); ``off`` (asked for); ``none`` (the domain has no namespace).
        guard_counts: JSON-serialisable: training events, dropped events and by which domain.
        task_hash: identity; runs with equal ``task_hash`` are comparable.
        candidates_hash: identity of the test candidates.
        validation_hash: identity of the validation candidates.
        source_hashes: SHA-256 of every source's guarded training data, in the order given.
        n_users: evaluated users.
        n_short_users: users with fewer than 3 events; trained on, not evaluated.
        left_out: users with too few negatives, who are not evaluated either; None if there are none.
        n_items: items of the target.
    """

    def __init__(
        self,
        part: DomainPart,
        sources: Sequence[DomainPart],
        options: ProtocolOptions,
        guard: GuardState,
        guard_counts: Mapping[str, Any],
    ) -> None:
        self._part = part
        self._sources = tuple(sources)
        self.options = options
        self.guard: GuardState = guard
        self.guard_counts: dict[str, Any] = dict(guard_counts)
        self.target = part.domain.name
        self.n_users = len(part.split.users)
        self.n_short_users = part.split.n_short
        self.left_out = part.left_out
        self.n_items = part.domain.n_items
        self.source_hashes = {source.domain.name: source.training_hash for source in self._sources}
        self._test_sets = part.candidate_sets("test")
        self._hashes: dict[tuple[int | None, bool], str] = {}
        self.candidates_hash = self._candidates_hash(None, full=False)
        self.validation_hash = part.valid_sets.sha256()
        self.task_hash = hash_json(
            {
                "protocol": PROTOCOL_VERSION,
                "options": _identity(options),
                "guard": guard,
                "namespace": part.domain.namespace,
                "training": part.training_hash,
                "split": part.split_hash,
                "candidates": {"valid": self.validation_hash, "test": self.candidates_hash},
            }
        )

    def __repr__(self) -> str:
        sizes = f"{self.n_users:,} users, {self.n_items:,} items"
        return f"Task({self.target}: {sizes}, leak guard {self.guard}, {self.task_hash[:12]})"

    def training_hashes(self, item_columns: Sequence[str] = ()) -> dict[str, str]:
        """SHA-256 of what training sees of the target and of every source, by name.

        Args:
            item_columns: columns of the items that are read beside their titles.

        Raises:
            ConfigError: a domain has no such column.
        """
        return {
            part.domain.name: part.content_hash(item_columns)
            for part in (self._part, *self._sources)
        }

    def untitled(self) -> tuple[str, ...]:
        """The domains, target and sources, none of whose items has a title."""
        parts = (self._part.domain, *(source.domain for source in self._sources))
        return tuple(d.name for d in parts if d.items.n_placeholders == d.n_items)

    def train_view(
        self, *, with_sources: bool, transductive: bool = False, item_columns: Sequence[str] = ()
    ) -> TrainView:
        """What ``Method.fit`` receives; nothing in it leads back to the task or to held-out events.

        Args:
            with_sources: whether the method uses source domains.
            transductive: whether it declared that it adapts to the unlabelled test requests.
            item_columns: columns of the items that it declared to read beside their titles.

        Raises:
            ConfigError: a domain has no such column.
        """
        part = self._part
        every = np.arange(self.n_users)
        return TrainView(
            target=part.view(item_columns),
            sources=tuple(s.view(item_columns) for s in self._sources) if with_sources else (),
            test_requests=part.unlabelled(self._test_sets, every) if transductive else None,
            meta={"guard": self.guard, "train_on": self.options.train_on},
        )

    def subset(self, n: int | None) -> NDArray[np.int32]:
        """A fixed subset of the evaluated users.

        Users are ordered by a keyed hash of their raw id; the first ``n`` are taken. Subsets are
        therefore nested and do not depend on other users' data.

        Args:
            n: size, >= 1; None or a number above the number of evaluated users takes all.

        Returns:
            int32 canonical user indices, ascending.
        """
        users = self._part.split.users
        if n is None or n >= len(users):
            return users.copy()
        if n < 1:
            raise ProtocolError(f"{self.target}: a subset of {n} users; expected at least 1.")
        salt = np.uint64(salt64("subset", 0, "", self.target))
        order = np.argsort(mix64(self._part.user_hashes ^ salt), kind="stable")
        chosen: NDArray[np.int32] = np.sort(users[order[:n]])
        return chosen

    def users_hash(self, users: NDArray[np.integer]) -> str:
        """SHA-256 of a set of users (target name and raw ids; the order does not matter)."""
        ids = self._part.domain.user_ids.take(np.sort(self._checked(users)))
        arrays = hash_arrays({"offsets": ids.offsets, "data": ids.data})
        return hash_json({"domain": self.target, "users": arrays})

    def validation(self, users: NDArray[np.integer]) -> tuple[Requests, Labels]:
        """Validation requests of ``users`` with whole training histories, and their labels.

        The result holds copies only: a runner may keep it while a method fits.
        """
        return self._part.requests(self._part.valid_sets, self._rows(users))

    def validation_set(self, users: NDArray[np.integer]) -> RequestSet:
        """The same requests as :meth:`validation`, in chunks and with their identity."""
        return self._request_set(users, self._part.valid_sets, self.validation_hash)

    def test(
        self,
        users: NDArray[np.integer],
        *,
        candidate_seed: int | None = None,
        full: bool = False,
    ) -> RequestSet:
        """Test requests of ``users``: history = training + validation item.

        Args:
            users: canonical indices of evaluated users.
            candidate_seed: draw the candidates with another seed than the task's.
            full: rank the whole catalogue instead of sampled candidates.

        Raises:
            ProtocolError: a user is not evaluated, or the options allow no other candidate seed.
        """
        if candidate_seed is not None and (full or self.options.negatives in ("full", "imported")):
            kind = "full" if full else self.options.negatives
            raise ProtocolError(
                f"{self.target}: candidate seed {candidate_seed} with {kind} candidates, which are not "
                "drawn. Leave the seed out, or use `--negatives uniform`."
            )
        content = self._candidates_hash(candidate_seed, full=full)
        return self._request_set(users, self._sets(candidate_seed, full=full), content)

    def secret_test(self, users: NDArray[np.integer], seed: int) -> RequestSet:
        """Test requests whose candidates are drawn with a seed that no method can know.

        They say whether a method knows the public rule; their figures are no result.

        Args:
            users: canonical indices of evaluated users; the options must draw candidates.
            seed: a secret number.
        """
        sets = self._part.candidate_sets("test", seed=seed)
        return self._request_set(users, sets, f"secret-{hash_json(seed)}")

    def _request_set(
        self, users: NDArray[np.integer], sets: CandidateSets, content: str
    ) -> RequestSet:
        rows = self._rows(users)
        return RequestSet(
            split=sets.split,
            users=self._part.split.users[rows],
            n_candidates=sets.n_candidates,
            candidates_hash=content,
            _part=self._part,
            _sets=sets,
            _rows=rows,
        )

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The target, then the sources, with all their events."""
        return (self._part.domain, *(source.domain for source in self._sources))

    def _sets(self, seed: int | None, *, full: bool) -> CandidateSets:
        if full:
            return self._part.candidate_sets("test", full=True)
        if seed is None or seed == self.options.candidate_seed:
            return self._test_sets
        return self._part.candidate_sets("test", seed=seed)

    def _candidates_hash(self, seed: int | None, *, full: bool) -> str:
        key = (None if seed == self.options.candidate_seed else seed, full)
        if key not in self._hashes:
            self._hashes[key] = self._sets(seed, full=full).sha256()
        return self._hashes[key]

    def _checked(self, users: NDArray[np.integer]) -> NDArray[np.integer]:
        known = np.isin(users, self._part.split.users)
        if not known.all():
            wrong = int(np.asarray(users)[~known][0])
            raise ProtocolError(
                f"{self.target}: {int((~known).sum())} of {len(users)} users are not evaluated, for "
                f"example index {wrong}; {self.n_users} users are, see `Task.subset`."
            )
        return users

    def _rows(self, users: NDArray[np.integer]) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = np.searchsorted(self._part.split.users, self._checked(users))
        return rows.astype(np.int64)


def build_task(
    target: Domain,
    *,
    sources: Sequence[Domain] = (),
    siblings: Sequence[Domain] = (),
    missing_siblings: Sequence[str] = (),
    options: ProtocolOptions | None = None,
    imported: ImportedCandidates | None = None,
) -> Task:
    """Build the task of one target domain.

    Args:
        target: the domain to rank in.
        sources: source domains, for methods that use them; they do not change ``task_hash``.
        siblings: the other domains of the target's and the sources' namespaces that are on disk;
            may overlap ``sources``.
        missing_siblings: names of namespace members that are not on disk; the guard is then partial.
        options: protocol options; None for the defaults.
        imported: candidate sets for ``negatives="imported"``.

    Raises:
        ProtocolError: a domain is named twice with different content, candidates cannot be drawn, or
            the imported sets do not fit.
    """
    options = _with_file(options or ProtocolOptions(), imported)
    names = [target.name, *(source.name for source in sources)]
    if len(set(names)) != len(names):
        raise ProtocolError(
            f"target and sources must be different domains, found {', '.join(names)}."
        )
    domains = {domain.name: domain for domain in (*siblings, *sources, target)}
    splits = {name: leave_one_out(domain.sequences) for name, domain in domains.items()}
    guarded = {name: _guard(name, domains, splits, options) for name in names}
    part = DomainPart(guarded[target.name], options, imported)
    source_options = options
    if imported is not None:
        n_negatives = imported.tables["test"].n_candidates - 1
        source_options = options.model_copy(
            update={"negatives": "uniform", "n_negatives": n_negatives}
        )
    return Task(
        part,
        [DomainPart(guarded[source.name], source_options) for source in sources],
        options,
        _state(target, options, missing_siblings),
        _counts(guarded, missing_siblings, options),
    )


def _with_file(options: ProtocolOptions, imported: ImportedCandidates | None) -> ProtocolOptions:
    if (options.negatives == "imported") != (imported is not None):
        raise ProtocolError(
            f"negatives are {options.negatives!r}, but "
            + ("a candidate file was given." if imported is not None else "no candidate file was.")
            + " A candidate file and `imported` negatives go together."
        )
    if imported is None:
        return options.model_copy(update={"candidates_file": None})
    if options.candidates_file not in (None, imported.sha256):
        raise ProtocolError(
            f"{imported.source}: content hash {imported.sha256}, expected {options.candidates_file}. "
            "Use the candidate file that the options were made for."
        )
    return options.model_copy(update={"candidates_file": imported.sha256})


def _guard(
    name: str,
    domains: Mapping[str, Domain],
    splits: Mapping[str, LeaveOneOut],
    options: ProtocolOptions,
) -> GuardedDomain:
    domain = domains[name]
    others = [
        (other, splits[other.name])
        for other in sorted(domains.values(), key=lambda d: d.name)
        if other.name != name
        and domain.namespace is not None
        and other.namespace == domain.namespace
    ]
    if options.keep_leak:
        others = []
    return guard_domain(
        domain, splits[name], others, trains_on_validation=options.train_on == "train+valid"
    )


def _state(target: Domain, options: ProtocolOptions, missing: Sequence[str]) -> GuardState:
    if target.namespace is None:
        return "none"
    if options.keep_leak:
        return "off"
    return "partial" if missing else "full"


def _counts(
    guarded: Mapping[str, GuardedDomain], missing: Sequence[str], options: ProtocolOptions
) -> dict[str, Any]:
    with_valid = options.train_on == "train+valid"
    return {
        "missing_siblings": sorted(missing),
        "domains": {
            name: {
                "training_events": int(g.split.is_train.sum()) + with_valid * len(g.split.users),
                "dropped": int(g.drop.sum()),
                "dropped_by": {other: dict(counts) for other, counts in g.dropped_by.items()},
                "hidden_validation_requests": int(g.exposed.sum()),
            }
            for name, g in guarded.items()
        },
    }


def _identity(options: ProtocolOptions) -> dict[str, Any]:
    """Options that matter; values that the kind of negatives ignores must not split identities."""
    values = options.model_dump(mode="json", exclude_none=True)
    if options.negatives in ("full", "imported"):
        del values["n_negatives"], values["candidate_seed"]
    return values
