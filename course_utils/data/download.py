"""Downloading one file, or some members of an archive: mirrors in turn, limited in time, checked."""
from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from course_utils.errors import CourseError, NoRoom
from course_utils.utils import DISK_FULL, refusal

STALL_SECONDS = 30  # without a single byte: the host hangs
PATIENCE_SECONDS = 60  # after which a host must have shown that it ends within LIMIT_SECONDS
LIMIT_SECONDS = 1800  # a file from one mirror; the last one may take
LAST_LIMIT_SECONDS = 4 * 3600  # longer, since nothing quicker is left
CHUNK = 1 << 20  # bytes
LARGEST = 1 << 30  # bytes; no file of the course's data sets, and no archive up to its last member needed, is larger


def file_md5(path: Path) -> str:
    """MD5 of a file as hexadecimal digits: the checksum that the data sets' authors published."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def fetch(mirrors: Sequence[str], path: Path, md5: str | None, say: Callable[[str], None] = print,
          patience: float = PATIENCE_SECONDS, limit: float = LIMIT_SECONDS, last_limit: float = LAST_LIMIT_SECONDS,
          stall: float = STALL_SECONDS) -> Path:
    """Download the file that all ``mirrors`` offer to ``path`` and return it; times in seconds.

    The bytes gather in ``<path>.part``, where a cut download goes on, also from another mirror; ``path`` itself only
    ever holds the whole file, with the right ``md5`` if one is known. A mirror that fails, hangs or is too slow gives
    way to the next. Raises ``CourseError`` with what each of them did.
    """
    part = path.with_name(path.name + ".part")

    def get(url: str) -> None:
        _download(url, part, say, patience, last_limit if url == mirrors[-1] else limit, stall)
        found = file_md5(part)
        if md5 not in (None, found):
            part.unlink()
            raise CourseError(f"sent something else (MD5 {found}, not {md5})")
        os.replace(part, path)

    _from_one_of(mirrors, get, path.parent, say)
    return path


def fetch_members(mirrors: Sequence[str], folder: Path, members: Mapping[str, str], say: Callable[[str], None] = print,
                  limit: float = LIMIT_SECONDS, last_limit: float = LAST_LIMIT_SECONDS,
                  stall: float = STALL_SECONDS) -> None:
    """Put ``members`` (file name -> MD5) of the .tar.gz that all ``mirrors`` offer into ``folder``, and stop there.

    The archive is read as a stream, in whatever order, and left when the last member has come. ``folder`` only ever
    holds whole members with the right MD5; those it has are kept. Times in seconds; raises ``CourseError`` with what
    each mirror did.
    """
    def get(url: str) -> None:
        wanted = {name: md5 for name, md5 in members.items()
                  if not (folder / name).is_file() or file_md5(folder / name) != md5}
        try:
            _stream(url, folder, wanted, say, last_limit if url == mirrors[-1] else limit, stall)
        finally:
            for name in members:
                _part(folder, name).unlink(missing_ok=True)

    _from_one_of(mirrors, get, folder, say)


def _part(folder: Path, name: str) -> Path:
    return folder / f"{name}.part"


def _from_one_of(mirrors: Sequence[str], get: Callable[[str], None], folder: Path, say: Callable[[str], None]) -> None:
    """``get`` from the first mirror that delivers into ``folder``. A full disk is no mirror's fault: ``NoRoom``."""
    tried = []
    for url in mirrors:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            get(url)
            return
        except (CourseError, OSError, http.client.HTTPException, tarfile.TarError, EOFError, zlib.error) as error:
            if getattr(error, "errno", None) in DISK_FULL:
                raise NoRoom(f"{folder} cannot hold it: {refusal(error, folder)}. Make room, or choose another folder "
                             "by --root or COURSE_DATA, and run this again.") from error
            tried.append(f"  {url}: {error}")
            say(f"{url}: {error}")
    raise CourseError("\n".join(tried))


class _AtMost:
    """A stream that is read up to ``LARGEST`` bytes: a few bytes of an archive may stand for any number of them."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.got = stream, 0

    def read(self, size: int) -> bytes:
        chunk = self.stream.read(min(size, CHUNK))
        self.got += len(chunk)
        if self.got > LARGEST:
            raise CourseError(f"its archive holds over {LARGEST >> 20} MiB before what is needed: refused")
        return chunk


class _InTime:
    """A reply that is read until ``limit`` seconds are over."""

    def __init__(self, reply: http.client.HTTPResponse, limit: float) -> None:
        self.reply, self.limit, self.begun, self.got = reply, limit, time.monotonic(), 0

    def read(self, size: int) -> bytes:
        seconds = time.monotonic() - self.begun
        if seconds > self.limit:
            raise CourseError(f"too slow: {self.got / seconds / 1e3:.0f} kB/s")
        chunk = self.reply.read1(size)
        self.got += len(chunk)
        return chunk


def _stream(url: str, folder: Path, wanted: dict[str, str], say: Callable[[str], None], limit: float,
            stall: float) -> None:
    with (urllib.request.urlopen(url, timeout=stall) as reply,
          gzip.GzipFile(fileobj=_InTime(reply, limit)) as unpacked,
          tarfile.open(fileobj=_AtMost(unpacked), mode="r|") as tar):
        while wanted and (member := tar.next()):
            name = Path(member.name).name
            if name not in wanted or not member.isfile():
                continue
            part, md5, file = _part(folder, name), hashlib.md5(), tar.extractfile(member)
            with part.open("wb") as sink:
                while chunk := file.read(CHUNK):
                    sink.write(chunk)
                    md5.update(chunk)
            if md5.hexdigest() != wanted[name]:
                raise CourseError(f"sent another {name} (MD5 {md5.hexdigest()}, not {wanted[name]})")
            os.replace(part, folder / name)
            del wanted[name]
            say(f"  {name}: {member.size / 1e6:.1f} MB, MD5 checked")
    if wanted:
        raise CourseError(f"the archive ended without {', '.join(wanted)}")


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise CourseError(f"sends over {LARGEST >> 20} MiB, which is none of the course's files: refused")


def _download(url: str, part: Path, say: Callable[[str], None], patience: float, limit: float, stall: float) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        reply = urllib.request.urlopen(request, timeout=stall)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: the part is whole, or not of this file; the MD5 tells
            return
        raise
    with reply:
        if have and reply.status != 206:  # the host cannot resume
            have = 0
        total = have + int(reply.headers.get("Content-Length") or 0)
        _check_size(total)
        begun = shown = time.monotonic()
        got = 0
        with part.open("ab" if have else "wb") as file:
            while chunk := reply.read1(CHUNK):
                file.write(chunk)
                got += len(chunk)
                _check_size(have + got)
                seconds = time.monotonic() - begun
                if seconds > limit or (seconds > patience and (total - have) / got * seconds > limit):
                    raise CourseError(f"too slow: {got / seconds / 1e3:.0f} kB/s")
                if time.monotonic() - shown > 5:
                    shown = time.monotonic()
                    say(f"  {(have + got) / 1e6:.0f} of {total / 1e6:.0f} MB, {got / seconds / 1e6:.1f} MB/s")
        if total and have + got < total:
            raise CourseError(f"cut off after {(have + got) / 1e6:.1f} of {total / 1e6:.1f} MB (kept, to go on from)")
