"""Time, memory and error of merging, beside PEFT's ``add_weighted_adapter``.

``python benchmarks/merging.py`` does two things on random adapters, with one thread:

- Four adapters with the shapes of Qwen2-7B (196 modules, rank 16, bfloat16) are merged from folder to
  folder by every method in factor space and by every exact one, each in a process of its own, whose
  largest resident set is reported. ``--products`` adds TIES and DARE on products (many minutes).
- Four adapters with the shapes of SmolLM2-135M (30 layers, 210 modules, rank 16, float32) are merged in
  memory by PEFT and here, in turn, so that other programs on the machine disturb both alike; ``best`` is
  over rounds. The error is the relative Frobenius distance from the merge without a cut in rank.
  PEFT's exact SVD reaches the smallest error that rank 16 allows, "floor": over all modules where sums
  are cut; over those of two layers for TIES and DARE, whose floor needs a full SVD of each module.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.merging import Adapter, AdapterConfig, Factors, merge, read_adapter, write_adapter

RANK, N_ADAPTERS = 16, 4
QWEN = {"layers": 28, "hidden": 3584, "keys": 512, "inner": 18944}
SMOL = {"layers": 30, "hidden": 576, "keys": 192, "inner": 1536}

FOLDER_CASES: list[tuple[str, dict[str, Any]]] = [
    ("weight-average", {}),
    ("ties", {"trim": "global"}),
    ("ties", {"trim": "tensor"}),
    ("dare", {}),
    ("dare", {"inner": "ties"}),
    ("lora-lego", {}),
    ("weight-average", {"space": "product"}),
    ("weight-average", {"space": "product", "rank": 16}),
    ("task-arithmetic", {}),
    ("ext-sub", {}),
]
PRODUCT_CASES: list[tuple[str, dict[str, Any]]] = [
    ("ties", {"space": "product", "trim": "tensor"}),
    ("ties", {"space": "product"}),
    ("dare", {"space": "product"}),
]
CUT = {"space": "product", "rank": RANK}
PEFT_CASES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("linear", {}, "weight-average", {}),
    ("ties", {"density": 0.2}, "ties", {"trim": "tensor"}),
    ("dare_linear", {"density": 0.8}, "dare", {"drop_rate": 0.2}),
    ("cat", {}, "weight-average", {"space": "product"}),
    ("svd", {"svd_rank": RANK}, "weight-average", CUT),
    ("ties_svd", {"density": 0.2, "svd_rank": RANK}, "ties", {**CUT, "trim": "tensor"}),
    ("dare_linear_svd", {"density": 0.5, "svd_rank": RANK}, "dare", {**CUT, "drop_rate": 0.5}),
]


def module_sizes(shape: dict[str, int]) -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of the linear modules of a decoder, by name."""
    hidden, keys, inner = shape["hidden"], shape["keys"], shape["inner"]
    layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {
        f"model.layers.{i}.{name}": size
        for i in range(shape["layers"])
        for name, size in layer.items()
    }


def random_adapter(shape: dict[str, int], seed: int, dtype: torch.dtype) -> Adapter:
    """Factors of the size that training leaves: A near a common draw, B smaller."""
    common = torch.Generator().manual_seed(1000)
    own = torch.Generator().manual_seed(seed)
    factors = {}
    for module, (d_out, d_in) in module_sizes(shape).items():
        a = (torch.rand(RANK, d_in, generator=common) * 2 - 1) / d_in**0.5
        a += 0.002 * torch.randn(RANK, d_in, generator=own)
        b = 0.01 * torch.randn(d_out, RANK, generator=own)
        factors[module] = Factors(a.to(dtype), b.to(dtype))
    targets = sorted({module.rsplit(".", 1)[1] for module in factors})
    peft = {"task_type": "CAUSAL_LM", "target_modules": targets}
    return Adapter(factors, AdapterConfig(RANK, 32.0, "random", init_hash="common", peft=peft))


def peak_mb() -> float:
    """Largest resident set since the program began, in MB; getrusage would count the parent's."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def merge_folders(folders: list[Path], out: Path, method: str, config: dict[str, Any]) -> None:
    """One merge from folder to folder; prints seconds and the largest resident set as JSON."""
    before = peak_mb()
    started = time.perf_counter()
    adapters = [read_adapter(folder) for folder in folders]
    read = time.perf_counter()
    merged = merge(adapters, method, config)
    done = time.perf_counter()
    write_adapter(merged, out)
    found = {
        "read": read - started,
        "merge": done - read,
        "write": time.perf_counter() - done,
        "before_mb": before,
        "peak_mb": peak_mb(),
        "rank": merged.config.r,
        "truncation": (merged.metadata["truncation"] or {}).get("relative_error"),
    }
    print(json.dumps(found))


def folder_part(root: Path, cases: list[tuple[str, dict[str, Any]]]) -> None:
    folders = [root / f"adapter-{seed}" for seed in range(N_ADAPTERS)]
    for seed, folder in enumerate(folders):
        write_adapter(random_adapter(QWEN, seed, torch.bfloat16), folder)
    print(f"{N_ADAPTERS} adapters of Qwen2-7B's shapes, rank {RANK}, bfloat16, folder to folder")
    print(f"{'method':55}{'read':>8}{'merge':>9}{'write':>8}{'peak MB':>9}{'rank':>6}{'error':>8}")
    for i, (method, config) in enumerate(cases):
        task = {"method": method, "config": config, "out": str(root / f"out-{i}")}
        task["folders"] = [str(folder) for folder in folders]
        done = subprocess.run(
            [sys.executable, __file__, "--task", json.dumps(task)],
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout)
        error = "" if found["truncation"] is None else f"{found['truncation']:.3f}"
        print(
            f"{label(method, config):55}{found['read']:>7.1f}s{found['merge']:>8.1f}s"
            f"{found['write']:>7.1f}s{found['peak_mb']:>9.0f}{found['rank']:>6}{error:>8}",
            flush=True,
        )
    print(f"  of which before the adapters are read: {found['before_mb']:.0f} MB")


def label(method: str, config: dict[str, Any]) -> str:
    return " ".join([method, *(f"{key}={value}" for key, value in config.items())])


def peft_model(folders: list[Path]) -> Any:
    """A random model of SmolLM2's shapes with a small vocabulary, holding all adapters."""
    import peft
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=SMOL["hidden"],
        intermediate_size=SMOL["inner"],
        num_hidden_layers=SMOL["layers"],
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    model = peft.PeftModel.from_pretrained(
        transformers.LlamaForCausalLM(config), folders[0], adapter_name="a0"
    )
    for i, folder in enumerate(folders[1:], start=1):
        model.load_adapter(folder, adapter_name=f"a{i}")
    return model


def peft_result(model: Any) -> dict[str, torch.Tensor]:
    found = {}
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A") and "merged" in layer.lora_A:
            module = name.removeprefix("base_model.model.")
            found[module] = layer.get_delta_weight("merged").detach()
    return found


def relative(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    off = sum(float((found[name] - exact[name]).double().square().sum()) for name in exact)
    return float((off / sum(float(d.double().square().sum()) for d in exact.values())) ** 0.5)


def best_error(exact: dict[str, torch.Tensor]) -> float:
    """The smallest error that the rank allows (Eckart and Young)."""
    values = [torch.linalg.svdvals(delta.double()).square() for delta in exact.values()]
    return float((sum(v[RANK:].sum() for v in values) / sum(v.sum() for v in values)) ** 0.5)


def few_modules(adapter: Adapter) -> Adapter:
    kept = {name: p for name, p in adapter.factors.items() if name.split(".")[2] in {"0", "1"}}
    return Adapter(kept, adapter.config, key=adapter.merge_key)


def floor_error(
    adapters: list[Adapter], method: str, config: dict[str, Any]
) -> tuple[float, float]:
    """Our error and the smallest that the rank allows, over two layers."""
    few = [few_modules(adapter) for adapter in adapters]
    full = merge(few, method, {**config, "rank": SMOL["hidden"]})
    exact = {name: full.delta(name) for name in full.modules}
    cut = merge(few, method, config)
    mine = relative({name: cut.delta(name) for name in cut.modules}, exact)
    return mine, best_error(exact)


def clock(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def peft_part(root: Path, rounds: int) -> None:
    folders = [root / f"small-{seed}" for seed in range(N_ADAPTERS)]
    for seed, folder in enumerate(folders):
        write_adapter(random_adapter(SMOL, seed, torch.float32), folder)
    adapters = [read_adapter(folder) for folder in folders]
    model = peft_model(folders)
    names = [f"a{i}" for i in range(N_ADAPTERS)]
    shares = [1 / N_ADAPTERS] * N_ADAPTERS
    print(f"\n{N_ADAPTERS} adapters of SmolLM2-135M's shapes, rank {RANK}, float32, in memory")
    print(
        f"{'PEFT':18}{'s':>8}   {'here':52}{'s':>8}{'ratio':>8}{'error PEFT':>12}{'here':>9}{'floor':>9}"
    )
    for kind, options, method, config in PEFT_CASES:
        theirs, ours = [], []
        # Weights that make the meanings equal: see docs/merging.md.
        weights = [1.0] * N_ADAPTERS if "ties" in kind else shares
        for _ in range(rounds):
            if "merged" in model.peft_config:
                model.delete_adapter("merged")
            theirs.append(
                clock(
                    lambda kind=kind, weights=weights, options=options: model.add_weighted_adapter(
                        names, weights, "merged", combination_type=kind, **options
                    )
                )
            )
            ours.append(clock(lambda method=method, config=config: merge(adapters, method, config)))
        errors = ""
        if kind == "svd":
            full = merge(adapters, method, {"space": "product"})
            exact = {name: full.delta(name) for name in full.modules}
            found = merge(adapters, method, config)
            mine = relative({name: found.delta(name) for name in found.modules}, exact)
            floor = best_error(exact)
            errors = f"{relative(peft_result(model), exact):>12.6f}{mine:>10.6f}{floor:>10.6f}"
        elif kind.endswith("_svd"):
            mine, floor = floor_error(adapters, method, config)
            errors = f"{'':12}{mine:>10.6f}{floor:>10.6f}"
        one, two = (
            [min(column) for column in zip(*times, strict=True)] for times in (theirs, ours)
        )
        print(
            f"{kind:18}{one[0]:>8.2f}{one[1]:>8.2f}   {label(method, config):52}"
            f"{two[0]:>8.2f}{two[1]:>8.2f}{one[0] / two[0]:>8.1f}{one[1] / two[1]:>8.1f}{errors}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--products", action="store_true", help="TIES and DARE on 7B products too")
    parser.add_argument("--only", choices=["folders", "peft"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.task:
        task = json.loads(arguments.task)
        folders = [Path(folder) for folder in task["folders"]]
        merge_folders(folders, Path(task["out"]), task["method"], task["config"])
        return
    warnings.filterwarnings("ignore", category=FutureWarning)
    print(
        f"python {sys.version.split()[0]}, torch {torch.__version__}, {arguments.threads} thread(s)"
    )
    with tempfile.TemporaryDirectory() as root:
        if arguments.only != "peft":
            folder_part(Path(root), FOLDER_CASES + (PRODUCT_CASES if arguments.products else []))
        if arguments.only != "folders":
            peft_part(Path(root), arguments.rounds)


if __name__ == "__main__":
    main()
