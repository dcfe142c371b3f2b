"""The kit passes honest methods and catches each kind of dishonest or broken one."""

import os
import random
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from pydantic import BaseModel, Field

from bench.baselines.reference.markov import Markov
from bench.cli.new import method_source
from bench.methods import (
    Capabilities,
    Family,
    MethodConfig,
    Scores,
    load_class,
    resolve,
)
from bench.testing import CHECKS, assert_conforms, check_method

REFERENCE = ("random", "popularity", "markov", "item-knn", "ease")


def failures(cls, checks=None):
    return {r.id: r.reason for r in check_method(cls, checks=checks) if r.status == "fail"}


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_row_conforms(name):
    results = check_method(resolve(name))
    assert [r.id for r in results] == ["declarations", *CHECKS]
    assert not [f"{r.id}: {r.reason}" for r in results if r.status == "fail"]
    assert sum(r.status == "pass" for r in results) >= 21


def test_template_of_new_methods_conforms_in_every_check(tmp_path):
    path = tmp_path / "my_method.py"
    source, class_name = method_source("my-method", path.as_posix())
    path.write_text(source, encoding="utf-8")
    cls = resolve(f"{path}:{class_name}")
    assert not [f"{r.id}: {r.reason}" for r in check_method(cls) if r.status != "pass"]
    assert cls.name == "my-method"


class Honest(Markov):
    """Markov under another name, to be sabotaged."""

    name = "honest"


class WrongDtype(Honest):
    """float64."""

    def score(self, requests, context):
        return Scores(super().score(requests, context).values.astype(np.float64))


class WrongShape(Honest):
    """One column too few."""

    def score(self, requests, context):
        return Scores(super().score(requests, context).values[:, :-1])


class Infinite(Honest):
    """Masks with -inf."""

    def score(self, requests, context):
        values = super().score(requests, context).values
        values[:, 0] = -np.inf
        return Scores(values)


class Unranked(Honest):
    """NaN without the capability."""

    def score(self, requests, context):
        values = super().score(requests, context).values
        values[0, 0] = np.nan
        return Scores(values)


class NoisyScores(Honest):
    """Draws while scoring."""

    def score(self, requests, context):
        values = super().score(requests, context).values
        self.rng = getattr(self, "rng", None) or np.random.default_rng(0)
        return Scores(values + self.rng.normal(size=values.shape).astype(np.float32))


class BatchStatistics(Honest):
    """Normalises over the batch."""

    def score(self, requests, context):
        values = super().score(requests, context).values
        return Scores(values - values.mean(dtype=np.float32))


class SortedRows(Honest):
    """Sorts rows by user and forgets to undo it."""

    def score(self, requests, context):
        return super().score(requests.take(np.argsort(requests.users)), context)


class PositionBias(Honest):
    """Prefers early columns."""

    def score(self, requests, context):
        values = super().score(requests, context).values
        return Scores(values - np.arange(values.shape[1], dtype=np.float32))


class CandidateSoftmax(Honest):
    """Normalises over the candidates."""

    def score(self, requests, context):
        values = super().score(requests, context).values
        return Scores(values / values.sum(axis=1, keepdims=True))


class KnownItemsOnly(Honest):
    """Has no scores for items that were never trained on."""

    def score(self, requests, context):
        values = super().score(requests, context).values
        values[self.popularity[requests.candidates] == 0] = np.inf
        return Scores(values)


class NeedsHistory(Honest):
    """Reads the last event of an empty history."""

    def score(self, requests, context):
        if (requests.history.lengths == 0).any():
            raise IndexError("no last item")
        return super().score(requests, context)


class GlobalNumpy(Honest):
    """Draws from NumPy's global generator."""

    def fit(self, view, context):
        super().fit(view, context)
        self.popularity = self.popularity + np.random.random(len(self.popularity))  # noqa: NPY002


class FakeSeed(Honest):
    """Declares training and ignores the seed."""

    @classmethod
    def capabilities(cls, config):
        return Capabilities(trainable=True)


class SecretSeed(Honest):
    """Uses the seed without declaring it."""

    def fit(self, view, context):
        super().fit(view, context)
        noise = np.random.default_rng(context.seed).random(len(self.popularity))
        self.popularity = self.popularity + noise


class Mutator(Honest):
    """Forces its way into read-only arrays."""

    def score(self, requests, context):
        scores = super().score(requests, context)
        requests.candidates.flags.writeable = True
        requests.candidates[0, 0] += 1
        return scores


class InPlace(Honest):
    """Sorts the training items in place."""

    def fit(self, view, context):
        view.target.sequences.items.sort()
        super().fit(view, context)


class Seeder(Honest):
    """Seeds the global generators, adds a variable, changes argv."""

    def fit(self, view, context):
        random.seed(0)
        os.environ["H_SEEDER"] = "1"
        sys.argv.append("--x")
        super().fit(view, context)


class Wanderer(Honest):
    """Changes the working directory."""

    def score(self, requests, context):
        os.chdir(context.scratch)
        return super().score(requests, context)


class Writer(Honest):
    """Writes next to its scratch folder."""

    def fit(self, view, context):
        super().fit(view, context)
        (context.scratch / "fine.txt").write_text("x")
        (context.scratch.parent / "outside.txt").write_text("x")


class TemporaryWriter(Honest):
    """Uses the common temporary folder."""

    def score(self, requests, context):
        with tempfile.NamedTemporaryFile():
            return super().score(requests, context)


class Hoarder(Honest):
    """Keeps test items it obtained elsewhere: here through the domain that the kit made."""

    def fit(self, view, context):
        super().fit(view, context)
        self.stolen = np.arange(1151, 1151 + 40) if view.target.name == "tripwire" else None


class Pickler(Honest):
    """Saves a pickle."""

    def save(self, folder):
        super().save(folder)
        (folder / "model.pkl").write_bytes(b"x")


class ObjectArray(Honest):
    """Hides a pickle in an npy file."""

    def save(self, folder):
        super().save(folder)
        np.save(folder / "extra.npy", np.array([{}], dtype=object), allow_pickle=True)


class Forgetful(Honest):
    """Saves only a part of its state."""

    def load(self, folder):
        super().load(folder)
        self.popularity = self.popularity * 0


class Reversed(Honest):
    """Lower is better."""

    def score(self, requests, context):
        return Scores(-super().score(requests, context).values)


class Broken(Honest):
    """Fails while fitting."""

    def fit(self, view, context):
        raise ZeroDivisionError("no reason")


class LooseConfig(BaseModel):
    depth: int = Field(default=1, description="depth")


class Loose(Honest):
    """Accepts unknown keys."""

    Config = LooseConfig


class SetConfig(MethodConfig):
    chosen: object = Field(default_factory=lambda: {1, 2}, description="a set")


class NoRoundTrip(Honest):
    """Has a configuration that YAML cannot hold."""

    Config = SetConfig


class Fickle(Honest):
    """Changes its mind about its capabilities."""

    count = 0

    @classmethod
    def capabilities(cls, config):
        Fickle.count += 1
        return Capabilities(max_candidates=Fickle.count)


class NoPlan(Honest):
    """Plans nothing."""

    def plan(self, spec):
        return []


CASES = [
    (WrongDtype, "scores-form", "float64"),
    (WrongShape, "scores-form", r"\(80, 29\); expected .* \(80, 30\)"),
    (Infinite, "scores-form", "infinite"),
    (Unranked, "scores-form", "may_leave_unranked"),
    (NoisyScores, "repeatable-scores", "dropout"),
    (BatchStatistics, "batch-invariance", "padding"),
    (SortedRows, "row-order", "sort rows"),
    (PositionBias, "candidate-order-invariance", "another order"),
    (CandidateSoftmax, "candidate-set-sizes", "normalise over the candidates"),
    (KnownItemsOnly, "unseen-items", "infinite"),
    (NeedsHistory, "empty-history", "no last item .*test_kit.py, line"),
    (GlobalNumpy, "same-seed-same-scores", "context.seed"),
    (GlobalNumpy, "global-state-unchanged", "fit changed numpy.random"),
    (FakeSeed, "seed-used", "seeds 0 and 1 give the same"),
    (SecretSeed, "seed-used", "trainable=True"),
    (Mutator, "inputs-unchanged", "score changed requests.candidates"),
    (InPlace, "fits", "read-only"),
    (Seeder, "global-state-unchanged", "random module.*sys.argv.*H_SEEDER"),
    (Wanderer, "global-state-unchanged", "score changed working directory"),
    (Writer, "writes-in-scratch-only", "fit wrote .*outside.txt"),
    (TemporaryWriter, "writes-in-scratch-only", "score wrote"),
    (Hoarder, "held-out-not-reachable", "method.stolen: 40 test items"),
    (Pickler, "save-load-round-trip", "model.pkl"),
    (ObjectArray, "save-load-round-trip", "pickled objects"),
    (Forgetful, "save-load-round-trip", "scores differently"),
    (Reversed, "learns-planted-pattern", "higher is better"),
    (Broken, "fits", "ZeroDivisionError: no reason"),
    (Loose, "unknown-keys-rejected", "forbid"),
    (NoRoundTrip, "config-round-trip", "round trip"),
    (Fickle, "capabilities", "same"),
    (NoPlan, "plan", "non-empty list of Job"),
]


@pytest.mark.parametrize(
    ("cls", "check", "message"), CASES, ids=lambda v: getattr(v, "__name__", v)
)
def test_catches(cls, check, message):
    found = failures(cls, [check])
    assert set(found) == {check}
    import re

    assert re.search(message, found[check], re.DOTALL), found[check]


def test_leaves_the_process_as_it_was():
    environment, argv, folder = dict(os.environ), list(sys.argv), Path.cwd()
    state = random.getstate()
    failures(Seeder, ["global-state-unchanged"])
    failures(Wanderer, ["global-state-unchanged"])
    assert (dict(os.environ), sys.argv, Path.cwd()) == (environment, argv, folder)
    assert random.getstate() == state


def test_a_method_that_peeks_at_the_test_half_is_caught(monkeypatch):
    from bench.testing.session import Session

    truth = {}

    class Peeking(Honest):
        """Reads the answers by a road other than the view."""

        def fit(self, view, context):
            super().fit(view, context)
            self.peeked = truth["task"] if truth else None

    original = Session._fit

    def leaking(self, key, task, seed, shift):
        requests, labels = next(task.test(task.subset(None)).chunks(1000))
        truth["task"] = requests.candidates[np.arange(len(requests)), labels.position]
        return original(self, key, task, seed, shift)

    def score(self, requests, context):
        values = Honest.score(self, requests, context).values
        return Scores(values + (requests.candidates == self.peeked[requests.users][:, None]))

    Peeking.score = score
    monkeypatch.setattr(Session, "_fit", leaking)
    assert "held-out-not-used" in failures(Peeking, ["held-out-not-used"])


def test_an_explained_failure_is_skipped_with_its_reason():
    class Explained(Reversed):
        """Lower is better, and says so."""

        expected_failures: ClassVar = {"learns-planted-pattern": "reversed on purpose"}

    (result,) = check_method(Explained, checks=["learns-planted-pattern"])
    assert (result.status, result.reason) == ("skip", "expected to fail: reversed on purpose")


def test_an_explanation_that_is_no_longer_true_fails():
    class Improved(Honest):
        """Explains a failure that does not happen."""

        expected_failures: ClassVar = {"row-order": "once upon a time", "no-such-check": "x"}

    found = failures(Improved, ["row-order"])
    assert "Remove that entry" in found["row-order"]
    assert "does not exist" in found["no-such-check"]


def test_after_a_failed_fit_the_other_checks_say_so():
    results = {r.id: r for r in check_method(Broken)}
    assert results["fits"].status == "fail"
    assert results["batch-invariance"].status == "skip"
    assert "ZeroDivisionError" in results["batch-invariance"].reason


class Nameless(Honest):
    """No version."""

    version = ""


class Undocumented(Honest):
    __doc__ = ""


class SilentConfig(MethodConfig):
    depth: int = 1


class Silent(Honest):
    """Has a key without a description."""

    Config = SilentConfig


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Nameless, "`version` is ''"),
        (Undocumented, "docstring"),
        (Silent, "depth"),
        (dict, "subclass"),
    ],
)
def test_declarations(cls, message):
    result = check_method(cls, checks=["declarations"])[0]
    assert result.status == "fail"
    assert message in result.reason


def test_an_incomplete_class_skips_the_rest():
    results = check_method(Nameless)
    assert {r.status for r in results[1:]} == {"skip"}


def test_an_incomplete_file_can_still_be_checked(tmp_path):
    path = tmp_path / "half.py"
    path.write_text(
        "from bench.methods import Method\nclass Half(Method):\n    def fit(self, view, context): ...\n"
    )
    result = check_method(load_class(f"{path}:Half"))[0]
    assert result.status == "fail"
    assert "`name`" in result.reason
    assert "not implemented: score" in result.reason


def test_unknown_check_is_an_error_with_a_suggestion():
    with pytest.raises(Exception, match="row-order"):
        check_method(Honest, checks=["row-ordr"])


def test_assert_conforms_lists_every_failure():
    with pytest.raises(AssertionError, match=r"scores-form: .*float64"):
        assert_conforms(WrongDtype, checks=["scores-form"])
    assert_conforms(Honest, checks=["scores-form", "row-order"])


def test_family_is_shown():
    (result,) = check_method(Honest, checks=["declarations"])
    assert result.reason == f"honest 1, {Family.REFERENCE.value}"
