"""What the marks promise, in simulated experiments: false stars are rare, differences are found."""

from __future__ import annotations

import numpy as np
import pytest

from bench.evaluation import compare_seeds, star_family
from bench.evaluation.effects import minimum_detectable

pytestmark = pytest.mark.slow


class Population:
    """Users whose hits depend on the user, the method and the seed; methods are equal in the mean.

    With the defaults two methods disagree on about 15 % of the users and two seeds of one method on
    about 9 %. A seed also shifts the mean of its method.
    """

    def __init__(self, rng: np.random.Generator, n: int, seed_sd: float, per_seed: float = 0.2):
        self.rng, self.n, self.seed_sd, self.per_seed = rng, n, seed_sd, per_seed
        self.easy = rng.standard_normal(n, dtype=np.float32)

    def method(self, n_seeds: int, gain: float = 0.0) -> np.ndarray:
        """Metric per seed and user, float64, shape ``(n_seeds, n)``."""
        own = self.easy + np.float32(0.3) * self.rng.standard_normal(self.n, dtype=np.float32)
        noise = self.rng.standard_normal((n_seeds, self.n), dtype=np.float32)
        hits = own + np.float32(self.per_seed) * noise > 0
        return hits + gain + self.rng.normal(0.0, self.seed_sd, (n_seeds, 1))


def test_tables_of_identical_methods_rarely_show_a_star():
    """18 identical methods on 6 targets: at most 5 % of tables with any star."""
    rng = np.random.default_rng(11)
    methods = [f"m{i:02d}" for i in range(18)]
    trainable = dict.fromkeys(methods, True)
    tables, starred = 200, 0
    for _ in range(tables):
        values = {}
        for target in "abcdef":
            users = Population(rng, 1000, 0.003)
            values[target] = {name: users.method(3) for name in methods}
        starred += any(verdict.star for verdict in star_family(values, trainable).values())
    assert starred <= 0.05 * tables


def test_tables_of_two_identical_methods_without_seed_variance_rarely_show_a_star():
    """The hardest case of the correction: one rival only, so that the largest p is the only one."""
    rng = np.random.default_rng(12)
    tables, starred = 400, 0
    for _ in range(tables):
        values = {}
        for target in "abcdef":
            users = Population(rng, 500, 0.0)
            values[target] = {name: users.method(1) for name in ("a", "b")}
        verdicts = star_family(values, {"a": False, "b": False})
        starred += any(verdict.star for verdict in verdicts.values())
    # 5 % and two and a half standard errors of the simulation.
    assert starred <= tables * (0.05 + 2.5 * (0.05 * 0.95 / tables) ** 0.5)


@pytest.mark.parametrize("per_seed", [0.2, 2.0], ids=["similar seeds", "seeds that share little"])
def test_two_identical_methods_with_seed_variance_rarely_differ(per_seed):
    """3 seeds, seed SD .003, 20,000 users: false stars at most 7 %, with and without the sign rule."""
    rng = np.random.default_rng(13)
    repeats, starred, rejected, by_users = 1000, 0, 0, 0
    for _ in range(repeats):
        users = Population(rng, 20_000, 0.003, per_seed)
        values = {"a": users.method(3), "b": users.method(3)}
        test = compare_seeds(values["a"], values["b"])
        rejected += test.p < 0.05
        by_users += test.p_users < 0.05
        verdicts = star_family({"t": values}, {"a": True, "b": True})
        starred += any(verdict.star for verdict in verdicts.values())
    assert starred <= 0.07 * repeats
    assert rejected <= 0.07 * repeats
    # The users alone are fooled by the seeds: this is what the seeds' part is for.
    assert by_users > 0.09 * repeats


@pytest.mark.parametrize(("n", "n_seeds", "seed_sd"), [(20_000, 3, 0.003), (5_000, 5, 0.003)])
def test_a_difference_of_the_minimum_detectable_size_is_found_in_four_of_five(n, n_seeds, seed_sd):
    """80 % +- 5 for the p-value (not the star).

    A single report of the size is as uncertain as the variance of three seeds; the true difference is
    the mean of those that 300 pilot experiments report.
    """
    rng = np.random.default_rng(14)

    def experiment(gain: float):
        users = Population(rng, n, seed_sd)
        return compare_seeds(users.method(n_seeds, gain), users.method(n_seeds))

    pilots = [experiment(0.0) for _ in range(300)]
    gain = float(np.mean([pilot.minimum_detectable for pilot in pilots]))
    repeats = 1000
    found = sum(experiment(gain).p < 0.05 for _ in range(repeats))
    assert 0.75 <= found / repeats <= 0.85


@pytest.mark.parametrize("n", [50, 2_000])
def test_a_difference_between_methods_without_training_is_found_in_four_of_five(n):
    rng = np.random.default_rng(15)
    gain, found, repeats = minimum_detectable(0.5 / n**0.5, n - 1), 0, 2000
    for _ in range(repeats):
        d = rng.normal(gain, 0.5, (1, n))
        test = compare_seeds(d, np.zeros((1, n)), trainable_a=False, trainable_b=False)
        found += test.p < 0.05
    assert 0.77 <= found / repeats <= 0.83
