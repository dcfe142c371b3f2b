"""Tensors out of files that other people's training code wrote, without running anything in them.

Such files are pickles. RecBole's hold its whole configuration object beside the weights, so
``torch.load(weights_only=True)`` refuses them, and ``weights_only=False`` runs whatever the file says.
Here every class and function that a pickle names becomes an inert stand-in, except those that
tensors are made of; these are rebuilt by the functions below, with bounds checked.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.errors import ConfigError, DataError

__all__ = ["Inert", "load_matching", "read_checkpoint", "read_state_dict"]

# First pickled value of torch's format before 1.6.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_STORAGES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

# Where training code puts the weights: RecBole and Lightning, then common habits.
_STATE_KEYS = ("state_dict", "model_state_dict", "model")


class Inert:
    """Stands in for an object of a class that is not loaded; takes anything and does nothing.

    Attributes:
        class_name: ``module.Class`` as the file names it.
    """

    class_name: ClassVar[str] = "?"

    def __new__(cls, *_args: Any, **_values: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_values: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_values: Any) -> Inert:
        return self

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        """Ignore what a pickled list subclass holds."""

    def extend(self, _values: Any) -> None:
        """Ignore what a pickled list subclass holds."""

    def add(self, _value: Any) -> None:
        """Ignore what a pickled set subclass holds."""

    def __repr__(self) -> str:
        return f"<{self.class_name}, not loaded>"


class _Storage:
    """Flat values of one storage; in the legacy format they follow after the object."""

    def __init__(self, dtype: torch.dtype, n_values: int) -> None:
        self.values = torch.empty(0, dtype=dtype)
        self.dtype = dtype
        self.n_values = n_values
        self.tensors: list[tuple[Tensor, int, tuple[int, ...], tuple[int, ...]]] = []

    def fill(self, data: bytes) -> None:
        """Take the bytes and finish the tensors that were announced before.

        Raises:
            DataError: fewer bytes than announced.
        """
        wanted = self.n_values * self.dtype.itemsize
        if len(data) < wanted:
            raise DataError(f"a storage holds {len(data)} bytes, expected {wanted}")
        if self.n_values:
            self.values = torch.frombuffer(bytearray(data[:wanted]), dtype=self.dtype)
        for tensor, offset, size, stride in self.tensors:
            tensor.data = self.values.as_strided(size, stride, offset).clone()
        self.tensors = []


class _TensorUnpickler(pickle.Unpickler):
    """Knows how tensors are made; everything else is :class:`Inert`."""

    def __init__(self, stream: Any, storage: Callable[[torch.dtype, str, int], _Storage]) -> None:
        super().__init__(stream, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _rebuild
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _parameter
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch", "Size"):
            return tuple
        return type("Inert", (Inert,), {"class_name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise DataError(f"a reference {str(pid)[:60]!r} is not to a storage")
        _, dtype, key, _, n_values = pid[:5]
        if len(pid) > 5 and pid[5] is not None:
            raise DataError("it holds views of storages, a format that no torch since 0.4 writes")
        if not isinstance(dtype, torch.dtype) or not isinstance(n_values, int) or n_values < 0:
            raise DataError(
                f"a storage is of kind {dtype!r}; expected one of {', '.join(_STORAGES)}"
            )
        return self._storage(dtype, str(key), n_values)


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_further: Any) -> Tensor:
    """A tensor of a storage, checked to lie inside it."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise DataError("a tensor is not made of a storage, a size and a stride")
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise DataError(f"a tensor has size {size}, stride {stride} and offset {offset}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # A stride of 0 would let a few bytes announce a tensor larger than the memory.
    if 0 not in size and max(last + 1, math.prod(size)) > storage.n_values:
        raise DataError(f"a tensor of size {tuple(size)} reaches beyond its storage")
    made = torch.empty(0, dtype=storage.dtype)
    storage.tensors.append((made, offset, tuple(size), tuple(stride)))
    return made


def _parameter(data: Any, *_further: Any) -> Any:
    return data


def _read_zip(path: Path) -> Any:
    """Torch's format since 1.6: a zip of one pickle and one file per storage."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise DataError(f"the archive holds {len(pickles)} files data.pkl, expected one")
        folder = pickles[0].removesuffix("data.pkl")
        order = entries.get(f"{folder}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise DataError("its numbers are big-endian")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise DataError("the archive is compressed, which torch never writes")
        storages: dict[str, _Storage] = {}

        def storage(dtype: torch.dtype, key: str, n_values: int) -> _Storage:
            if key not in storages:
                if f"{folder}data/{key}" not in entries:
                    raise DataError(f"storage {key} is missing")
                storages[key] = _Storage(dtype, n_values)
            return storages[key]

        value = _TensorUnpickler(io.BytesIO(archive.read(pickles[0])), storage).load()
        for key, one in storages.items():
            one.fill(archive.read(f"{folder}data/{key}"))
    return value


def _read_legacy(path: Path) -> Any:
    """Torch's format before 1.6: five pickles, then the storages in the order of the last one."""
    storages: dict[str, _Storage] = {}

    def storage(dtype: torch.dtype, key: str, n_values: int) -> _Storage:
        return storages.setdefault(key, _Storage(dtype, n_values))

    with path.open("rb") as stream:

        def following() -> Any:
            return _TensorUnpickler(stream, storage).load()

        if following() != _LEGACY_MAGIC or following() != _LEGACY_PROTOCOL:
            raise DataError("it is no file of torch.save")
        system = following()
        if not (isinstance(system, dict) and system.get("little_endian", True)):
            raise DataError("its numbers are big-endian")
        value = following()
        for key in following():
            one = storages.get(str(key))
            (n_values,) = struct.unpack("<q", stream.read(8))
            if one is None or n_values != one.n_values:
                raise DataError(f"storage {key} holds {n_values} values, not what was announced")
            one.fill(stream.read(n_values * one.dtype.itemsize))
    unfilled = [key for key, one in storages.items() if one.tensors]
    if unfilled:
        raise DataError(f"storage {unfilled[0]} is missing")
    return value


def read_checkpoint(path: Path) -> Any:
    """Read a file of ``torch.save``, in either of its formats, or of safetensors.

    Args:
        path: the file, for example ``UniSRec-FHCKM-300.pth``.

    Returns:
        What was saved: dicts, lists, numbers, texts and CPU tensors as they were, objects of any
        other class as :class:`Inert`.

    Raises:
        ConfigError: there is no such file.
        DataError: it is damaged, or in no format that torch or safetensors writes.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"checkpoint {path}: no such file. Give the path of the downloaded file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(
            f"checkpoint {path}: cannot be read ({type(error).__name__}: {error}). Expected a file "
            "written by torch.save or by safetensors; compare its size with the published one and "
            "download it again."
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint: a mapping of tensors, or one below ``state_dict`` or the like.

    Raises:
        ConfigError: there is no such file.
        DataError: it is damaged, or no mapping from names to tensors is in it.
    """
    value = read_checkpoint(path)
    places = [value]
    if isinstance(value, Mapping):
        places = [*(value[key] for key in _STATE_KEYS if key in value), value]
    for place in places:
        if isinstance(place, Mapping):
            tensors = {str(k): v for k, v in place.items() if isinstance(v, Tensor)}
            if tensors:
                return tensors
    found = (
        f"keys {', '.join(map(str, value))[:200]}" if isinstance(value, Mapping) else repr(value)
    )
    raise DataError(
        f"checkpoint {path}: found {found}, expected names with tensors, at the top or below one of: "
        f"{', '.join(_STATE_KEYS)}."
    )


def load_matching(
    model: torch.nn.Module,
    state: Mapping[str, Tensor],
    *,
    optional: Sequence[str] = (),
    origin: str,
) -> None:
    """Copy the weights of a checkpoint into a model, if all that must match does.

    Args:
        model: the model to fill.
        state: names and tensors of the checkpoint; what the model has no place for is ignored.
        optional: prefixes of names that keep the model's own values, such as tables of item ids.
        origin: the checkpoint's name for messages.

    Raises:
        ConfigError: a weight that is not optional is missing or has another shape.
    """
    own = model.state_dict()
    wanted = [name for name in own if not name.startswith(tuple(optional))]
    faults = [
        f"{name} is missing"
        if name not in state
        else f"{name} has shape {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in wanted
        if name not in state or state[name].shape != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ConfigError(
            f"checkpoint {origin} does not fit the configured model: {'; '.join(faults[:3])}{more}. "
            "Use the sizes and the text encoder that it was trained with."
        )
    model.load_state_dict({name: state[name] for name in wanted}, strict=False)
