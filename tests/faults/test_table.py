"""The table in the README is whole: every row, and the test that it names."""
from pathlib import Path

from faults.table import rows


def test_every_row_is_there_with_its_test():
    assert list(rows()) == list(range(1, 21))
    for number, (happens, seen, _, tests) in rows().items():
        files = [Path(__file__).with_name(name.strip(" `")) for name in tests.split(",")]
        assert happens and seen and files and all(path.is_file() for path in files), number
