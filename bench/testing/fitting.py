"""Checks that compare fits: seeds, leaks, side effects, files, and whether anything is learned."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from bench.enclosure import arrays_of, trained_silently
from bench.evaluation import metric_per_user, random_row
from bench.methods import Method
from bench.testing.answers import outcomes_of
from bench.testing.results import CheckFailed, CheckSkipped
from bench.testing.scoring import TOLERANCE, distance, same_scores
from bench.testing.session import Fitted, Session
from bench.testing.tripwire import held_out_paths

__all__ = [
    "check_fits",
    "check_global_state",
    "check_held_out_changed",
    "check_held_out_reach",
    "check_inputs",
    "check_learns",
    "check_prints",
    "check_same_seed",
    "check_save_load",
    "check_seed_used",
    "check_writes",
]

MARGIN = 0.2
"""How much NDCG@5 above random the planted pattern must be learned (random 0.098, ideal about 0.87)."""

_SAFE_FILES = {".safetensors", ".npy", ".json"}


def check_fits(session: Session) -> str:
    """``fit`` runs on a small task."""
    session.base()
    return ""


def check_same_seed(session: Session) -> str:
    """Two fits with one seed give bit-equal scores, whatever the global generators hold."""
    first = session.base()
    second = session.fit("again", lambda: session.small_task, shift_globals=True)
    difference = same_scores(session, first, second)
    if difference:
        raise CheckFailed(
            f"two fits with seed 0 score differently ({difference}). Draw from a generator made of "
            "context.seed (numpy.random.default_rng, torch.Generator), never from the global ones, and "
            "initialise weights from it too."
        )
    return ""


def check_seed_used(session: Session) -> str:
    """Another seed changes a trainable method and no other; whoever draws or runs an optimiser is trainable."""
    base = session.base()
    trainable = session.capabilities.trainable
    if not trainable:
        _require_no_draws(session, base)
    other = session.fit("other-seed", lambda: session.small_task, seed=1)
    difference = same_scores(session, base, other)
    if trainable and not difference:
        raise CheckFailed(
            "the method declares `trainable`, but seeds 0 and 1 give the same scores. Use context.seed, "
            "or leave the flag out if nothing is random."
        )
    if difference and not trainable:
        raise CheckFailed(
            f"seeds 0 and 1 give different scores ({difference}), but the capabilities do not say "
            "`trainable`: the method would be shown as deterministic. Set Capabilities(trainable=True)."
        )
    return ""


def _require_no_draws(session: Session, base: Fitted) -> None:
    """Fail if a fit that is declared deterministic trains, or depends on random numbers."""
    if session.steps:
        raise CheckFailed(trained_silently(session.cls.name, session.steps))
    shifted = session.fit("other-draws", lambda: session.small_task, shift_draws=True)
    moved = distance(session.values(base), session.values(shifted))
    if moved > TOLERANCE:
        raise CheckFailed(
            f"fit draws random numbers from a seed of its own: with another one the scores change by up to "
            f"{moved:.2g}, but the capabilities do not say `trainable`, so that the method would be shown "
            "as deterministic. Set Capabilities(trainable=True) and make the generators of context.seed."
        )


def check_inputs(session: Session) -> str:
    """``fit`` and ``score`` leave view and requests as they are; the arrays were read-only."""
    _after_both(session)
    if session.input_faults:
        raise CheckFailed(f"{_listed(session.input_faults)}. Work on copies.")
    return ""


def check_global_state(session: Session) -> str:
    """``fit`` and ``score`` leave the process as it was: generators, argv, folder, environment, torch."""
    _after_both(session)
    if session.state_faults:
        raise CheckFailed(
            f"{_listed(session.state_faults)}. Use local generators and settings, or put back what a "
            "library changes (torch.random.fork_rng, try/finally)."
        )
    return ""


def check_writes(session: Session) -> str:
    """Files are written below ``context.scratch`` only."""
    _after_both(session)
    if session.write_faults:
        raise CheckFailed(
            f"{_listed(session.write_faults)}. Write below context.scratch, which is private to the "
            "run and kept until the run is complete."
        )
    return ""


def check_prints(session: Session) -> str:
    """``fit`` and ``score`` print nothing to standard output, which carries results alone."""
    _after_both(session)
    if session.print_faults:
        raise CheckFailed(
            f"{_listed(session.print_faults)}. Use context.log and context.progress, or switch the "
            "library's output off; `bench run --json` has to stay readable."
        )
    return ""


def _after_both(session: Session) -> None:
    # A second fit and score: the first imports libraries, which hides what they change.
    session.values(session.base())
    session.values(session.fit("again", lambda: session.small_task, shift_globals=True))


def check_held_out_reach(session: Session) -> str:
    """No test event, test request or validation label is reachable from view, context or fitted method."""
    if session.capabilities.transductive:
        raise CheckSkipped("transductive: it is given the unlabelled test requests, and marked")
    wire = session.tripwire
    fitted = session.fit("tripwire", lambda: wire.task)
    found = [
        line
        for value, name in (
            (fitted.view, "view"),
            (fitted.context, "context"),
            (fitted.method, "method"),
        )
        for line in held_out_paths(value, name, wire)
    ]
    if found:
        raise CheckFailed(
            f"held-out data in reach: {_listed(found)}. fit must see neither the test half nor the "
            "validation labels; ask context.validate."
        )
    return ""


def check_held_out_changed(session: Session) -> str:
    """Other test items for the same training data give the identical fit."""
    if session.capabilities.transductive:
        raise CheckSkipped("transductive: it is given the unlabelled test requests, and marked")
    changed = session.fit("changed", lambda: session.changed_task)
    base = session.base()
    views = [arrays_of(fitted.view, "view") for fitted in (base, changed)]
    differing = [
        name for name, array in views[0].items() if not np.array_equal(array, views[1][name])
    ]
    if differing:
        raise CheckFailed(
            f"the training view depends on the test items ({', '.join(differing)}): a fault of the "
            "protocol, not of the method; please report it."
        )
    difference = same_scores(session, base, changed)
    if difference:
        raise CheckFailed(
            f"the fit changes with the test items ({difference}), so held-out data reach it by a road "
            "other than the view. Learn from view and context alone."
        )
    return ""


def check_save_load(session: Session) -> str:
    """What ``save`` writes restores the scores, in files that are safe to open."""
    cls = session.cls
    if cls.save is Method.save and cls.load is Method.load:
        raise CheckSkipped("save and load are not implemented: --keep-model would keep nothing")
    fitted = session.base()
    with tempfile.TemporaryDirectory(dir=session.folder) as name:
        folder = Path(name)
        with session.enclosed("save", fitted.context, 0, folder):
            fitted.method.save(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        unsafe = [path.name for path in files if path.suffix not in _SAFE_FILES]
        if unsafe:
            raise CheckFailed(
                f"save wrote {_listed(unsafe)}; expected {', '.join(sorted(_SAFE_FILES))} only, because "
                "other formats can run code when they are opened."
            )
        for path in (path for path in files if path.suffix == ".npy"):
            try:
                np.load(path, allow_pickle=False)
            except ValueError as error:
                raise CheckFailed(
                    f"save wrote {path.name} with pickled objects: {error}"
                ) from error
        with session.enclosed("load", fitted.context, 0, folder):
            again = cls(session.config)
            again.load(folder)
        expected = session.values(fitted)
        copy = type(fitted)(again, fitted.context, fitted.view, fitted.task)
        if not np.allclose(session.values(copy), expected, rtol=1e-6, atol=1e-6, equal_nan=True):
            raise CheckFailed(
                "a loaded method scores differently from the saved one. Everything that score reads "
                "must be in the files, or follow from the configuration."
            )
    return f"{len(files)} files"


def check_learns(session: Session) -> str:
    """Finds a planted pattern: NDCG@5 at least 0.2 above random on users who walk along a cycle."""
    task = session.large_task
    fitted = session.fit("learns", lambda: task)
    outcomes = outcomes_of(session, fitted, task.test(task.subset(None)))
    figure = float(metric_per_user(outcomes, "ndcg@5").mean())
    random = float(random_row(task.test(task.subset(1)).n_candidates)["ndcg@5"])
    if figure < random + MARGIN:
        raise CheckFailed(
            f"NDCG@5 {figure:.3f} on a domain where the next item follows from the newest one; random "
            f"is {random:.3f}, expected at least {random + MARGIN:.3f}. Check the direction of the "
            "scores (higher is better), item indices (0-based) and the number of training steps."
        )
    return f"NDCG@5 {figure:.3f} (random {random:.3f})"


def _listed(lines: list[str], most: int = 5) -> str:
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more
