import contextlib
import hashlib
import http.server
import threading
import time
from typing import ClassVar

import pytest

from course_utils.download import fetch
from course_utils.errors import CourseError

DATA = bytes(range(256)) * 4000  # 1 MB
MD5 = hashlib.md5(DATA).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """/whole, /ranges (can resume), /cut (breaks off in the middle), /wrong, /hangs, /slow."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self):
        wanted = self.headers.get("Range")
        Server.asked.append((self.path, wanted))
        begin = int(wanted[6:-1]) if wanted and self.path == "/ranges" else 0
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
    assert "cut off after 0.3" in get(host, tmp_path, "/cut", "/ranges")
    assert Server.asked == [("/cut", None), ("/ranges", "bytes=300000-")]


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


def test_a_part_of_something_else_is_not_kept(host, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 500)
    assert "MD5" in get(host, tmp_path, "/ranges", "/ranges")


def test_when_all_fail_each_is_named_and_no_file_appears(host, tmp_path):
    with pytest.raises(CourseError, match=r"(?s)/wrong: sent something else.*/missing: HTTP Error 404"):
        get(host, tmp_path, "/wrong", "/missing")
    assert not (tmp_path / "file").exists()
