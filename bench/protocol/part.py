"""One domain inside a task: its guarded training data, its histories, its candidate sets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Domain, Sequences
from bench.data.strings import StringColumn
from bench.errors import ConfigError, ProtocolError
from bench.io import hash_arrays, hash_json
from bench.mixing import UInt64Array
from bench.protocol.candidate_sets import CandidateSets, DrawnSets, FixedSets, FullSets
from bench.protocol.candidates import Population, eligible_groups, population
from bench.protocol.guard import GuardedDomain
from bench.protocol.imported import ImportedCandidates, align
from bench.protocol.keys import id_hashes
from bench.protocol.left_out import LeftOut, leave_out
from bench.protocol.split import prefix_events, prefixes
from bench.protocol.titles import title_groups
from bench.protocol.types import DomainView, Labels, ProtocolOptions, Requests, Split

__all__ = ["DomainPart"]

VALIDATION_SEED = 0
"""Validation candidates never change with the candidate seed: model selection stays the same."""


class DomainPart:
    """A domain under the protocol.

    Users with fewer eligible items than a candidate set has negatives (in full ranking: with none at
    all) are not evaluated: there is nothing to rank their held-out item among. Their training events
    stay, so that what is trained does not depend on the candidates.

    Args:
        guarded: domain, split and what the guard drops.
        options: the protocol options.
        imported: candidate sets from a file, for the target of an ``imported`` task.

    Attributes:
        split: the split, without the users that are left out.
        left_out: those users; None if there are none.

    Raises:
        ProtocolError: a user has an item twice, nobody can be evaluated, or the imported sets do not
            fit.
    """

    def __init__(
        self,
        guarded: GuardedDomain,
        options: ProtocolOptions,
        imported: ImportedCandidates | None = None,
    ) -> None:
        self.domain: Domain = guarded.domain
        self.options = options
        self._guarded = guarded
        self._imported = imported
        self._require_distinct_events()
        if not len(guarded.split.users):
            raise ProtocolError(
                f"{self.domain.name}: none of {self.domain.n_users} users has the 3 events that "
                "leave-one-out needs (train, validation, test)."
            )
        kept, self.left_out = self._with_enough_items()
        self.split = guarded.split if self.left_out is None else guarded.split.only(kept)
        self._exposed = guarded.exposed[kept]

    @property
    def _n_drawn(self) -> int | None:
        """Negatives that are drawn per user; None if no set is drawn."""
        if self._imported is None:
            return None if self.options.negatives == "full" else self.options.n_negatives
        tables = self._imported.tables
        return None if "valid" in tables else tables["test"].n_candidates - 1

    def _with_enough_items(self) -> tuple[NDArray[np.bool_], LeftOut | None]:
        """Which users of the split have enough negatives, bool, and what is known of the others."""
        users, sequences = self._guarded.split.users, self.domain.sequences
        lengths = sequences.lengths[users]
        every = np.ones(len(users), dtype=np.bool_)
        if self._imported is not None and self._n_drawn is None:
            return every, None
        if self._n_drawn is None:
            return leave_out(self.domain, users, self.domain.n_items - lengths, None)
        pop = self._population
        if int(pop.drawable.sum()) - int(lengths.max()) >= self._n_drawn:
            return every, None
        history = prefixes(sequences, users, drop=0)
        groups = Sequences(history.offsets, self._groups[history.items])
        return leave_out(self.domain, users, eligible_groups(pop, groups), self._n_drawn)

    @cached_property
    def training(self) -> Sequences:
        """Guarded training sequences of all users, own memory; rows may be empty."""
        return self.domain.sequences.select(self._is_trained)

    @property
    def _is_trained(self) -> NDArray[np.bool_]:
        """Which events are trained on, bool, one per event."""
        keep = self.split.is_train & ~self._guarded.drop
        if self.options.train_on == "train+valid":
            valid_events = self.domain.sequences.offsets[1:][self._guarded.split.users] - 2
            keep[valid_events] = ~self._guarded.drop[valid_events]
        return keep

    @cached_property
    def training_hash(self) -> str:
        """SHA-256 of ids, titles and guarded training sequences."""
        return hash_json(
            {
                "domain": self.domain.name,
                "ids": self.ids_hash,
                "titles": hash_arrays(
                    {
                        "offsets": self.domain.items.titles.offsets,
                        "data": self.domain.items.titles.data,
                    }
                ),
                "training": hash_arrays(
                    {"offsets": self.training.offsets, "items": self.training.items}
                ),
            }
        )

    def content_hash(self, item_columns: Sequence[str] = ()) -> str:
        """SHA-256 of what training sees: :attr:`training_hash`, with further columns of the items.

        Raises:
            ConfigError: the items have no such column.
        """
        if not item_columns:
            return self.training_hash
        columns = self._item_columns(item_columns)
        hashes = {
            name: hash_arrays({"offsets": column.offsets, "data": column.data})
            for name, column in columns.items()
        }
        return hash_json({"training": self.training_hash, "item_columns": hashes})

    def _item_columns(self, names: Sequence[str]) -> dict[str, StringColumn]:
        known = self.domain.items.extra
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"{self.domain.name}: its items have no column {name!r}, which the method was set to "
                    f"read; they have {', '.join(['title', *known])}. Choose among these, or prepare the "
                    "domain from a file with that column."
                )
        return {name: known[name] for name in names}

    @cached_property
    def ids_hash(self) -> str:
        """SHA-256 of raw user and item ids."""
        users, items = self.domain.user_ids, self.domain.items.ids
        return hash_arrays(
            {
                "users": users.data,
                "user_offsets": users.offsets,
                "items": items.data,
                "item_offsets": items.offsets,
            }
        )

    @cached_property
    def split_hash(self) -> str:
        """SHA-256 of who is evaluated and of the held-out items, by index into the hashed ids."""
        return hash_arrays(
            {"users": self.split.users, "valid": self.split.valid, "test": self.split.test}
        )

    @cached_property
    def user_hashes(self) -> UInt64Array:
        """Id hashes of the evaluated users, uint64, shape ``(k,)``."""
        return id_hashes(self.domain.user_ids)[self.split.users]

    @cached_property
    def _groups(self) -> NDArray[np.int32]:
        return title_groups(self.domain.items.titles)

    @cached_property
    def _history(self) -> Sequences:
        """Whole histories (train, validation, test) of the evaluated users, as items."""
        return prefixes(self.domain.sequences, self.split.users, drop=0)

    @cached_property
    def _history_groups(self) -> Sequences:
        return Sequences(self._history.offsets, self._groups[self._history.items])

    @cached_property
    def _population(self) -> Population:
        weights = None
        if self.options.negatives == "popularity":
            keep = self._guarded.split.is_train & ~self._guarded.drop
            items = self.domain.sequences.items[keep]
            weights = np.bincount(items, minlength=self.domain.n_items).astype(np.int64)
        return population(self._groups, weights, domain=self.domain.name)

    def candidate_sets(
        self, split: Split, *, seed: int | None = None, full: bool | None = None
    ) -> CandidateSets:
        """Candidate sets of a split.

        Args:
            split: ``valid`` or ``test``.
            seed: another candidate seed for drawn *test* sets; None for the protocol's own.
            full: rank the whole catalogue; None for what the options say.
        """
        positives = self.split.valid if split == "valid" else self.split.test
        name, ids_hash = self.domain.name, self.ids_hash
        if full if full is not None else self.options.negatives == "full":
            return FullSets(
                domain=name,
                split=split,
                positives=positives,
                ids_hash=ids_hash,
                n_items=self.domain.n_items,
                history=self._history,
            )
        table = None if self._imported is None else self._imported.tables.get(split)
        if table is not None and seed is None:
            candidates, position = align(
                table, self.domain, self.split.users, positives, self._history, split
            )
            return FixedSets(
                domain=name,
                split=split,
                positives=positives,
                ids_hash=ids_hash,
                candidates=candidates,
                position=position,
            )
        if split == "valid":
            seed = VALIDATION_SEED
        n_negatives = self.options.n_negatives
        if self._imported is not None:
            n_negatives = self._imported.tables["test"].n_candidates - 1
        return DrawnSets(
            domain=name,
            split=split,
            positives=positives,
            ids_hash=ids_hash,
            pop=self._population,
            seed=self.options.candidate_seed if seed is None else seed,
            n_negatives=n_negatives,
            user_hashes=self.user_hashes,
            history=self._history_groups,
        )

    @cached_property
    def valid_sets(self) -> CandidateSets:
        """Validation candidates."""
        return self.candidate_sets("valid")

    def requests(self, sets: CandidateSets, rows: NDArray[np.integer]) -> tuple[Requests, Labels]:
        """Requests with whole histories for positions ``rows`` of the evaluated users."""
        candidates, labels = sets.take(rows)
        return self._with_history(sets, rows, candidates), labels

    def unlabelled(self, sets: CandidateSets, rows: NDArray[np.integer]) -> Requests:
        """As :meth:`requests`, without labels."""
        return self._with_history(sets, rows, sets.unlabelled(rows))

    def _with_history(
        self, sets: CandidateSets, rows: NDArray[np.integer], candidates: NDArray[np.int32]
    ) -> Requests:
        users = self.split.users[rows]
        drop = 2 if sets.split == "valid" else 1
        offsets, events = prefix_events(self.domain.sequences, users, drop)
        return self._as_requests(users, offsets, events, candidates)

    def _as_requests(
        self,
        users: NDArray[np.int32],
        offsets: NDArray[np.int64],
        events: NDArray[np.integer],
        candidates: NDArray[np.int32],
    ) -> Requests:
        """Requests whose histories are these events, in memory of their own."""
        history = Sequences(offsets, np.array(self.domain.sequences.items[events], dtype=np.int32))
        times = np.array(self.domain.timestamps[events], dtype=np.float64)
        return Requests(self.domain.name, users, history, candidates, times)

    def view(self, item_columns: Sequence[str] = ()) -> DomainView:
        """What training sees of this domain: copies in memory, which no file of the domain backs.

        Args:
            item_columns: columns of the items that are shown beside their titles.

        The validation requests leave out users whose guarded history is empty and users whose
        validation event is a test event of another domain.

        Raises:
            ConfigError: the items have no such column.
        """
        self._item_columns(item_columns)
        users = self.split.users
        keep = self.split.is_train & ~self._guarded.drop
        numbers = np.arange(self.domain.n_events, dtype=np.int32)
        events = Sequences(self.domain.sequences.offsets, numbers).select(keep).take(users)
        rows = np.flatnonzero((events.lengths > 0) & ~self._exposed)
        seen = events.take(rows)
        validation = self._as_requests(
            users[rows], seen.offsets, seen.items, self.valid_sets.unlabelled(rows)
        )
        return DomainView(
            name=self.domain.name,
            items=self.domain.items.copy(item_columns),
            users=np.arange(self.domain.n_users, dtype=np.int32),
            sequences=Sequences(self.training.offsets.copy(), self.training.items.copy()),
            validation=validation,
            training_hash=self.content_hash(item_columns),
            timestamps=np.array(self.domain.timestamps[self._is_trained], dtype=np.float64),
        )

    def _require_distinct_events(self) -> None:
        rows, items = self.domain.sequences.rows, self.domain.sequences.items
        pairs = np.sort(rows * self.domain.n_items + items)
        twice = np.flatnonzero(pairs[1:] == pairs[:-1])
        if len(twice):
            user, item = divmod(int(pairs[twice[0]]), self.domain.n_items)
            raise ProtocolError(
                f"{self.domain.name}: {len(twice)} repeated (user, item) events, for example user "
                f"{self.domain.user_ids[user]!r} with item {self.domain.items.ids[item]!r}. A held-out "
                "item must not be in the user's own training data: keep the first event of each pair, "
                "as the readers of bench.data do."
            )
