"""``bench new method``: a working one-file method to start from."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.output import echo
from bench.errors import ConfigError

__all__ = ["app", "method_source"]

app = typer.Typer(help="Start a plugin.", no_args_is_help=True, rich_markup_mode=None)

_TEMPLATE = '''\
"""{class_name}: what followed the newest item before, a starting point to replace.

Try it:
    bench check {file}:{class_name}
    bench run --method {file}:{class_name} --target ml100k-drama
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from bench.methods import (
    Capabilities,
    Context,
    Family,
    Method,
    MethodConfig,
    Requests,
    Scores,
    TrainView,
)


class {class_name}Config(MethodConfig):
    """Options; change them with --set, for example --set popularity=0.5."""

    popularity: float = Field(default=0.1, ge=0, description="weight of the item's training share")


class {class_name}(Method):
    """Counts how often the candidate directly followed the newest item."""

    name = "{name}"
    version = "1"  # raise it whenever the scores can change
    family = Family.SINGLE_DOMAIN
    Config = {class_name}Config

    @classmethod
    def capabilities(cls, config: {class_name}Config) -> Capabilities:
        return Capabilities(trainable=False)  # True if context.seed changes the scores

    def fit(self, view: TrainView, context: Context) -> None:
        sequences, n_items = view.target.sequences, view.target.n_items
        items = sequences.items.astype(np.int64)
        same_user = sequences.rows[1:] == sequences.rows[:-1]
        pairs = (items[:-1] * n_items + items[1:])[same_user]
        self.pairs, self.counts = np.unique(pairs, return_counts=True)
        self.share = np.bincount(items, minlength=n_items) / max(len(items), 1)

    def score(self, requests: Requests, context: Context) -> Scores:
        # One row per request; requests.history[row] holds the user's items, oldest first.
        newest = np.full(len(requests), -1, dtype=np.int64)
        for row in range(len(requests)):
            if len(requests.history[row]):
                newest[row] = requests.history[row][-1]
        values = self.config.popularity * self.share[requests.candidates]
        if len(self.pairs):
            keys = newest[:, None] * len(self.share) + requests.candidates
            slots = np.minimum(np.searchsorted(self.pairs, keys), len(self.pairs) - 1)
            values = values + np.where(self.pairs[slots] == keys, self.counts[slots], 0)
        return Scores(values)

    def save(self, folder: Path) -> None:
        for name in ("pairs", "counts", "share"):
            np.save(folder / f"{{name}}.npy", getattr(self, name), allow_pickle=False)

    def load(self, folder: Path) -> None:
        for name in ("pairs", "counts", "share"):
            setattr(self, name, np.load(folder / f"{{name}}.npy", allow_pickle=False))
'''


def method_source(name: str, file: str) -> tuple[str, str]:
    """Source text and class name of a new method.

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
    method_name = "-".join(word.lower() for word in words)
    return _TEMPLATE.format(class_name=class_name, name=method_name, file=file), class_name


@app.callback()
def _group() -> None:
    """Start a plugin."""


@app.command("method")
def method(
    name: Annotated[str, typer.Argument(help="Name of the method, for example my-method.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; default: the name, in this folder.")
    ] = None,
) -> None:
    """Write a small working method to start from.

    It passes `bench check`; replace its body with your own.
    """
    from bench.io import write_text

    path = out if out is not None else Path(re.sub(r"[^0-9A-Za-z]+", "_", name).lower() + ".py")
    source, class_name = method_source(name, path.as_posix())
    if path.exists():
        raise ConfigError(f"{path} exists already; remove it or name another file with --out.")
    write_text(path, source)
    echo(f"Wrote {path}. Next:\n  bench check {path}:{class_name}")
    echo(f"  bench run --method {path}:{class_name} --target ml100k-drama")
