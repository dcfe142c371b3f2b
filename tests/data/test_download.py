"""Downloads from a loopback server that misbehaves in the ways real ones do."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from bench.data.catalogue import CATALOGUE, CatalogueEntry, RemoteFile
from bench.data.download import download, fetch
from bench.data.imports import verify
from bench.data.load import load_domain
from bench.errors import BenchError, ConfigError, DataError

BODY = bytes(range(256)) * 2000  # 512,000 bytes
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server:
    """One file; each request is answered by the next of ``script``, the last one repeats."""

    def __init__(self) -> None:
        self.body, self.etag = BODY, '"v1"'
        self.script: list[Callable] = [honest]
        self.requests: list[dict[str, str]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.requests.append(dict(self.headers))
                answer = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                self.close_connection = True
                with contextlib.suppress(ConnectionError):
                    answer(outer, self)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}/data.bin"

    @property
    def offsets(self):
        """First byte that each request asked for."""
        ranges = [request.get("Range", "bytes=0-") for request in self.requests]
        return [int(value.removeprefix("bytes=").rstrip("-")) for value in ranges]


def send(handler, status, headers, data=b""):
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name, value)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(data)
    handler.wfile.flush()


def honest(server, handler, stop=None):
    """Range requests with If-Range, as the standard has them; ``stop``: bytes before a cut."""
    wanted = handler.headers.get("Range")
    condition = handler.headers.get("If-Range")
    body, headers, status, first = server.body, {}, 200, 0
    if server.etag:
        headers["ETag"] = server.etag
    if wanted and condition in (None, server.etag):
        first = int(wanted.removeprefix("bytes=").rstrip("-"))
        if first >= len(body):
            send(handler, 416, {"Content-Range": f"bytes */{len(body)}"})
            return
        status = 206
        headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
    data = body[first:]
    headers["Content-Length"] = str(len(data))
    send(handler, status, headers, data if stop is None else data[:stop])


def drop(after):
    return lambda server, handler: honest(server, handler, stop=after)


def ignore_range(server, handler):
    send(handler, 200, {"ETag": server.etag}, server.body)


def status(code):
    return lambda server, handler: send(handler, code, {})


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def client():
    with httpx.Client(trust_env=False, timeout=10) as made:
        yield made


@pytest.fixture
def get(server, client, tmp_path):
    target = tmp_path / "data.bin"

    def call(size=None, sha256=None, **options):
        file = RemoteFile("data.bin", server.url, size, sha256)
        options = {"attempts": 3, "wait_seconds": 0.001, **options}
        return fetch(file, target, client=client, **options)

    call.target = target
    call.partial = tmp_path / "data.bin.partial"
    return call


def clean(get):
    return sorted(path.name for path in get.target.parent.glob("data.bin*")) == ["data.bin"]


def test_a_plain_download_is_checked_and_recorded(server, get):
    seen = []
    found = get(len(BODY), DIGEST, progress=lambda name, done, total: seen.append((done, total)))
    assert get.target.read_bytes() == BODY
    assert found == {"url": server.url, "size": len(BODY), "sha256": DIGEST, "validator": '"v1"'}
    assert clean(get)
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_dropped_connections_are_resumed_where_they_broke(server, get):
    server.script = [drop(100_000), drop(200_000), honest]
    get(len(BODY), DIGEST)
    assert get.target.read_bytes() == BODY
    first, second, third = server.offsets
    # Bytes on their way when the connection breaks may be lost, so the offsets are bounds.
    assert first == 0
    assert 0 < second <= 100_000
    assert second < third <= second + 200_000
    assert server.requests[1]["If-Range"] == '"v1"'


def test_breaks_that_bring_new_bytes_do_not_use_up_the_attempts(server, get):
    server.script = [*(drop(70_000) for _ in range(7)), honest]
    get(len(BODY), DIGEST, attempts=2)
    assert get.target.read_bytes() == BODY


def test_a_server_that_ignores_ranges_is_read_from_the_start(server, get):
    server.script = [drop(100_000), ignore_range]
    get(len(BODY), DIGEST)
    assert get.target.read_bytes() == BODY
    assert server.offsets[1] > 0


def test_a_file_that_changes_between_attempts_is_read_again(server, get):
    new = BODY[::-1]

    def change(server, handler):
        server.body, server.etag = new, '"v2"'
        honest(server, handler)

    server.script = [drop(100_000), change]
    assert get()["sha256"] == hashlib.sha256(new).hexdigest()
    assert get.target.read_bytes() == new


def test_a_changed_file_without_any_validator_is_noticed_by_its_size(server, get):
    server.etag = ""
    new = BODY + b"more"

    def change(server, handler):
        server.body = new
        honest(server, handler)

    server.script = [drop(100_000), change, honest]
    get()
    assert get.target.read_bytes() == new
    assert server.offsets[-1] == 0


def test_a_later_call_goes_on_from_the_part_that_was_kept(server, get):
    server.script = [drop(100_000), status(503)]
    with pytest.raises(BenchError, match=r"503.*2 attempts without progress.*bytes are kept in"):
        get(len(BODY), DIGEST, attempts=2)
    kept = get.partial.stat().st_size
    assert 0 < kept <= 100_000
    assert not get.target.exists()
    server.script, server.requests = [honest], []
    get(len(BODY), DIGEST)
    assert server.offsets == [kept]
    assert get.target.read_bytes() == BODY
    assert clean(get)


def test_a_part_of_another_address_is_not_used(server, get):
    get.partial.write_bytes(b"x" * 1000)
    record = get.partial.with_name(get.partial.name + ".json")
    record.write_text(json.dumps({"url": "http://other/", "validator": '"v1"', "total": len(BODY)}))
    get(len(BODY), DIGEST)
    assert server.offsets == [0]
    assert get.target.read_bytes() == BODY


def test_a_part_that_is_longer_than_the_file_starts_again(server, get):
    get.partial.write_bytes(b"x" * (len(BODY) + 5))
    record = get.partial.with_name(get.partial.name + ".json")
    record.write_text(json.dumps({"url": server.url, "validator": '"v1"', "total": len(BODY)}))
    get(len(BODY), DIGEST)
    assert get.target.read_bytes() == BODY


def test_unavailable_then_fine(server, get):
    server.script = [status(503), status(429), honest]
    get(len(BODY), DIGEST)
    assert get.target.read_bytes() == BODY


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(server, get):
    with pytest.raises(DataError, match=r"SHA-256 .*; expected 0000.*removed"):
        get(None, "0" * 64)
    assert list(get.target.parent.glob("data.bin*")) == []


def test_a_part_that_does_not_belong_is_caught_by_the_checksum(server, get):
    get.partial.write_bytes(b"x" * 1000)
    record = get.partial.with_name(get.partial.name + ".json")
    record.write_text(json.dumps({"url": server.url, "validator": '"v1"', "total": len(BODY)}))
    with pytest.raises(DataError, match="SHA-256"):
        get(len(BODY), DIGEST)
    get(len(BODY), DIGEST)
    assert get.target.read_bytes() == BODY


def test_a_wrong_size_is_an_error_before_the_download(server, get):
    with pytest.raises(DataError, match=r"announces 512000 bytes; expected 5"):
        get(5)
    assert list(get.target.parent.glob("data.bin*")) == []


def test_a_wrong_size_that_was_not_announced_is_an_error_too(server, get):
    def no_length(server, handler):
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(server.body)

    server.script = [no_length]
    with pytest.raises(DataError, match="512000 bytes; expected 5"):
        get(5)


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_gone_address_is_not_tried_again(server, get, code):
    server.script = [status(code)]
    with pytest.raises(DataError, match=rf"answered {code}.*https://page.*put it at"):
        get(homepage="https://page")
    assert len(server.requests) == 1


def test_redirects_are_followed(server, tmp_path):
    def elsewhere(server, handler):
        send(handler, 302, {"Location": "/moved.bin"})

    server.script = [elsewhere, honest]
    folder = download(entry_of(server), folder=tmp_path / "d")
    assert (folder / "data.bin").read_bytes() == BODY


def test_nobody_listens(client, tmp_path):
    file = RemoteFile("x", "http://127.0.0.1:9/x")
    with pytest.raises(BenchError, match=r"connection failed .*2 attempts without progress"):
        fetch(file, tmp_path / "x", client=client, attempts=2, wait_seconds=0.001)


def entry_of(server, sha256=DIGEST):
    return CatalogueEntry(
        name="toy",
        title="Toy",
        group=None,
        namespace=None,
        kind="movielens",
        homepage="https://page",
        terms="none",
        files=(RemoteFile("data.bin", server.url, None, sha256),),
    )


@pytest.mark.parametrize("known", [DIGEST, None], ids=["known checksum", "unknown checksum"])
def test_download_leaves_finished_files_alone(server, client, tmp_path, own_cache, known):
    folder = download(entry_of(server, known), client=client)
    assert folder == own_cache / "domains" / "toy"
    record = json.loads((folder / "download.json").read_text())
    assert record["files"]["data.bin"]["sha256"] == DIGEST
    download(entry_of(server, known), client=client)
    assert len(server.requests) == 1
    (folder / "data.bin").write_bytes(b"damaged")
    download(entry_of(server, known), client=client)
    assert len(server.requests) == 2
    assert (folder / "data.bin").read_bytes() == BODY


def test_embedded_domains_have_nothing_to_download():
    with pytest.raises(ConfigError, match="bench assets pull ml-100k"):
        download(CATALOGUE["ml100k-drama"])


def test_a_downloaded_domain_is_loaded_and_verified_by_name(server, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "1::10::5::100\n1::11::4::50\n2::10::3::7\n")
        archive.writestr("ml-1m/movies.dat", "10::Ten (1999)::Drama\n11::Eleven::War|Crime\n")
    server.body = packed.getvalue()
    file = RemoteFile("ml-1m.zip", server.url, len(server.body))
    monkeypatch.setitem(CATALOGUE, "ml-1m", replace(CATALOGUE["ml-1m"], files=(file,)))
    server.script = [drop(60), honest]
    folder = download(CATALOGUE["ml-1m"], wait_seconds=0.001)
    domain = load_domain("ml-1m")
    assert domain.items.titles.to_list() == ["Ten (1999)", "Eleven"]
    assert domain.sequences[0].tolist() == [1, 0]
    (problem,) = verify("ml-1m")
    assert "users: 2 instead of 6040" in problem
    with (folder / "ml-1m.zip").open("ab") as stream:
        stream.write(b"x")
    assert verify("ml-1m") == [f"{folder / 'ml-1m.zip'}: content differs from the recorded SHA-256"]
