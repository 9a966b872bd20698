"""Atomic writes."""
import pytest

from course_utils.utils import atomic_write, source_markdown


def test_text_and_bytes_in_one_file(tmp_path):
    atomic_write(tmp_path / "file", "é", b"\x00", memoryview(b"z"))
    assert (tmp_path / "file").read_bytes() == "é".encode() + b"\x00z"


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_source_is_a_block_of_text_whose_methods_are_not_indented():
    text = source_markdown(Source.method, Source)
    method = "def method(self):\n    return 1\n"
    assert text == f"```\n{method}\n\nclass Source:\n    def method(self):\n        return 1\n```"


class Source:
    def method(self):
        return 1
