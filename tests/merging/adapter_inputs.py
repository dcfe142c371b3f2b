"""Random adapters for the tests of merging."""

from __future__ import annotations

from dataclasses import replace

import torch

from bench.merging import Adapter, AdapterConfig, Factors

SIZES = {
    "model.layers.0.mlp.down_proj": (12, 20),
    "model.layers.0.self_attn.q_proj": (14, 14),
    "model.layers.0.self_attn.v_proj": (6, 14),
    "model.layers.1.mlp.up_proj": (24, 10),
}


def random_adapter(
    seed: int,
    *,
    r: int = 4,
    scaling: float = 2.0,
    drift: float = 0.3,
    sizes=SIZES,
    dtype=torch.float32,
    start: int = 99,
) -> Adapter:
    """An adapter that looks trained: A has drifted from a common draw, B is its own."""
    own = torch.Generator().manual_seed(seed)
    common = torch.Generator().manual_seed(start)
    factors = {}
    for module, (d_out, d_in) in sizes.items():
        a = torch.randn(r, d_in, generator=common) + drift * torch.randn(r, d_in, generator=own)
        b = torch.randn(d_out, r, generator=own)
        factors[module] = Factors((a / d_in**0.5).to(dtype), b.to(dtype))
    config = AdapterConfig(
        r, scaling * r, "some/base", init_hash=f"start-{start}", peft={"task_type": "CAUSAL_LM"}
    )
    return Adapter(factors, config, name=f"adapter-{seed}")


def initialisation(seed: int = 99, **options) -> Adapter:
    """What the random adapters drifted from: B is zero."""
    drawn = random_adapter(0, drift=0.0, start=seed, **options)
    factors = {name: Factors(a, torch.zeros_like(b)) for name, (a, b) in drawn.factors.items()}
    return replace(drawn, factors=factors, name="init")


def changed(adapter: Adapter, change) -> Adapter:
    """The adapter with ``change(module, factors)`` in place of its factors; its key stays."""
    factors = {module: Factors(*change(module, pair)) for module, pair in adapter.factors.items()}
    return replace(adapter, factors=factors, key=adapter.merge_key)


def zero_adapter(like: Adapter) -> Adapter:
    zero = changed(like, lambda _, pair: (torch.zeros_like(pair.a), torch.zeros_like(pair.b)))
    return replace(zero, name="zero", key=None)


def with_scaling(adapter: Adapter, scaling: float) -> Adapter:
    return replace(adapter, config=replace(adapter.config, alpha=scaling * adapter.config.r))


def regauged(adapter: Adapter, seed: int = 0) -> Adapter:
    """The same function with other factors: (B R, R^-1 A) for a well-conditioned random R."""
    draw = torch.Generator().manual_seed(seed)
    r = adapter.config.r

    def change(_, pair):
        turn = torch.eye(r, dtype=torch.float64) * 1.5
        turn += 0.5 * torch.randn(r, r, generator=draw, dtype=torch.float64) / r**0.5
        a = torch.linalg.inv(turn) @ pair.a.double()
        return a.to(pair.a.dtype), (pair.b.double() @ turn).to(pair.b.dtype)

    return changed(adapter, change)


def deltas(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Dense updates s B A in float64, computed here and not by the adapter."""
    s = adapter.config.alpha / adapter.config.r
    return {name: s * b.double() @ a.double() for name, (a, b) in adapter.factors.items()}


def literal_ties(rows: torch.Tensor, density: float, how: str) -> torch.Tensor:
    """The authors' merging utilities, step by step, on the flattened adapters (M, P)."""
    n = rows.shape[1]
    if density < 1:
        k = n - int(density * n)
        threshold = rows.abs().kthvalue(k, dim=1, keepdim=True).values
        rows = rows * (rows.abs() >= threshold)
    sign = torch.sign(rows.sum(0))
    sign[sign == 0] = torch.sign(sign.sum())
    agrees = torch.where(sign > 0, rows > 0, rows < 0)
    kept = rows * agrees
    if how == "mean":
        return kept.sum(0) / kept.ne(0).sum(0).clamp(min=1)
    if how == "sum":
        return kept.sum(0)
    return kept.abs().max(0).values * sign


def assert_same(found, expected, atol: float = 1e-5) -> None:
    """Compare the dense updates of two adapters, or of an adapter and a mapping."""
    one = found if isinstance(found, dict) else deltas(found)
    two = expected if isinstance(expected, dict) else deltas(expected)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name].double(), rtol=0, atol=atol)


def distance(found, expected) -> float:
    """Relative Frobenius distance over all modules."""
    one = found if isinstance(found, dict) else deltas(found)
    two = expected if isinstance(expected, dict) else deltas(expected)
    off = sum(float((one[name] - two[name]).square().sum()) for name in one)
    return (off / sum(float(value.square().sum()) for value in two.values())) ** 0.5
