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
from bench.errors import MissingExtraError
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
    """Integers."""

    @classmethod
    def of(cls, method):
        made = cls(method.config)
        vars(made).update(vars(method))
        return made

    def score(self, requests, context):
        return Scores(super().score(requests, context).values.astype(np.int64))


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


class LateImport(Honest):
    """Loads a library in its fit, which draws a number as it is loaded."""

    def fit(self, view, context):
        import draws_on_import  # noqa: F401

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


class Printer(Honest):
    """Prints while fitting."""

    def fit(self, view, context):
        print("epoch 1 of 1")
        super().fit(view, context)


class ChildPrinter(Honest):
    """Writes to the file descriptor, as compiled code and child processes do."""

    def score(self, requests, context):
        os.write(1, b"scoring\n")
        return super().score(requests, context)


class Talker(Honest):
    """Logs, reports progress and writes to standard error, all of which is allowed."""

    def fit(self, view, context):
        context.log.info("fitting")
        print("to standard error", file=sys.stderr)
        for _ in context.progress.track(range(2)):
            context.progress.status("half")
        super().fit(view, context)


class Hoarder(Honest):
    """Keeps test items it obtained elsewhere: here through the domain that the kit made."""

    def fit(self, view, context):
        super().fit(view, context)
        self.stolen = np.arange(1151, 1151 + 40) if view.target.name == "tripwire" else None


class AnswerHoarder(Honest):
    """Keeps validation answers that it obtained elsewhere."""

    def fit(self, view, context):
        super().fit(view, context)
        self.answers = {u: 1101 + u for u in range(40)} if view.target.name == "tripwire" else None


class LabelReader(Honest):
    """Reads the labels from the context."""

    def fit(self, view, context):
        super().fit(view, context)
        self.labels = context.validator.labels


class SpoiledValidation(Honest):
    """Validates with scores that a run would refuse."""

    def fit(self, view, context):
        super().fit(view, context)
        context.validate(WrongDtype.of(self))


class BrokenElsewhere(Honest):
    """Cannot be fitted where many items were never trained on."""

    def fit(self, view, context):
        if view.target.name == "tripwire":
            raise KeyError("never trained on")
        super().fit(view, context)


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
    (WrongDtype, "scores-form", "int64"),
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
    (AnswerHoarder, "held-out-not-reachable", "method.answers: 40 validation items"),
    (LabelReader, "fits", "no attribute 'labels'"),
    (SpoiledValidation, "fits", r"is int64 .*expected float32 or float64"),
    (BrokenElsewhere, "unseen-items", "KeyError: 'never trained on' .*test_kit.py, line"),
    (Printer, "nothing-printed", "fit printed 'epoch 1 of 1'"),
    (ChildPrinter, "nothing-printed", "score printed 'scoring'"),
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


def test_scores_that_depend_on_the_set_are_accepted_where_they_are_declared():
    class Compares(CandidateSoftmax):
        """Reads all candidates of a request together."""

        @classmethod
        def capabilities(cls, config):
            return Capabilities(compares_candidates=True)

    (result,) = check_method(Compares, checks=["candidate-set-sizes"])
    assert result.status == "pass", result.reason


def test_leaves_the_process_as_it_was():
    environment, argv, folder = dict(os.environ), list(sys.argv), Path.cwd()
    state = random.getstate()
    failures(Seeder, ["global-state-unchanged"])
    failures(Wanderer, ["global-state-unchanged"])
    assert (dict(os.environ), sys.argv, Path.cwd()) == (environment, argv, folder)
    assert random.getstate() == state


def test_what_loading_a_library_draws_is_no_fault(tmp_path, monkeypatch):
    (tmp_path / "draws_on_import.py").write_text("import random\n\nrandom.random()\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert not failures(LateImport, ["global-state-unchanged"])
    assert sys.modules.pop("draws_on_import")


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


def test_after_a_failed_fit_the_reason_is_given_once():
    results = {r.id: r for r in check_method(Broken)}
    assert results["fits"].status == "fail"
    assert results["fits"].reason.startswith("fit raised ZeroDivisionError: no reason")
    assert sum("ZeroDivisionError" in r.reason for r in results.values()) == 1
    skipped = [r for r in results.values() if r.status == "skip"]
    assert len(skipped) >= 18
    assert {r.reason for r in skipped} == {"not fitted, see the check `fits`"}


def test_a_failed_fit_fails_whichever_check_comes_first():
    first, second = check_method(Broken, checks=["row-order", "batch-invariance"])
    assert (first.status, second.status) == ("fail", "skip")
    assert second.reason == "not fitted, see the check `row-order`"


def test_a_fit_that_fails_on_one_task_alone_fails_one_check():
    results = {r.id: r for r in check_method(BrokenElsewhere)}
    assert [r.id for r in results.values() if r.status == "fail"] == ["unseen-items"]
    assert results["held-out-not-reachable"].reason == "not fitted, see the check `unseen-items`"


def test_a_missing_extra_is_named_once():
    class Needy(Honest):
        """Needs what is not installed."""

        def fit(self, view, context):
            raise MissingExtraError("install the extra `x`")

    results = check_method(Needy)
    assert not [r.id for r in results if r.status == "fail"]
    assert [r.id for r in results if "install the extra" in r.reason] == ["fits"]


def test_prints_go_to_standard_error(capfd):
    failures(Printer, ["nothing-printed"])
    failures(ChildPrinter, ["nothing-printed", "learns-planted-pattern"])
    assert failures(Talker, ["nothing-printed"]) == {}
    print("restored")
    os.write(1, b"restored too\n")
    printed, aside = capfd.readouterr()
    assert "epoch 1 of 1" in aside
    assert "scoring" in aside
    assert "to standard error" in aside
    assert sorted(printed.split("\n")) == ["", "restored", "restored too"]


def test_the_kit_validates_on_the_configured_number_of_users():
    class FewConfig(Markov.Config):
        validation_users: int = Field(default=12, description="users")

    seen = []

    class Few(Honest):
        """Validates while fitting."""

        Config = FewConfig

        def fit(self, view, context):
            super().fit(view, context)
            seen.append(context.validate(self).n_users)

    assert failures(Few, ["fits"]) == {}
    assert seen == [12]


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
    with pytest.raises(AssertionError, match=r"scores-form: .*int64"):
        assert_conforms(WrongDtype, checks=["scores-form"])
    assert_conforms(Honest, checks=["scores-form", "row-order"])


def test_family_is_shown():
    (result,) = check_method(Honest, checks=["declarations"])
    assert result.reason == f"honest 1, {Family.REFERENCE.value}"
