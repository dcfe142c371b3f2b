"""No changed bit of a run's files passes: every reader finds it."""

from __future__ import annotations

import json

import pytest

from bench.errors import BenchError, ResultError
from bench.io import write_json
from bench.report.verify import verify_folder
from bench.runs.results import export_result
from bench.runs.runner import execute
from bench.runs.stored import FORMAT, read_manifest, read_run, seal_of, write_manifest


@pytest.fixture
def published(store, make_spec, tmp_path):
    run = execute(make_spec(extra_candidate_seeds=(1,)), store)
    return export_result(run, tmp_path / "results").path


def _read_all(folder):
    run = read_run(folder)
    run.outcomes()
    for key in run.sets:
        run.outcomes(key)


def _unseen(folder, name, flips):
    """Flips (offset, mask) after which everything can still be read."""
    path = folder / name
    right = path.read_bytes()
    passed = []
    for offset, mask in flips(len(right)):
        damaged = bytearray(right)
        damaged[offset] ^= mask
        path.write_bytes(damaged)
        try:
            read_manifest(folder) if name == "manifest.json" else _read_all(folder)
        except BenchError:
            continue
        passed.append((offset, mask, right[max(0, offset - 20) : offset + 20]))
    path.write_bytes(right)
    _read_all(folder)
    return passed


def test_a_flipped_bit_in_every_byte_is_found(published):
    def one_bit_each(size):
        return [(offset, 1 << offset % 8) for offset in range(size)]

    assert _unseen(published, "manifest.json", one_bit_each) == []

    def some(size):
        return [(offset, 1 << offset % 8) for offset in range(0, size, 1 + size // 150)]

    others = sorted(p for p in published.rglob("*") if p.is_file() and p.name != "manifest.json")
    assert len(others) == 3
    for path in others:
        assert _unseen(published, path.relative_to(published).as_posix(), some) == []


@pytest.mark.slow
def test_every_bit_and_every_byte_is_found(published):
    def every(size):
        return [(o, mask) for o in range(size) for mask in (*(1 << i for i in range(8)), 0xFF)]

    def one_bit_and_all(size):
        return [(o, mask) for o in range(size) for mask in (1 << o % 8, 0xFF)]

    for path in sorted(p for p in published.rglob("*") if p.is_file()):
        flips = every if path.name == "manifest.json" else one_bit_and_all
        assert _unseen(published, path.relative_to(published).as_posix(), flips) == []


def test_the_gate_names_a_flipped_bit_in_each_file(published):
    root = published.parents[1]
    assert verify_folder(root).problems == ()
    for path in sorted(p for p in published.rglob("*") if p.is_file()):
        right = path.read_bytes()
        path.write_bytes(right[:50] + bytes([right[50] ^ 4]) + right[51:])
        assert verify_folder(root).problems, path
        path.write_bytes(right)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["seconds"].update(total=0.1),
        lambda m: m["method"].update(trainable=False),
        lambda m: m.update(attempts=2),
        lambda m: m.update(note="added"),
        lambda m: m.update(seal="0" * 64),
        lambda m: m.update(seal=None),
    ],
)
def test_a_changed_cost_or_flag_is_refused(published, edit):
    manifest = json.loads((published / "manifest.json").read_text())
    edit(manifest)
    write_json(published / "manifest.json", manifest)
    with pytest.raises(ResultError, match=r"manifest\.json was changed: .* the seal"):
        read_run(published)


def test_a_removed_seal_is_refused_but_an_older_run_without_one_is_read(published):
    manifest = json.loads((published / "manifest.json").read_text())
    assert manifest["format"] == FORMAT
    del manifest["seal"]
    write_json(published / "manifest.json", manifest)
    with pytest.raises(ResultError, match="has no field 'seal'"):
        read_run(published)
    manifest["format"] = 1
    write_json(published / "manifest.json", manifest)
    assert read_run(published).manifest == manifest


def test_publishing_an_older_run_seals_it(published, tmp_path):
    manifest = json.loads((published / "manifest.json").read_text())
    del manifest["seal"]
    write_json(published / "manifest.json", manifest | {"format": 1})
    again = export_result(read_run(published), tmp_path / "again")
    assert again.manifest["seal"] == seal_of(again.manifest)
    assert verify_folder(tmp_path / "again").problems == ()


def test_a_seal_is_that_of_what_will_be_read(tmp_path):
    write_manifest(tmp_path, {"by_number": {10: 0.1, 9: (1, 2)}, "name": "é"})
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert json.loads(text)["seal"] == seal_of(json.loads(text))
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(tmp_path, {"share": float("nan")})
    assert (tmp_path / "manifest.json").read_text(encoding="utf-8") == text
