"""Downloading from a local server whose mirrors are cut off, wrong, slow, silent or missing."""
import contextlib
import hashlib
import http.server
import io
import tarfile
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
from helpers import file_size_limit

from course_utils.data.download import download, download_members
from course_utils.errors import CourseError, DiskFullError

DATA = bytes(range(256)) * 4000  # 1 MB
MD5 = hashlib.md5(DATA).hexdigest()
MEMBERS = {"a.bin": b"a" * 500_000, "b.bin": bytes(range(256)) * 1000}
MEMBER_MD5 = {name: hashlib.md5(data).hexdigest() for name, data in MEMBERS.items()}
REST = np.random.default_rng(0).bytes(20_000_000)  # what a stream that stops in time never requests


def archive(members, rest=REST):
    """A .tar.gz like STL-10's: some members in a folder, then a large one that nobody needs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, data in [*members.items(), ("unlabeled.bin", rest)]:
            info = tarfile.TarInfo(f"stl10_binary/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


FILES = {
    "/page": b"x" * 100, "/odd": DATA,
    "/file": DATA, "/ranges": DATA, "/cut": DATA, "/slow": DATA, "/hangs": DATA, "/wrong": b"<html>Sorry</html>",
    "/tar": archive(MEMBERS), "/tar-other-order": archive(dict(reversed(MEMBERS.items()))),
    "/tar-short": archive({"a.bin": MEMBERS["a.bin"]}, b""), "/tar-wrong": archive(MEMBERS | {"b.bin": b"other"}),
    "/tar-cut": archive(MEMBERS),
}


class Server(http.server.BaseHTTPRequestHandler):
    """Sends ``FILES``: /ranges can resume, /cut and /tar-cut break off, /hangs is silent, /slow takes minutes.

    /drips sends its header a byte every 0.2 seconds; the length that /odd names is no number.
    """

    requests: ClassVar[list[tuple[str, str | None]]] = []
    sent: ClassVar[int] = 0

    def do_GET(self):
        requested = self.headers.get("Range")
        Server.requests.append((self.path, requested))
        start = int(requested[6:-1]) if requested and self.path == "/ranges" else 0
        if self.path.startswith("/drips"):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for byte in b"HTTP/1.0 200 OK\r\nX-Padding: " + b"x" * 200:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.2)
            return
        data = FILES.get(self.path, b"")[start:]
        if not data:
            self.send_error(416 if start else 404)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", "1000000, 1000000" if self.path == "/odd" else str(len(data)))
        self.end_headers()
        data = data[:{"/cut": 300_000, "/tar-cut": 2_000}.get(self.path, len(data))]
        if self.path == "/hangs":
            time.sleep(2)
        step = 1000 if self.path == "/slow" else 10_000
        Server.sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for k in range(0, len(data), step):
                self.wfile.write(data[k:k + step])
                Server.sent += step
                time.sleep(0.05 if self.path == "/slow" else 0)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def get(host, folder, *paths):
    """Download DATA from these mirrors; returns the messages."""
    messages = []
    Server.requests.clear()
    path = download([host + p for p in paths], folder / "file", MD5, messages.append, deadline=0.3, timeout=0.5)
    assert path.read_bytes() == DATA and [p.name for p in folder.iterdir()] == ["file"]
    return " ".join(messages)


def test_an_interrupted_download_resumes_at_the_next_mirror(host, tmp_path):
    messages = get(host, tmp_path, "/cut", "/wrong", "/ranges")
    assert "interrupted after 0.3 of 1.0 MB (kept, to resume)" in messages
    assert Server.requests[:2] == [("/cut", None), ("/wrong", "bytes=300000-")]
    get(host, tmp_path, "/cut")  # it is complete: nothing is asked for
    assert Server.requests == []
    (tmp_path / "file").unlink()
    get(host, tmp_path, "/cut", "/ranges")
    assert Server.requests == [("/cut", None), ("/ranges", "bytes=300000-")]


@pytest.mark.parametrize(("part", "mirrors", "message"), [
    (DATA[:1000], ["/file"], ""),  # this mirror cannot resume
    (DATA, ["/ranges"], ""),  # complete already
    (DATA[:1000], ["/page", "/ranges"], "sent 100 bytes, fewer than the part"),  # an error page with status 200
    (b"", ["/odd"], ""),
    (b"x" * 500, ["/ranges", "/ranges"], "MD5"),  # of another file
])
def test_an_earlier_part_is_used_or_replaced(host, tmp_path, part, mirrors, message):
    (tmp_path / "file.part").write_bytes(part)
    assert message in get(host, tmp_path, *mirrors)


@pytest.mark.parametrize(("path", "message"), [
    ("/wrong", "MD5"), ("/hangs", "timed out"), ("/slow", "too slow"), ("/missing", "404"),
    ("/drips", "no complete header within 1 seconds")])
def test_a_failing_mirror_is_followed_by_the_next(host, tmp_path, path, message):
    start = time.monotonic()
    assert message in get(host, tmp_path, path, "/ranges")
    assert time.monotonic() - start < 5


def test_the_error_names_every_mirror(host, tmp_path):
    with pytest.raises(CourseError, match=r"(?s)/wrong: sent another file.*/missing: HTTP Error 404"):
        download([host + "/wrong", host + "/missing"], tmp_path / "file", MD5, lambda _: None)
    assert not (tmp_path / "file").exists()


def get_members(host, folder, *paths):
    messages = []
    download_members([host + p for p in paths], folder, MEMBER_MD5, messages.append, deadline=1.5, timeout=0.5)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == MEMBERS
    return " ".join(messages)


@pytest.mark.parametrize("path", ["/tar", "/tar-other-order"])
def test_a_stream_stops_after_the_last_needed_member(host, tmp_path, path):
    get_members(host, tmp_path, path)
    time.sleep(0.3)
    assert Server.sent < len(FILES[path]) * 0.8  # the sockets' buffers may be filled already


@pytest.mark.parametrize(("path", "message"), [
    ("/tar-short", "ended without b.bin"), ("/tar-wrong", "sent another b.bin"), ("/tar-cut", "end"),
    ("/hangs", "timed out"), ("/wrong", "not a gzip file"), ("/missing", "404"), ("/drips", "no complete header"),
])
def test_a_failing_stream_leaves_only_complete_members(host, tmp_path, path, message):
    with pytest.raises(CourseError, match=message):
        download_members([host + path], tmp_path, MEMBER_MD5, lambda _: None, deadline=1.5, timeout=0.5)
    complete = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert set(complete) <= {"a.bin"}
    assert message in get_members(host, tmp_path, path, "/tar")
    assert all((tmp_path / name).stat().st_mtime_ns == modified for name, modified in complete.items())  # kept


def test_a_full_disk_stops_the_download(host, tmp_path):
    """Neither is the next mirror tried, nor is an incomplete member left."""
    Server.requests.clear()
    message = r"is full: File too large \(.* MB free\).* --root"
    with file_size_limit(10_000), pytest.raises(DiskFullError, match=message):
        download_members([host + "/tar", host + "/tar"], tmp_path, MEMBER_MD5, lambda _: None)
    assert len(Server.requests) == 1 and list(tmp_path.iterdir()) == []
    with file_size_limit(10_000), pytest.raises(DiskFullError, match=message):
        download([host + "/file", host + "/file"], tmp_path / "file", MD5, lambda _: None)
    assert not (tmp_path / "file").exists()
    get(host, tmp_path, "/file")
