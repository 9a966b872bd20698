"""Here, in the repository: pack what a queue of runs needs, and take in what came back."""
import hashlib
import io
import json
import lzma
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from course_utils.utils import file_sha256, number_order

HOME = Path(__file__).parent
PACK = Path(".pack")  # ignored by git
LIMIT = 60 * 2**20  # bytes of tree, wheels and data that travel at a time
LEFT_OUT = ("images", "assignments/*/runs/*")  # tracked, large, and not needed by a run
BLOCK = {32: (5000, 100), 96: (500, 20)}  # by image size: images in one picture, and in one row of it
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 26, 24, 17, 12, 5)] + [
    "manylinux2014_x86_64", "manylinux1_x86_64"]


def git(*arguments: str, text: str | None = None) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, input=text).stdout


def pack(queue: Path, data: Path, python: str) -> None:
    """Fill ``.pack/``: ``base`` (queue, wheels for ``python``, hashes) and ``part1``, ... (data); shrink the work tree.

    ``restore`` undoes the shrinking, which git does not see. Raises ``SystemExit`` for uncommitted changes.
    """
    if git("status", "--porcelain", "-uno").strip():
        sys.exit("Commit first: the records of the runs will name the commit.")
    exclude = Path(git("rev-parse", "--git-path", "info/exclude").strip())
    if f"/{PACK}/" not in (exclude.read_text() if exclude.exists() else ""):
        exclude.parent.mkdir(exist_ok=True)
        with exclude.open("a") as file:
            file.write(f"/{PACK}/\n")
    base = PACK / "base"
    base.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(queue, base / "queue.json")
    if not list(base.glob("*.whl")):
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:",
                        "--python-version", python, *(word for name in PLATFORMS for word in ("--platform", name)),
                        "-d", str(base), "-r", str(HOME / "wheels.txt")], check=True)
    _skip_worktree(True)
    for path in _tracked(*LEFT_OUT):
        path.unlink(missing_ok=True)
    for path in _tracked("notebooks/*.ipynb"):
        path.write_text(_without_outputs(path.read_text(encoding="utf-8")), encoding="utf-8")
    files = [path for path in _tracked() if path.is_file()]
    (base / "manifest.json").write_text(json.dumps({
        "commit": git("rev-parse", "HEAD").strip(), "files": {str(path): file_sha256(path) for path in files}}))
    others = [Path(name) for name in git("ls-files", "-o", "--exclude-standard", "-z").split("\0") if name]
    tree = sum(path.stat().st_size for path in (*files, *others))
    wheels = sum(path.stat().st_size for path in base.iterdir())
    if not (PACK / "part1").exists():
        _write_parts(data, LIMIT - tree, wheels)
    sizes = {part.name: sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
             for part in sorted(PACK.glob("part*"))}
    print(f"tree {tree / 1e6:.1f} MB, base {wheels / 1e6:.1f} MB, "
          + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items()))


def restore() -> None:
    """The work tree as it was before ``pack``."""
    _skip_worktree(False)
    git("checkout", "--", *LEFT_OUT, "notebooks")
    print(git("status", "--porcelain", "-uno") or "The work tree is complete again.")


def take(folder: Path) -> None:
    """Unpack what came back into ``outputs/``, checked by SHA-256. Raises ``SystemExit`` when it is damaged."""
    for listing in sorted(folder.rglob("results-*.json")):
        table = json.loads(listing.read_text())
        packed = b"".join((listing.parent / name).read_bytes() for name in table["files"])
        if hashlib.sha256(packed).hexdigest() != table["sha256"]:
            sys.exit(f"{listing} came back damaged.")
        zipfile.ZipFile(io.BytesIO(lzma.decompress(packed))).extractall("outputs")
        print("\n".join(table["runs"]))


def _tracked(*patterns: str) -> list[Path]:
    return [Path(name) for name in git("ls-files", "-z", *patterns).split("\0") if name]


def _skip_worktree(skip: bool) -> None:
    """Let git ignore, or notice again, changes of the files that ``pack`` changes."""
    names = "\0".join(map(str, _tracked(*LEFT_OUT, "notebooks/*.ipynb")))
    git("update-index", "-z", "--skip-worktree" if skip else "--no-skip-worktree", "--stdin", text=names)


def _without_outputs(text: str) -> str:
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _write_parts(data: Path, room: int, wheels: int) -> None:
    """Distribute unfinished runs and the data sets over parts of at most ``room`` bytes, the first with the wheels."""
    number, left = 1, room - wheels
    folders = [data / dataset for dataset in ("cifar10", "stl10", "gtsrb") if (data / dataset).exists()]
    for name, content in (*_unfinished(), *(pair for folder in folders for pair in _dataset(folder))):
        if len(content) > left:
            number, left = number + 1, room
        left -= len(content)
        path = PACK / f"part{number}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _unfinished() -> Iterator[tuple[str, bytes]]:
    """The newest checkpoint of every run in ``outputs/`` without a record: it is resumed there."""
    for run in sorted(Path("outputs").glob("*/*")):
        if not (run / "record.json").exists():
            for folder in (run, *run.glob("stage*")):
                for path in (*sorted(folder.glob("epoch-*.pt"), key=number_order)[-1:], *folder.glob("lr_range.json")):
                    yield f"resume/{path.relative_to('outputs')}", path.read_bytes()


def _dataset(folder: Path) -> Iterator[tuple[str, bytes]]:
    """A prepared data set: its images as lossless WebP pictures of many, everything else in one file before them."""
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    small, blocks = io.BytesIO(), {}
    np.savez_compressed(small, **{key: array for key, array in arrays.items() if array.ndim == 1})
    pictures = []
    for key in ("train_images", "test_images"):
        many, columns = BLOCK[arrays[key].shape[1]]
        blocks[key] = []
        for start in range(0, len(arrays[key]), many):
            block = np.asarray(arrays[key][start:start + many])
            count, size = len(block), block.shape[1]
            block = np.concatenate([block, np.zeros((-count % columns, *block.shape[1:]), np.uint8)])
            rows = block.reshape(-1, columns, size, size, 3).transpose(0, 2, 1, 3, 4).reshape(-1, columns * size, 3)
            picture = io.BytesIO()
            Image.fromarray(rows).save(picture, "WEBP", lossless=True, method=0, quality=0)
            pictures.append((f"{folder.name}-{key}-{start:06d}.webp", picture.getvalue()))
            blocks[key].append([pictures[-1][0], count, columns, size])
    head = {"meta": json.loads((folder / "meta.json").read_text()), "blocks": blocks}
    yield f"{folder.name}.json", json.dumps(head).encode()
    yield f"{folder.name}.npz", small.getvalue()
    yield from pictures
