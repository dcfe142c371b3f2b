"""Foreign checkpoints: everything torch wrote comes back, nothing in the file runs."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench.checkpoints import Inert, load_matching, read_checkpoint, read_state_dict
from bench.errors import ConfigError, DataError

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Malicious:
    """Creates a folder where it is unpickled by anything that runs what pickles say."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


class ListLike(list):  # type: ignore[type-arg]
    pass


class DictLike(dict):  # type: ignore[type-arg]
    pass


def save(value: Any, path: Path, zipped: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "base": base,
        "transposed": base.T,
        "slice": base[1:3, 2:],
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.zeros(0, 7),
        "bf16": torch.randn(3).bfloat16(),
        "half": torch.randn(3).half(),
        "ids": torch.tensor([[1, -2]]),
        "mask": torch.tensor([True, False]),
        "bytes": torch.tensor([1, 255], dtype=torch.uint8),
    }


@FORMATS
def test_every_tensor_comes_back(tmp_path: Path, zipped: bool) -> None:
    saved = tensors()
    read = read_checkpoint(save(saved, tmp_path / "a.pth", zipped))
    assert list(read) == list(saved)
    for name, expected in saved.items():
        assert read[name].dtype == expected.dtype
        torch.testing.assert_close(read[name], expected, rtol=0, atol=0)


@FORMATS
def test_a_recbole_checkpoint_with_its_configuration_object(tmp_path: Path, zipped: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimiser.step()
    file = {
        "config": argparse.Namespace(hidden_size=300, further=ListLike([1, DictLike(a=2)])),
        "epoch": 300,
        "state_dict": model.state_dict(),
        "optimizer": optimiser.state_dict(),
    }
    path = save(file, tmp_path / "a.pth", zipped)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    read = read_checkpoint(path)
    assert read["epoch"] == 300
    assert isinstance(read["config"], Inert)
    assert "Namespace" in repr(read["config"])
    state = read_state_dict(path)
    assert list(state) == list(model.state_dict())
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(state[name], expected, rtol=0, atol=0)


@FORMATS
def test_nothing_in_the_file_runs(tmp_path: Path, zipped: bool) -> None:
    trap = tmp_path / "trap"
    path = save({"w": torch.ones(2), "evil": Malicious(trap)}, tmp_path / "a.pth", zipped)
    read = read_checkpoint(path)
    assert not trap.exists()
    assert isinstance(read["evil"], Inert)
    torch.testing.assert_close(read["w"], torch.ones(2))
    # The trap is one: torch's own reader springs it.
    torch.load(path, weights_only=False)
    assert trap.is_dir()


@FORMATS
def test_parameters_and_ordered_dicts(tmp_path: Path, zipped: bool) -> None:
    saved = OrderedDict(w=nn.Parameter(torch.ones(2, 2)), b=torch.zeros(2))
    state = read_state_dict(save(saved, tmp_path / "a.bin", zipped))
    torch.testing.assert_close(state["w"], torch.ones(2, 2))
    assert list(state) == ["w", "b"]


def test_safetensors(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    torch.testing.assert_close(read_state_dict(tmp_path / "a.safetensors")["w"], torch.ones(2))


@FORMATS
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.98])
def test_a_cut_file_is_named(tmp_path: Path, zipped: bool, keep: float) -> None:
    path = save({"w": torch.randn(300)}, tmp_path / "a.pth", zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match=r"a\.pth: cannot be read .*download it again"):
        read_checkpoint(path)


def test_an_absent_file_and_a_text_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"b\.pth: no such file"):
        read_checkpoint(tmp_path / "b.pth")
    (tmp_path / "c.pth").write_text("<html>not found</html>")
    with pytest.raises(DataError, match="cannot be read"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "config": None}, tmp_path / "a.pth")
    with pytest.raises(DataError, match=r"found keys epoch, config, expected names with tensors"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((2,), (1,), 3), ((2, 2), (3, 1), 0), ((10**12,), (0,), 0), ((2,), (-1,), 3)],
)
def test_a_tensor_beyond_its_storage_is_refused(
    tmp_path: Path, size: Any, stride: Any, offset: int
) -> None:
    """A forged pickle cannot read other memory, nor ask for more than there is."""
    path = tmp_path / "a.pth"
    torch.save(torch.arange(4.0), path)
    storage_marker = object()

    class Forged:
        def __reduce__(self) -> tuple[Any, ...]:
            empty: OrderedDict[str, Any] = OrderedDict()
            arguments = (storage_marker, offset, size, stride, False, empty)
            return torch._utils._rebuild_tensor_v2, arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return (
                ("storage", torch.FloatStorage, "0", "cpu", 4) if value is storage_marker else None
            )

    with (tmp_path / "data.pkl").open("wb") as stream:
        Pickler(stream, protocol=2).dump(Forged())
    with zipfile.ZipFile(path) as archive:
        entries = {e.filename: archive.read(e) for e in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            forged = name.endswith("data.pkl")
            archive.writestr(name, (tmp_path / "data.pkl").read_bytes() if forged else content)
    with pytest.raises(DataError, match="a tensor"):
        read_checkpoint(path)


def test_loading_keeps_what_never_transfers_and_refuses_what_does_not_fit() -> None:
    class Model(nn.Module):
        def __init__(self, n_items: int, size: int) -> None:
            super().__init__()
            self.item_embedding = nn.Embedding(n_items, size)
            self.encoder = nn.Linear(size, size)

    theirs, ours = Model(9, 4), Model(5, 4)
    kept = ours.item_embedding.weight.detach().clone()
    load_matching(
        ours,
        {**theirs.state_dict(), "loss.weight": torch.ones(1)},
        optional=["item_embedding."],
        origin="x.pth",
    )
    torch.testing.assert_close(ours.item_embedding.weight.detach(), kept)
    torch.testing.assert_close(ours.encoder.weight, theirs.encoder.weight)
    with pytest.raises(
        ConfigError, match=r"x\.pth does not fit .*item_embedding\.weight has shape"
    ):
        load_matching(ours, theirs.state_dict(), origin="x.pth")
    with pytest.raises(ConfigError, match=r"encoder\.weight is missing"):
        load_matching(ours, {}, optional=["item_embedding."], origin="x.pth")
