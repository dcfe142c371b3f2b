"""RecBole's model classes without RecBole's ``Config``.

``recbole.config.Config`` parses ``sys.argv``, evaluates strings as code, sets CUDA_VISIBLE_DEVICES
and adds attributes to NumPy. The model classes only index a mapping, so they get one here: the
defaults of RecBole's own packaged YAML files, read as plain typed values, under our settings.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench.errors import EXTRAS, ConfigError, MissingExtraError, require_packages, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["build_model", "model_settings", "quiet_recbole", "require_recbole"]

# YAML 1.1 reads 1e-12 as a string; RecBole's own loader reads it as a number.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_FIELDS = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "TIME_FIELD": "timestamp",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "POSITION_FIELD": "position_id",
    "NEG_PREFIX": "neg_",
    "MASK_ITEM_SEQ": "Mask_item_id_list",
    "POS_ITEMS": "Pos_item_id",
    "NEG_ITEMS": "Neg_item_id",
    "MASK_INDEX": "MASK_INDEX",
}


class _Settings(dict[str, Any]):
    """A mapping that answers None for unknown keys, as RecBole's ``Config`` does."""

    def __missing__(self, key: str) -> None:
        return None


class _Vocabulary:
    """The only questions that RecBole's models ask a data set: sizes including padding."""

    def __init__(self, n_users: int, n_items: int, max_history: int) -> None:
        self._sizes = {"user_id": n_users + 1, "item_id": n_items + 1}
        self.user_num = n_users + 1
        self.item_num = n_items + 1
        self.field2seqlen = {"item_id_list": max_history}

    def num(self, field: str) -> int:
        """Number of values of ``user_id`` or ``item_id``, padding included."""
        return self._sizes[field]


@contextmanager
def _anomaly_mode_kept() -> Iterator[None]:
    """Undo ``torch.autograd.set_detect_anomaly(True)``, which importing RecBole's models does.

    One of its modules calls it when imported, and the package imports all of them. Every operation
    would then format a Python traceback, which multiplies the time of a training step.
    """
    import torch

    enabled, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(enabled, check_nan)


@contextmanager
def quiet_recbole() -> Iterator[None]:
    """Ignore the deprecation warnings of RecBole and of what it imports, inside the block only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def require_recbole() -> Path:
    """Folder of the installed package, which is not imported.

    Raises:
        MissingExtraError: it, or a package that it imports, is not installed; the message has the
            command to type.
    """
    require_packages("RecBole's models", *EXTRAS["models"])
    spec = find_spec("recbole")
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            "RecBole is not installed. Its model classes are an asset, because its pinned "
            "requirements cannot be met: run `bench assets pull recbole`."
        )
    return Path(spec.origin).parent


@cache
def _packaged(model: str) -> Mapping[str, Any]:
    """The defaults that RecBole ships for one model."""
    path = require_recbole() / "properties" / "model" / f"{model}.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return {key: _typed(value) for key, value in raw.items()}


def _typed(value: Any) -> Any:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, list):
        return [_typed(v) for v in value]
    return None if value == "None" else value


def model_settings(
    model: str, overrides: Mapping[str, Any], *, max_history: int
) -> Mapping[str, Any]:
    """Everything a RecBole model reads from its configuration.

    Args:
        model: RecBole class name, for example ``SASRec``.
        overrides: settings of that model's YAML file to change.
        max_history: longest input (``MAX_ITEM_LIST_LENGTH``).

    Raises:
        ConfigError: a setting that the model does not have, or a value of another type.
        MissingExtraError: RecBole is not installed.
    """
    defaults = _packaged(model)
    for key, value in overrides.items():
        if key not in defaults:
            raise unknown_name(f"setting of RecBole's {model}", key, defaults)
        if not _fits(value, defaults[key]):
            raise ConfigError(
                f"setting {key} of RecBole's {model} is {value!r}; expected "
                f"{type(defaults[key]).__name__}, like its default {defaults[key]!r}."
            )
    return _Settings(
        {**defaults, **overrides, **_FIELDS, "MAX_ITEM_LIST_LENGTH": max_history, "device": "cpu"}
    )


def _fits(value: Any, default: Any) -> bool:
    """Whether a value has its default's type; whole numbers are also floats, None says nothing."""
    if default is None:
        return True
    # Python's bool is an int: True would be taken for the number 1.
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))


def build_model(
    model: str, settings: Mapping[str, Any], *, n_users: int, n_items: int, device: str = "cpu"
) -> nn.Module:
    """Construct RecBole's class ``model`` for a vocabulary (sizes without padding)."""
    require_recbole()
    with quiet_recbole(), _anomaly_mode_kept():
        module = import_module(f"recbole.model.sequential_recommender.{model.lower()}")
        made: nn.Module = getattr(module, model)(
            _Settings({**settings, "device": device}),
            _Vocabulary(n_users, n_items, settings["MAX_ITEM_LIST_LENGTH"]),
        )
    return made
