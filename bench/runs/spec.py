"""What a run is asked to be: every choice a user can make, frozen, and its identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from bench.io import hash_json
from bench.protocol.types import ProtocolOptions
from bench.runs.imported import Imported
from bench.runs.privacy import base_name

__all__ = ["RUN_ID_DIGITS", "RunSpec", "identity_of", "portable_config", "run_id"]

RUN_ID_DIGITS = 16


class RunSpec(BaseModel):
    """One cell of a matrix: a method on a target with a seed.

    Attributes:
        method: registered name, ``recbole:NAME`` or ``path/to/file.py:Class``.
        target: name of the domain whose users are ranked.
        sources: source domains; None = the rest of the target's study group. Methods that need no
            sources get none, whatever is given here.
        profile: named hyper-parameters of the method, for example ``cpu`` or ``paper``.
        seed: training seed, >= 0 (64 bits, as all seeds); methods without random training always run with 0.
        init_seed: seed of adapter initialisation, >= 0, fixed per study.
        overrides: configuration values that differ from the profile.
        protocol: split, negatives, guard and test-candidate seed (all part of ``task_hash``).
        candidates: candidate file, only with ``protocol.negatives = "imported"``.
        limit_users: how many test users are scored (a nested hash-chosen subset), None = all.
        extra_candidate_seeds: further test-candidate seeds scored by the same fit.
        full_ranking: also rank the whole catalogue with the same fit.
        device: torch device string.
        dtype: number format of the model.
        threads: CPU threads, >= 1; None = what the method gains from, within what the process may use.
        ties: how events of equal time are ordered: as in the ``file``, or by a keyed ``hash``.
        on_error: at a malformed line of a domain's files: ``raise``, or ``skip`` and count.
        data_root: folder with ready domains; None = ``BENCH_DATA_ROOT`` and the caches.
        keep_model: whether the fitted model is stored with the run.
        imported: what is declared of scores that another program computed; None for all others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = Field(min_length=1)
    target: str = Field(min_length=1)
    sources: tuple[str, ...] | None = None
    profile: str = "cpu"
    seed: int = Field(default=0, ge=0, lt=2**63)
    init_seed: int = Field(default=0, ge=0, lt=2**63)
    overrides: Mapping[str, Any] = Field(default_factory=dict)
    protocol: ProtocolOptions = ProtocolOptions()
    candidates: Path | None = None
    limit_users: int | None = Field(default=None, ge=1)
    extra_candidate_seeds: tuple[int, ...] = ()
    full_ranking: bool = False
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = Field(default=None, ge=1)
    ties: Literal["file", "hash"] = "file"
    on_error: Literal["raise", "skip"] = "raise"
    data_root: Path | None = None
    keep_model: bool = False
    imported: Imported | None = None

    @field_validator("extra_candidate_seeds")
    @classmethod
    def _seeds_are_distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(seed < 0 for seed in value):
            raise ValueError("candidate seeds must be >= 0")
        return tuple(dict.fromkeys(value))

    @property
    def label(self) -> str:
        """One line for people: method, target and seed."""
        return f"{self.method} on {self.target}, seed {self.seed}"

    def portable(self) -> dict[str, Any]:
        """The specification as JSON values, without the paths of this machine and what a run imports."""
        return self.model_dump(mode="json", exclude={"data_root", "candidates", "imported"})


def portable_config(config: Mapping[str, Any], content: Mapping[str, str]) -> dict[str, Any]:
    """A configuration without folders: what is known by its content keeps the last part of its path.

    Args:
        config: settings, nested or under dotted names.
        content: SHA-256 by dotted setting, see :func:`run_id`.
    """
    portable = {
        key: portable_config(
            value, {k[len(key) + 1 :]: v for k, v in content.items() if k.startswith(f"{key}.")}
        )
        if isinstance(value, Mapping)
        else value
        for key, value in config.items()
    }
    return portable | {
        key: base_name(value)
        for key, value in config.items()
        if key in content and isinstance(value, str)
    }


def identity_of(manifest: Mapping[str, Any]) -> str:
    """The run id that the fields of a manifest give.

    Raises:
        KeyError: a field is absent.
    """
    method, task = manifest["method"], manifest["task"]
    return run_id(
        task_hash=task["task_hash"],
        users_hash=manifest["users"]["users_hash"],
        method=method["name"],
        version=str(method["version"]),
        plugin_sha256=method["plugin_sha256"],
        config=manifest["config"],
        sources=[(name, task["source_hashes"][name]) for name in manifest["sources"]],
        seed=manifest["seed"],
        init_seed=int(manifest["init_seed"]),
        dtype=str(manifest["dtype"]),
        content=method.get("content") or {},
    )


def run_id(
    *,
    task_hash: str,
    users_hash: str,
    method: str,
    version: str,
    plugin_sha256: str | None,
    config: Mapping[str, Any],
    sources: Sequence[tuple[str, str]],
    seed: int,
    init_seed: int,
    dtype: str,
    content: Mapping[str, str],
) -> str:
    """Identity of a run: 16 hex digits of a SHA-256 over everything that may change its scores.

    Device, threads and folders are not in it: they change scores by rounding at most. The same holds
    for additional request sets, which are scored by the same fit.

    Args:
        task_hash: identity of the task (guarded data, split, candidates, options).
        users_hash: identity of the set of scored users.
        method: the method's own ``name``.
        version: the method's ``version``.
        plugin_sha256: SHA-256 of a plugin's source file, None for built-in methods.
        config: the resolved configuration as JSON values; of a path that ``content`` covers only the
            last part counts, so that a file may lie anywhere.
        sources: name and guarded training-data hash of every source, in the user's order.
        seed: training seed (0 for methods without random training).
        init_seed: seed of adapter initialisation.
        dtype: number format.
        content: SHA-256 of what the configuration names: files by setting, further item columns.
    """
    identity: dict[str, Any] = {
        "identity": 1,
        "task_hash": task_hash,
        "users_hash": users_hash,
        "method": method,
        "version": version,
        "plugin_sha256": plugin_sha256,
        "config": portable_config(config, content),
        "sources": [list(source) for source in sources],
        "seed": seed,
        "init_seed": init_seed,
        "dtype": dtype,
    }
    if content:
        identity["content"] = dict(content)
    return hash_json(identity)[:RUN_ID_DIGITS]
