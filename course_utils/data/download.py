"""Downloading a file, or some members of an archive: mirrors in turn, resumed, limited in time, checked by MD5."""
import hashlib
import http.client
import multiprocessing.pool
import os
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from course_utils.errors import CourseError, DiskFullError
from course_utils.utils import DISK_FULL, atomic_write, disk_error

TIMEOUT = 30.0  # seconds without a single byte
DEADLINE = 1800.0  # seconds for a file from one mirror; the last mirror has eight times as long
ERRORS = (OSError, http.client.HTTPException, tarfile.TarError, EOFError, zlib.error, ValueError)  # of a mirror


def file_md5(path: Path) -> str:
    """MD5 of a file as hexadecimal digits: the checksum that the data sets' authors published."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def download(mirrors: Sequence[str], path: Path, md5: str, log: Callable[[str], None] = print,
             deadline: float = DEADLINE, timeout: float = TIMEOUT) -> Path:
    """Download the file that all ``mirrors`` offer to ``path`` and return it; times in seconds.

    An interrupted download leaves ``<path>.part`` and resumes there, also from another mirror; ``path`` only ever holds
    the complete file with the right ``md5``. A mirror that fails, hangs or is too slow is followed by the next. Raises
    ``CourseError`` with the error of each mirror.
    """
    if path.is_file() and file_md5(path) == md5:
        return path
    part = path.with_name(path.name + ".part")

    def get(url: str, limit: float) -> None:
        _download(url, part, log, limit, timeout)
        if (found := file_md5(part)) != md5:
            part.unlink()
            raise CourseError(f"sent another file (MD5 {found}, not {md5})")
        os.replace(part, path)

    _try_mirrors(mirrors, get, path.parent, log, deadline)
    return path


def download_members(mirrors: Sequence[str], folder: Path, members: Mapping[str, str],
                     log: Callable[[str], None] = print, deadline: float = DEADLINE, timeout: float = TIMEOUT) -> None:
    """Put ``members`` (file name -> MD5) of the .tar.gz that all ``mirrors`` offer into ``folder``.

    The archive is read as a stream, no further than needed. ``folder`` only ever holds complete members with the right
    MD5; those that it has are kept. Raises ``CourseError`` with the error of each mirror.
    """
    def get(url: str, limit: float) -> None:
        missing = {name: md5 for name, md5 in members.items()
                   if not (folder / name).is_file() or file_md5(folder / name) != md5}
        with (_open(url, timeout) as reply,
              tarfile.open(fileobj=_Reply(reply, limit), mode="r|gz") as tar):
            while missing and (member := tar.next()):
                name = Path(member.name).name
                if name in missing and member.isfile():
                    data = tar.extractfile(member).read()
                    if (found := hashlib.md5(data).hexdigest()) != missing.pop(name):
                        raise CourseError(f"sent another {name} (MD5 {found}, not {members[name]})")
                    atomic_write(folder / name, data)
                    log(f"  {name}: {member.size / 1e6:.1f} MB, MD5 checked")
        if missing:
            raise CourseError(f"the archive ended without {', '.join(missing)}")

    _try_mirrors(mirrors, get, folder, log, deadline)


def _try_mirrors(mirrors: Sequence[str], get: Callable[[str, float], None], folder: Path, log: Callable[[str], None],
                 deadline: float) -> None:
    """``get`` from the first mirror that delivers. A full disk is no mirror's fault: ``DiskFullError``."""
    errors = []
    for url in mirrors:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return get(url, deadline * (8 if url == mirrors[-1] else 1))
        except ERRORS as error:
            if getattr(error, "errno", None) in DISK_FULL:
                raise DiskFullError(f"{folder} is full: {disk_error(error, folder)}. Free some space, or choose "
                                    "another folder by --root or COURSE_DATA, and run this again.") from error
            errors.append(f"  {url}: {error}")
            log(f"{url}: {error}")
    raise CourseError("\n".join(errors))


def _open(request: str | urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    """The server's reply with its complete header. Raises ``TimeoutError`` for a header that only drips in."""
    pool = multiprocessing.pool.ThreadPool(1)  # in a thread: the socket's timeout begins again with every byte
    reply = pool.apply_async(urllib.request.urlopen, [request], {"timeout": timeout})
    pool.close()  # the thread ends after this
    try:
        return reply.get(2 * timeout)
    except multiprocessing.TimeoutError:
        raise TimeoutError(f"timed out: no complete header within {2 * timeout:.0f} seconds") from None


class _Reply:
    """A server's reply, read until ``limit`` seconds are over."""

    def __init__(self, reply: http.client.HTTPResponse, limit: float) -> None:
        self.reply, self.limit, self.started, self.received = reply, limit, time.monotonic(), 0

    def read(self, size: int) -> bytes:
        seconds = time.monotonic() - self.started
        if seconds > self.limit:
            raise CourseError(f"too slow: {self.received / seconds / 1e3:.0f} kB/s")
        chunk = self.reply.read1(size)
        self.received += len(chunk)
        return chunk


def _download(url: str, part: Path, log: Callable[[str], None], limit: float, timeout: float) -> None:
    have = part_size = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        reply = _open(request, timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing left to send: the MD5 decides whether the part is the file
            return
        raise
    with reply:
        have = have if reply.status == 206 else 0  # else the server cannot resume
        length = reply.headers.get("Content-Length") or "0"
        total = have + (int(length) if length.isdecimal() else 0)
        if reply.status != 206 and 0 < total < part_size:
            raise CourseError(f"sent {total} bytes, fewer than the part that is here")  # which is kept
        source, logged = _Reply(reply, limit), time.monotonic()
        with part.open("ab" if have else "wb") as file:
            while chunk := source.read(1 << 20):
                file.write(chunk)
                if time.monotonic() - logged > 5:
                    logged = time.monotonic()
                    log(f"  {(have + source.received) / 1e6:.0f} of {total / 1e6:.0f} MB")
        received = have + source.received
        if received < total:
            raise CourseError(f"interrupted after {received / 1e6:.1f} of {total / 1e6:.1f} MB (kept, to resume)")
