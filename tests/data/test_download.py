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
from faults import table

from course_utils.data import download
from course_utils.data.download import fetch, fetch_members
from course_utils.errors import CourseError, DiskFullError

DATA = bytes(range(256)) * 4000  # 1 MB
MD5 = hashlib.md5(DATA).hexdigest()


MEMBERS = {"a.bin": b"a" * 500_000, "b.bin": bytes(range(256)) * 1000}
MEMBER_MD5 = {name: hashlib.md5(data).hexdigest() for name, data in MEMBERS.items()}
AFTER = np.random.default_rng(0).bytes(20_000_000)  # what a stream that stops in time never asks for


def archive(members, after=AFTER):
    """A .tar.gz like STL-10's: some members in a folder, then a large one that nobody wants."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, data in [*members.items(), ("unlabeled.bin", after)]:
            info = tarfile.TarInfo(f"stl10_binary/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


ARCHIVES = {
    "/tar": archive(MEMBERS), "/tar-other-order": archive(dict(reversed(MEMBERS.items()))),
    "/tar-short": archive({"a.bin": MEMBERS["a.bin"]}, b""), "/tar-wrong": archive(MEMBERS | {"b.bin": b"other"}),
    "/tar-bomb": archive({"long.bin": bytes(30_000_000)} | MEMBERS, b""),
    "/tar-cut": archive(MEMBERS)[:2_000], "/tar-slow": archive(MEMBERS), "/tar-hangs": b"", "/tar-html": b"<html>Sorry",
}


class Server(http.server.BaseHTTPRequestHandler):
    """/whole, /ranges (can resume), /cut (breaks off in the middle), /wrong, /hangs, /slow."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self):
        wanted = self.headers.get("Range")
        Server.asked.append((self.path, wanted))
        begin = int(wanted[6:-1]) if wanted and self.path == "/ranges" else 0
        if self.path in ARCHIVES:
            self._send_archive(ARCHIVES[self.path])
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        if begin >= len(DATA):
            self.send_error(416)
            return
        data = b"<html>Sorry</html>" if self.path == "/wrong" else DATA[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._send(data)

    def _send(self, data):
        if self.path == "/cut":
            self.wfile.write(data[:300_000])
            self.wfile.flush()
            self.connection.close()
        elif self.path == "/hangs":
            time.sleep(3)
        elif self.path == "/slow":
            for k in range(0, len(data), 1000):
                self.wfile.write(data[k:k + 1000])
                time.sleep(0.05)
        else:
            self.wfile.write(data)

    def _send_archive(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(max(len(data), 100_000 if self.path == "/tar-cut" else 1)))
        self.end_headers()
        Server.sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if self.path == "/tar-hangs":
                time.sleep(3)
            step = 300 if self.path == "/tar-slow" else 10_000
            for k in range(0, len(data), step):
                self.wfile.write(data[k:k + step])
                Server.sent += step
                if self.path == "/tar-slow":
                    time.sleep(0.2)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def get(host, tmp_path, *paths, **limits):
    said = []
    Server.asked.clear()
    limits = {"stall": 0.5, "patience": 0.3, "limit": 2} | limits
    path = fetch([host + p for p in paths], tmp_path / "file", MD5, said.append, **limits)
    assert path.read_bytes() == DATA
    assert not (tmp_path / "file.part").exists()
    return " ".join(said)


def test_whole(host, tmp_path):
    get(host, tmp_path, "/whole")


def test_a_cut_download_goes_on_at_the_next_mirror(host, tmp_path):
    told = get(host, tmp_path, "/cut", "/wrong", "/ranges")
    assert table.said(15, told) and "cut off after 0.3" in told
    assert Server.asked[:2] == [("/cut", None), ("/wrong", "bytes=300000-")]


def test_a_host_that_cannot_resume_begins_anew(host, tmp_path):
    (tmp_path / "file.part").write_bytes(DATA[:1000])
    get(host, tmp_path, "/whole")


def test_an_earlier_part_that_is_whole_is_taken(host, tmp_path):
    (tmp_path / "file.part").write_bytes(DATA)
    get(host, tmp_path, "/ranges")


@pytest.mark.parametrize(("path", "said"), [
    ("/wrong", "MD5"), ("/hangs", "timed out"), ("/slow", "too slow"), ("/missing", "404"),
])
def test_a_bad_mirror_gives_way(host, tmp_path, path, said):
    assert said in get(host, tmp_path, path, "/ranges")


def test_neither_a_slow_host_nor_one_that_hangs_is_waited_for(host, tmp_path):
    begun = time.monotonic()
    assert table.said(16, get(host, tmp_path, "/slow", "/hangs", "/ranges"))
    assert time.monotonic() - begun < 5


def test_a_part_of_something_else_is_not_kept(host, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 500)
    assert "MD5" in get(host, tmp_path, "/ranges", "/ranges")


def test_when_all_fail_each_is_named_and_no_file_appears(host, tmp_path):
    with pytest.raises(CourseError, match=r"(?s)/wrong: sent something else.*/missing: HTTP Error 404"):
        get(host, tmp_path, "/wrong", "/missing")
    assert not (tmp_path / "file").exists()


def members(host, tmp_path, *paths):
    said = []
    fetch_members([host + p for p in paths], tmp_path, MEMBER_MD5, said.append, limit=1.5, last_limit=1.5, stall=0.5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == MEMBERS
    return " ".join(said)


@pytest.mark.parametrize("path", ["/tar", "/tar-other-order"])
def test_a_stream_stops_behind_the_last_member_that_is_needed(host, tmp_path, path):
    members(host, tmp_path, path)
    time.sleep(0.3)
    assert Server.sent < len(ARCHIVES[path]) * 0.8  # what the sockets hold may be sent already


@pytest.mark.parametrize(("path", "said"), [
    ("/tar-short", "ended without b.bin"), ("/tar-wrong", "sent another b.bin"), ("/tar-cut", "end"),
    ("/tar-slow", "too slow"), ("/tar-hangs", "timed out"), ("/tar-html", "Not a gzipped file"), ("/missing", "404"),
])
def test_a_stream_that_fails_gives_way_and_leaves_no_half_member(host, tmp_path, path, said):
    assert said in members(host, tmp_path, path, "/tar")
    with pytest.raises(CourseError, match=said):
        fetch_members([host + path], tmp_path / "new", MEMBER_MD5, limit=1.5, last_limit=1.5, stall=0.5)
    assert {p.name for p in (tmp_path / "new").iterdir()} <= {"a.bin"}


def test_a_bomb_is_refused_before_it_fills_the_disk(host, tmp_path, monkeypatch):
    """130 kB that unpack to 30 MB, and a file longer than any that the course has."""
    assert len(ARCHIVES["/tar-bomb"]) < 300_000
    monkeypatch.setattr(download, "LARGEST", 10 << 20)
    with pytest.raises(CourseError, match="holds over 10 MiB before what is needed: refused"):
        fetch_members([host + "/tar-bomb"], tmp_path / "new", MEMBER_MD5)
    monkeypatch.setattr(download, "LARGEST", 500_000)
    with pytest.raises(CourseError, match="none of the course's files: refused"):
        fetch([host + "/whole"], tmp_path / "new" / "file", MD5)
    assert list((tmp_path / "new").iterdir()) == []


def test_whole_members_are_kept(host, tmp_path):
    with pytest.raises(CourseError):
        fetch_members([host + "/tar-wrong"], tmp_path, MEMBER_MD5)
    kept = (tmp_path / "a.bin").stat().st_mtime_ns
    members(host, tmp_path, "/tar")
    assert (tmp_path / "a.bin").stat().st_mtime_ns == kept


def test_a_full_disk_is_no_mirrors_fault(host, tmp_path):
    """Neither is the next mirror asked, nor does half a member stay."""
    Server.asked.clear()
    with file_size_limit(10_000), pytest.raises(DiskFullError, match=r"cannot hold it: .* MB free.* --root"):
        fetch_members([host + "/tar", host + "/tar"], tmp_path, MEMBER_MD5)
    assert len(Server.asked) == 1
    assert list(tmp_path.iterdir()) == []
    with file_size_limit(10_000), pytest.raises(DiskFullError, match="cannot hold it"):
        fetch([host + "/whole", host + "/whole"], tmp_path / "file", MD5)
    assert not (tmp_path / "file").exists()
    assert get(host, tmp_path, "/whole") is not None  # with room again it goes on
