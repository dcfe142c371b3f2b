"""Which overrides a run remembers: those that change its configuration."""

from __future__ import annotations

import shutil

import pytest

from bench.errors import ConfigError
from bench.report.leaderboard import build_table
from bench.runs.matrix import expand
from bench.runs.runner import execute, prepare


def test_default_value_given_with_set_is_no_override_and_stays_on_the_leaderboard(store, make_spec):
    run = execute(make_spec("item-knn", overrides={"shrinkage": 5.0}), store)
    assert run.config["shrinkage"] == 5.0
    assert run.manifest["spec"]["overrides"] == {}
    execute(make_spec("popularity"), store)
    table = build_table(store.list(), "alpha")
    assert {row.method for block in table.blocks for row in block.rows} >= {"item-knn"}


def test_only_the_overrides_that_differ_from_the_profile_are_stored(store, make_spec):
    spec = make_spec("item-knn", overrides={"shrinkage": 5, "history_decay": 0.125})
    run = execute(spec, store)
    assert run.manifest["spec"]["overrides"] == {"history_decay": 0.125}
    assert run.run_id != execute(make_spec("item-knn"), store).run_id


def test_defaults_typed_out_are_the_same_run(make_spec, data_root):
    common = {"threads": 1, "data_root": data_root}
    plain = expand(["item-knn"], ["alpha"], **common)
    typed = expand(["item-knn"], ["alpha"], overrides={"shrinkage": 5.0}, **common)
    assert plain == typed


def test_other_brands_are_another_run_of_a_method_that_reads_them(make_spec, data_root, tmp_path):
    ids = {"title": set(), "brand": set()}
    for brand in ("Acme", "Zenith"):
        root = tmp_path / brand
        shutil.copytree(data_root / "alpha", root / "alpha")
        file = root / "alpha" / "alpha.item"
        head, *rows = file.read_text().splitlines()
        rows = [f"{row}\t{brand}" for row in rows]
        file.write_text("\n".join([f"{head}\tbrand:token", *rows]) + "\n")
        for column, seen in ids.items():
            overrides = {"pretrain": "none", "attributes": ["title", column][-1:]}
            spec = make_spec("recformer", overrides=overrides, data_root=root)
            seen.add(prepare(spec, planning=True).run_id)
    assert {column: len(seen) for column, seen in ids.items()} == {"title": 1, "brand": 2}


def test_a_column_that_a_domain_lacks_is_found_before_anything_is_trained(make_spec):
    overrides = {"attributes": ["title", "brand"]}
    with pytest.raises(ConfigError, match="alpha: its items have no column 'brand'"):
        prepare(make_spec("recformer", overrides=overrides, sources=("beta",)), planning=True)


def test_a_method_of_titles_is_refused_on_a_domain_without_any(make_spec, data_root, tmp_path):
    for name in ("alpha", "beta"):
        shutil.copytree(data_root / name, tmp_path / name)
    (tmp_path / "beta" / "beta.item").unlink()
    common = {"data_root": tmp_path, "sources": ("beta",)}
    with pytest.raises(ConfigError, match="beta: no item has a title, and unisrec"):
        prepare(make_spec("unisrec", **common), planning=True)
    assert prepare(make_spec("mcrpl", **common), planning=True)


def test_a_method_that_can_do_without_sources_says_how(make_spec):
    with pytest.raises(ConfigError, match="Without any, unisrec with --set pretrain=none learns"):
        prepare(make_spec("unisrec"), planning=True)


def test_other_weights_under_the_same_path_are_another_run(make_spec, tmp_path):
    file = tmp_path / "weights.bin"
    ids = []
    for content in (b"one", b"one", b"two"):
        file.write_bytes(content)
        spec = make_spec(
            "vq-rec", overrides={"checkpoint": str(file), "text_encoder": "all-minilm-l6-v2"}
        )
        prepared = prepare(spec, planning=True)
        assert list(prepared.resolved.content) == ["checkpoint"]
        ids.append(prepared.run_id)
    assert ids[0] == ids[1] != ids[2]
