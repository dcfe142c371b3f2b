"""Users who cannot be ranked: left out for every method, counted, and named under the figures."""

from __future__ import annotations

import json


def with_collector(folder) -> str:
    """20 users of four of 12 items, and one who has them all."""
    lines = ["user_id,item_id,timestamp"]
    lines += [f"u{u:02d},i{(u + step) % 12:02d},{step}" for u in range(20) for step in range(4)]
    lines += [f"collector,i{i:02d},{i}" for i in range(12)]
    path = folder / "shop.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_full_ranking_leaves_out_who_has_every_item(cli, tmp_path):
    cli("data", "import", "shop", with_collector(tmp_path))
    words = ("run", "--method", "random", "--target", "shop", "--negatives", "full")
    run = json.loads(cli(*words, "--json").stdout)
    assert run["n_users"] == 20
    # Chance among the held-out item and the eight that a user does not know.
    assert abs(run["metrics"]["ndcg@1"]["mean"] - 1 / 9) < 1e-12
    shown = cli("runs", "show", run["run_id"], "--json").stdout
    left_out = json.loads(shown)["manifest"]["task"]["left_out"]
    assert left_out == {"n_users": 1, "needed": 1, "fewest": 0}
    note = "1 further user has no item left to rank the held-out one among"
    assert note in cli(*words).stdout
    assert note in cli("leaderboard", "--target", "shop").stdout
    table = json.loads(cli("leaderboard", "--target", "shop", "--format", "json").stdout)
    assert table["protocol"]["left_out"] == left_out


def test_too_many_negatives_leave_users_out_and_say_so(cli, tmp_path):
    cli("data", "import", "shop", with_collector(tmp_path))
    words = ("run", "--method", "random", "--target", "shop", "--n-negatives")
    assert "fewer than 8 items left" in cli(*words, 8, "--quiet").stdout
    hashed = cli("candidates", "hash", "--target", "shop", "--n-negatives", 8)
    assert "note: shop: 1 further user has fewer than 8 items left" in hashed.stderr
    refused = cli(*words, 9, code=1).stderr
    assert "--n-negatives 8" in refused
    assert "full" not in refused
