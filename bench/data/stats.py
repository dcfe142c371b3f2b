"""Figures that describe a domain, and how much two domains share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.data.domain import Domain

__all__ = ["DomainStats", "Overlap", "domain_stats", "overlap"]


@dataclass(frozen=True, slots=True)
class DomainStats:
    """What `bench data stats` shows.

    Attributes:
        users, items, events: counts.
        density: events / (users x items), in [0, 1].
        length_mean, length_median, length_min, length_max: events per user.
        item_events_median: events per item.
        items_below_5: items with fewer than 5 events.
        title_words_mean: words (blank-separated) per title, placeholders included.
        placeholder_titles: items without a title of their own.
        equal_titles: items whose case-folded title another item has too.
        tied_events: events whose time equals that of another event of the same user.
        time_first, time_last: smallest and largest time, in the unit of the source.
    """

    users: int
    items: int
    events: int
    density: float
    length_mean: float
    length_median: float
    length_min: int
    length_max: int
    item_events_median: float
    items_below_5: int
    title_words_mean: float
    placeholder_titles: int
    equal_titles: int
    tied_events: int
    time_first: float
    time_last: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """Raw ids that two domains share, and events (user, item) that occur in both."""

    users: int
    items: int
    events: int


def domain_stats(domain: Domain) -> DomainStats:
    """Compute all figures of :class:`DomainStats`."""
    lengths = domain.sequences.lengths
    per_item = np.bincount(domain.sequences.items, minlength=domain.n_items)
    rows = domain.sequences.rows
    same = (rows[1:] == rows[:-1]) & (domain.timestamps[1:] == domain.timestamps[:-1])
    tied = np.zeros(domain.n_events, dtype=np.bool_)
    tied[1:] |= same
    tied[:-1] |= same
    titles = domain.items.titles.to_list()
    folded, counts = np.unique([title.casefold() for title in titles], return_counts=True)
    return DomainStats(
        users=domain.n_users,
        items=domain.n_items,
        events=domain.n_events,
        density=domain.n_events / (domain.n_users * domain.n_items),
        length_mean=float(lengths.mean()),
        length_median=float(np.median(lengths)),
        length_min=int(lengths.min()),
        length_max=int(lengths.max()),
        item_events_median=float(np.median(per_item)),
        items_below_5=int((per_item < 5).sum()),
        title_words_mean=float(np.mean([len(title.split()) for title in titles])),
        placeholder_titles=domain.items.n_placeholders,
        equal_titles=int(counts[counts > 1].sum()) if len(folded) else 0,
        tied_events=int(tied.sum()),
        time_first=float(domain.timestamps.min()),
        time_last=float(domain.timestamps.max()),
    )


def overlap(first: Domain, second: Domain) -> Overlap:
    """Count the raw ids and the (user, item) events that two domains share."""
    users = set(first.user_ids) & set(second.user_ids)
    items = set(first.items.ids) & set(second.items.ids)
    events = _events(first, users, items) & _events(second, users, items)
    return Overlap(len(users), len(items), len(events))


def _events(domain: Domain, users: set[str], items: set[str]) -> set[tuple[str, str]]:
    item_ids = domain.items.ids.to_list()
    return {
        (user, item_ids[index])
        for row, user in enumerate(domain.user_ids)
        if user in users
        for index in domain.sequences[row].tolist()
        if item_ids[index] in items
    }
