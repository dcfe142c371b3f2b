"""The text of a new single-file method."""

from __future__ import annotations

import keyword
import re

from bench.errors import ConfigError

__all__ = ["class_name_of", "new_method_template"]

_TEMPLATE = '''\
"""{class_name}: what followed the user's newest items, a starting point to replace.

Try it:
    bench check {file}:{class_name}
    bench run --method {file}:{class_name} --target ml100k-drama
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from bench.methods import Context, Family, Method, MethodConfig, Requests, Scores, TrainView


class {class_name}Config(MethodConfig):
    """Options; change them with --set, for example --set newest=5."""

    newest: int = Field(default=3, ge=1, description="how many of the newest items vote")
    decay: float = Field(default=0.5, gt=0, le=1, description="weight lost per step into the past")


class {class_name}(Method):
    """Scores a candidate by how often it followed one of the user's newest items in training."""

    name = "{name}"
    version = "1"  # raise it whenever the scores can change
    family = Family.SINGLE_DOMAIN
    Config = {class_name}Config

    # Declare what the method needs by overriding `capabilities`: source domains, titles, random
    # training (then use context.seed), ... By default nothing.

    def fit(self, view: TrainView, context: Context) -> None:
        # view.target.sequences holds every user's training items, oldest first, as dense indices.
        sequences, n_items = view.target.sequences, view.target.n_items
        self.popularity = np.bincount(sequences.items, minlength=n_items) / len(sequences.items)
        adjacent = sequences.rows[1:] == sequences.rows[:-1]
        before, after = sequences.items[:-1][adjacent], sequences.items[1:][adjacent]
        keys, self.counts = np.unique(before.astype(np.int64) * n_items + after, return_counts=True)
        self.keys = keys

    def score(self, requests: Requests, context: Context) -> Scores:
        # One row per request; requests.history[row] holds the user's items, oldest first.
        n_items = len(self.popularity)
        values = self.popularity[requests.candidates]
        for row in range(len(requests)):
            newest = requests.history[row][::-1][: self.config.newest].astype(np.int64)
            wanted = newest[:, None] * n_items + requests.candidates[row]
            place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
            seen = np.where(self.keys[place] == wanted, self.counts[place], 0)
            weight = self.config.decay ** np.arange(len(newest))
            values[row] += weight @ seen
        return Scores(values.astype(np.float32))

    def save(self, folder: Path) -> None:
        for part in ("popularity", "keys", "counts"):
            np.save(folder / f"{{part}}.npy", getattr(self, part))

    def load(self, folder: Path) -> None:
        for part in ("popularity", "keys", "counts"):
            setattr(self, part, np.load(folder / f"{{part}}.npy"))
'''


def class_name_of(name: str) -> str:
    """Class name for a method name: ``my-method`` gives ``MyMethod``.

    Raises:
        ConfigError: ``name`` gives no valid class name.
    """
    words = [word for word in re.split(r"[^0-9A-Za-z]+", name) if word]
    class_name = "".join(word[0].upper() + word[1:] for word in words)
    if not class_name.isidentifier() or keyword.iskeyword(class_name):
        raise ConfigError(
            f"{name!r} gives no class name; expected letters, digits and '-', starting with a letter, "
            "for example: bench new method my-method"
        )
    return class_name


def new_method_template(name: str, file: str | None = None) -> str:
    """Source of a working method that passes ``bench check``.

    Args:
        name: what the method will be called, for example ``my-method``.
        file: path that the usage lines show; by default the name with underscores and ``.py``.

    Raises:
        ConfigError: ``name`` gives no valid class name.
    """
    class_name = class_name_of(name)
    method_name = "-".join(word.lower() for word in re.split(r"[^0-9A-Za-z]+", name) if word)
    shown = file or method_name.replace("-", "_") + ".py"
    return _TEMPLATE.format(class_name=class_name, name=method_name, file=shown)
