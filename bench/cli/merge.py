"""``bench merge``: several LoRA adapters to one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.complete import merger_names
from bench.cli.output import echo, human_seconds, print_json
from bench.errors import ConfigError, MissingAdapterError, ResultError

__all__ = ["merge"]


def merge(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER...",
            help="PEFT folders, or ids of `bench adapters list`, in order (ext-sub: the expert first).",
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            help="One of: {mergers}.",
            autocompletion=merger_names,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder of the merged adapter.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one option of the method (space, density, rank, ...); repeatable.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="W1,W2,...", help="One weight per adapter; short for --set weights."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of masks, of k-means and of start vectors.")] = 0,
    assume_shared_init: Annotated[
        bool,
        typer.Option(
            "--assume-shared-init",
            help="Merge factors although the adapters' initialisations are unknown or differ.",
        ),
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="ADAPTER",
            help="Common initialisation (folder or id), for factor_reference=init.",
        ),
    ] = None,
    assume_same_base: Annotated[
        bool,
        typer.Option(
            "--assume-same-base",
            help="Merge although the adapters name different base models.",
        ),
    ] = False,
    dtype: Annotated[
        str,
        typer.Option(
            help="Number format of the result: float32, or bfloat16 or float16, which round once more."
        ),
    ] = "float32",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the metadata of the result as JSON.")
    ] = False,
) -> None:
    """Merge LoRA adapters of one base model.

    The result loads in PEFT and vLLM.     Averages of factors need adapters trained from one initialisation; space=product, task-arithmetic
    and ext-sub do not.
    """
    import time

    from bench.merging import make_config, read_adapter, write_adapter
    from bench.merging import merge as merge_adapters
    from bench.methods.config import parse_set

    values = parse_set(assignments or [])
    if weights is not None:
        if "weights" in values:
            raise ConfigError("--weights and --set weights: give one of them.")
        values["weights"] = _numbers(weights)
    config = make_config(method, values)
    if out.exists():
        raise ResultError(f"{out} already exists; choose another folder or remove it first.")
    started = time.monotonic()
    read = [read_adapter(_folder(name)) for name in adapters]
    merged = merge_adapters(
        read,
        method,
        config,
        seed=seed,
        assume_shared_init=assume_shared_init,
        assume_same_base=assume_same_base,
        dtype=dtype,
        init=None if init is None else read_adapter(_folder(init)),
    )
    write_adapter(merged, out)
    for sentence in merged.metadata["warnings"]:
        echo(f"note: {sentence}", err=True)
    if as_json:
        print_json({**merged.metadata, "path": str(out), "r": merged.config.r})
        return
    echo(_summary(merged.config.r, merged.metadata["truncation"]))
    echo(f"wrote {out} in {human_seconds(time.monotonic() - started)}", err=True)


def _folder(name: str) -> Path:
    """The folder that ``name`` is, else that of the stored adapter of this id or these first digits.

    Raises:
        ConfigError: it is neither.
        ResultError: the stored adapter is damaged.
    """
    from bench.llm.adapter_files import check_files
    from bench.llm.adapters import AdapterStore

    if Path(name).exists() or not re.fullmatch(r"[0-9a-f]{1,16}", name):
        return Path(name)
    try:
        stored = AdapterStore().get(name)
    except MissingAdapterError as error:
        raise ConfigError(f"{name} is no folder, and as the id of an adapter: {error}") from error
    check_files(stored)
    return stored.folder


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--weights {text!r}: expected numbers with commas between, for example 0.5,0.25,0.25."
        ) from error


def _summary(r: int, truncation: dict[str, float] | None) -> str:
    from bench.merging import vllm_rank

    lines = [f"rank {r}"]
    needed = vllm_rank(r)
    if needed is None:
        lines.append("vLLM does not serve this rank; cut it with --set rank=64, for example")
    else:
        lines.append(f"vLLM: --max-lora-rank {needed}")
    if truncation:
        lines.append(f"relative error of the truncation: {truncation['relative_error']:.3g}")
    return "\n".join(lines)
