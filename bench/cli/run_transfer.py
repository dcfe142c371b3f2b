"""The end of ``bench run`` for methods with sources: did the sources help?"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bench.cli.compare_reports import against_text
from bench.cli.output import echo, print_table
from bench.cli.rivals import PRIMARY
from bench.cli.steady import steadily
from bench.report.plain import difference_text, p_text

if TYPE_CHECKING:
    from bench.methods import Method
    from bench.report.transfer import Gain, Missing
    from bench.runs.rivals import Rivals
    from bench.runs.store import RunStore
    from bench.runs.stored import StoredRun

__all__ = ["print_transfer_of"]


@steadily
def print_transfer_of(runs: Iterable[StoredRun], rivals: Rivals) -> None:
    """Gain of the runs with sources over target-only and over the best single source.

    Compared is what is stored or published over the same users; if a baseline is missing, the
    command that makes it is printed.

    Args:
        runs: those that have just ended, of any target.
        rivals: their store, and where else runs are looked for.
    """
    from bench.report.transfer import SINGLE_SOURCE, transfer_of

    groups: dict[tuple[str, str], list[StoredRun]] = {}
    for run in runs:
        if run.sources and run.method != SINGLE_SOURCE:
            groups.setdefault((run.task_hash, run.users_hash), []).append(run)
    gains: list[Gain] = []
    missing: list[Missing] = []
    for (task_hash, _), found in groups.items():
        report, lacking = transfer_of(
            found, rivals.of_task(found[0].target, task_hash), metric=PRIMARY
        )
        gains += report.gains
        missing += lacking
    if gains:
        echo(f"\nGain from the sources, {PRIMARY.upper()} over the same users and stored seeds")
        print_table(
            ("method", "against", "gain [95 % CI]", "adjusted p", "detectable", "transfer"),
            [
                (
                    gain.method,
                    against_text(gain),
                    difference_text(gain.test),
                    p_text(gain.adjusted_p),
                    f"{gain.test.minimum_detectable:.4f}",
                    gain.verdict,
                )
                for gain in gains
            ],
        )
    for one in missing:
        command = _command(one, rivals.store)
        if command:
            echo(f"No {one.against} run to compare {one.method} with: {command}")


def _command(missing: Missing, store: RunStore) -> str:
    """The command that makes the missing baseline on the same task, users, seeds and settings.

    "" if there is none: a method that cannot do without sources.
    """
    from bench.io import store_root
    from bench.report.transfer import SINGLE_SOURCE, TARGET_ONLY

    run = missing.runs[0]
    alone = missing.against == "target-only"
    general = TARGET_ONLY if alone else SINGLE_SOURCE
    method = str(run.manifest.get("spec", {}).get("method", run.method))
    like_general = _uses_adapters(method)
    without_sources = {} if like_general or not alone else _settings_alone(method)
    if alone and not like_general and not without_sources:
        return ""
    words = ["--method", general if like_general else method, "--target", run.target]
    if not alone:
        words += ["--sources", ",".join(run.sources if like_general else run.sources[:1])]
    if run.profile != "cpu":
        words += ["--profile", run.profile]
    seeds = [one.seed for one in missing.runs]
    if seeds != [0]:
        words += ["--seed", ",".join(map(str, seeds))]
    overrides = run.manifest.get("spec", {}).get("overrides") or {}
    for key, value in {**overrides, **without_sources}.items():
        if without_sources and key.startswith("pretrain") and key not in without_sources:
            continue
        if not like_general or key.partition(".")[0] in _settings_of(general):
            words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    if run.n_users < run.manifest["task"]["n_users"]:
        words += ["--limit-users", str(run.n_users)]
    words += _protocol(run.manifest["task"].get("options", {}))
    if store.root != store_root():
        words += ["--store", str(store.root)]
    return f"bench run {shlex.join(words)}"


def _uses_adapters(method: str) -> bool:
    """Whether a method trains what target-only and source-only train."""
    from bench.llm.adapters import AdapterStore

    found = _class_of(method)
    return found is not None and isinstance(found.adapter_store(), AdapterStore)


def _settings_alone(method: str) -> Mapping[str, Any]:
    """Settings with which a method learns from its target alone; {} if it cannot."""
    found = _class_of(method)
    return {} if found is None else found.alone


def _class_of(method: str) -> type[Method] | None:
    """The class of a method, or None if it is not registered here."""
    from bench.errors import BenchError
    from bench.methods.registry import resolve
    from bench.runs.prints import prints_aside

    try:
        with prints_aside():
            return resolve(method)
    except BenchError:
        return None


def _settings_of(method: str) -> Collection[str]:
    """Names of a built-in method's settings."""
    from bench.methods.registry import resolve

    return resolve(method).Config.model_fields.keys()


def _protocol(options: Mapping[str, Any]) -> list[str]:
    """Options of the command line for what differs from the standard protocol."""
    from bench.report.select import DEFAULT_OPTIONS

    different = {key: value for key, value in options.items() if value != DEFAULT_OPTIONS.get(key)}
    words: list[str] = []
    if different.get("negatives") == "imported":
        # The file itself is not on record, only what it holds.
        return ["--candidates", "FILE"]
    for key in ("negatives", "n_negatives", "candidate_seed", "train_on"):
        if key in different:
            words += [f"--{key.replace('_', '-')}", str(different[key])]
    return [*words, "--keep-leak"] if different.get("keep_leak") else words
