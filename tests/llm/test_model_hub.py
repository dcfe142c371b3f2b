"""Downloads from a hub that runs on this machine, in processes of their own: real client, real cache."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROBE = """
import json, sys
from bench.errors import BenchError
from bench.llm.backbones import resolve_backbone
for name in sys.argv[1:]:
    said = []
    try:
        backbone = resolve_backbone(name, progress=said.append)
        result = {"folder": str(backbone.folder), "hash": backbone.content_hash}
    except BenchError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps({**result, "said": said}))
"""


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's API that a snapshot download uses."""

    repositories: dict[str, Path]
    asked: list[str]

    def log_message(self, *_args: object) -> None:
        pass

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.asked.append(f"{self.command} {path}")
        words = path.strip("/").split("/")
        api = words[0] == "api"
        name = "/".join(words[2:4] if api else words[0:2])
        revision = next((words[i + 1] for i, w in enumerate(words) if w in self._verbs()), "main")
        if name == "some/gated":
            self._answer(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask the owner"})
        elif name not in self.repositories:
            self._answer(404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", COMMIT):
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif api:
            self._answer(200, {"Content-Type": "application/json"}, self._listing(name, words))
        else:
            file = self.repositories[name] / "/".join(words[4:])
            body = file.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()}"'
            self._answer(200, {"ETag": etag, "X-Repo-Commit": COMMIT}, body)

    do_HEAD = do_GET  # noqa: N815 - the name that the server calls

    @staticmethod
    def _verbs() -> tuple[str, ...]:
        return ("revision", "tree", "resolve")

    def _listing(self, name: str, words: list[str]) -> bytes:
        files = sorted(self.repositories[name].iterdir())
        if "tree" in words:
            entries = [
                {
                    "type": "file",
                    "path": file.name,
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for file in files
            ]
            return json.dumps(entries).encode()
        siblings = [{"rfilename": file.name} for file in files]
        return json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()


@pytest.fixture
def hub(tiny_llama: Path, tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Address of a hub with three repositories, and the list of what it was asked for."""
    served = tmp_path / "served"
    served.mkdir()
    for file in tiny_llama.iterdir():
        (served / file.name).write_bytes(file.read_bytes())
    (served / "pytorch_model.bin").write_bytes(b"a pickle that nobody may fetch")
    (served / "README.md").write_text("not needed")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in tiny_llama.iterdir():
        if file.suffix != ".safetensors":
            (pickled / file.name).write_bytes(file.read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"a pickle that nobody may fetch")
    asked: list[str] = []
    repositories = {"some/model": served, "some/pickled": pickled}
    handler = type("Handler", (Hub,), {"repositories": repositories, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


def resolve(names: list[str], endpoint: str, home: Path, **environment: str) -> list[dict]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *names],
        capture_output=True,
        text=True,
        env={
            **clean,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home / "hf"),
            "BENCH_CACHE": str(home / "bench"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
            **environment,
        },
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_model_is_downloaded_once_and_then_used_without_network(hub, tmp_path, tiny_llama):
    endpoint, asked = hub
    first, again = resolve(["some/model", "some/model"], endpoint, tmp_path)
    assert first["said"] == ["downloading some/model from the Hugging Face hub"], first
    assert again == {**first, "said": []}
    fetched = {file.name for file in Path(first["folder"]).iterdir()}
    assert fetched == {file.name for file in tiny_llama.iterdir()}
    assert not any("pytorch_model.bin" in line or "README" in line for line in asked)

    asked.clear()
    assert resolve(["some/model"], endpoint, tmp_path) == [again]
    assert asked == []
    offline, pinned = resolve(
        ["some/model", f"some/model@{COMMIT}"], endpoint, tmp_path, HF_HUB_OFFLINE="1"
    )
    assert offline == again
    assert pinned["hash"] == first["hash"]

    (Path(first["folder"]) / "model.safetensors").unlink()
    [completed] = resolve(["some/model"], endpoint, tmp_path)
    assert completed == first


def test_a_refusal_of_the_hub_says_what_to_do(hub, tmp_path) -> None:
    expected = {
        "some/gated": ["gated", "HF_TOKEN"],
        "some/absent": ["no such model", "hf auth login"],
        "some/model@v9": ["no such model or revision", "@REVISION"],
        "some/pickled": ["no weights", "model.safetensors"],
    }
    for (name, words), result in zip(
        expected.items(), resolve([*expected], hub[0], tmp_path), strict=True
    ):
        assert result["error"] == "ConfigError", result
        assert all(word in result["message"] for word in [*words, name]), result["message"]


def test_without_network_the_error_names_the_way_out(tmp_path: Path) -> None:
    [offline] = resolve(["some/model"], "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert offline["error"] == "BenchError"
    assert "HF_HUB_OFFLINE" in offline["message"] and "hf download" in offline["message"]
    [unreachable] = resolve(["some/model"], "http://127.0.0.1:9", tmp_path)
    assert unreachable["error"] == "BenchError", unreachable
    assert "HF_ENDPOINT" in unreachable["message"]
