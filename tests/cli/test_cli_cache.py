"""The verbs for what was made once: a damaged entry is named, removed, and made again."""

from __future__ import annotations

import json
from pathlib import Path


def test_a_damaged_domain_is_named_removed_and_prepared_again(cli, tiny, tmp_path):
    hashed = cli("candidates", "hash", "--target", tiny).stdout
    (entry,) = json.loads(cli("cache", "list", "--json").stdout)
    assert entry["kind"] == "prepared domains" and entry["bytes"] > 0
    name = entry["name"]
    assert f"{name}: intact" in cli("cache", "verify").stdout
    file = Path(tmp_path / "cache" / "domains-cache" / name / "items.npy")
    content = bytearray(file.read_bytes())
    content[-4] ^= 1
    file.write_bytes(content)
    assert f"{name}: damaged" in cli("cache", "verify", name, code=1).stdout
    refused = cli("candidates", "hash", "--target", tiny, code=1)
    assert refused.stdout == "" and f"bench cache rm {name}" in refused.stderr
    assert name in cli("cache", "rm", name).stdout
    assert cli("candidates", "hash", "--target", tiny).stdout == hashed
    assert "Did you mean" in cli("cache", "rm", name[:-1], code=2).stderr
