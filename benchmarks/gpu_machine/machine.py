"""There, on the machine: unpack, check, run the queue in the background, and pack what is finished."""
import hashlib
import importlib.util
import io
import json
import lzma
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BASE = Path(".pack/base")
HOME = Path(os.environ.get("COURSE_MACHINE", "~/course-machine")).expanduser()  # beside the checkout, which changes
OUTPUTS, DATA, LOG = HOME / "outputs", HOME / "data", HOME / "queue.log"
FILE_BYTES, TOTAL_BYTES = 15 * 2**20, 56 * 2**20  # that come back at a time: of one file, of all
CHECK_SECONDS = 100  # for the smoke run and the GPU tests
RETURNED = ("record.json", "status.json", "progress.json", "lr_range.json", "tuning.json")


def start(part: Path, checks: bool = True) -> int:
    """Copy the tree, install the wheels, unpack ``part``, run the checks, and start the queue when they pass.

    Exit code 1 when the smoke run fails. Called again with a newer commit, it adds the new queue to the running one.
    """
    began = time.time()
    HOME.mkdir(parents=True, exist_ok=True)
    if not (HOME / "began").exists():
        (HOME / "began").write_text(str(began))
    manifest = json.loads((BASE / "manifest.json").read_text())
    course = HOME / manifest["commit"]
    shutil.copytree(".", course, ignore=shutil.ignore_patterns(".pack", ".git", "outputs"), dirs_exist_ok=True)
    changed = [name for name, digest in manifest["files"].items()
               if not (course / name).is_file() or _hash((course / name).read_bytes()) != digest]
    (course / "commit").write_text(manifest["commit"] + "+" * bool(changed))
    shutil.copyfile(BASE / "queue.json", course / "queue.json")
    _log(began, f"commit {manifest['commit'][:7]}: {len(manifest['files'])} files; changed: {changed[:3] or 'none'}")
    if not (HOME / "site").exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile",
                        "--no-cache-dir", "--target", str(HOME / "site"), *map(str, BASE.glob("*.whl"))], check=True)
        _log(began, "wheels installed")
    unpack(part)
    _log(began, f"{part} unpacked")
    if checks and not _check(course, began):
        return 1
    subprocess.Popen([sys.executable, "-m", "benchmarks.gpu_machine", "queue"], cwd=course, env=_environment(course),
                     start_new_session=True, stdin=subprocess.DEVNULL, stdout=LOG.open("a"), stderr=subprocess.STDOUT)
    _log(began, "the queue is running")
    collect()
    return 0


def _environment(course: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": f"{HOME / 'site'}:{course}", "COURSE_DATA": str(DATA), "PYTHONUNBUFFERED": "1",
        "COURSE_COMMIT": (course / "commit").read_text(), "NO_ALBUMENTATIONS_UPDATE": "1",
        "MPLCONFIGDIR": str(HOME / "matplotlib")}


def _check(course: Path, began: float) -> bool:
    """The smoke run of a notebook and, on a GPU, the tests for it; whether the smoke run passed."""
    commands = {"smoke run": ["-m", "course_utils", "run", "cifar10_custom_resnet", "--output", str(HOME / "smoke")]}
    if os.environ.get("COURSE_DEVICE") != "cpu":
        parallel = ["-n", "4"] if importlib.util.find_spec("xdist") else []
        commands["GPU tests"] = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *parallel, "-m", "slow",
                                 "tests/training/test_gpu.py"]
    logs = {name: HOME / f"{name}.log" for name in commands}
    few = {"OMP_NUM_THREADS": "3"}  # they run at the same time
    running = {name: subprocess.Popen([sys.executable, *command], cwd=course, env=_environment(course) | few,
                                      stdout=logs[name].open("w"), stderr=subprocess.STDOUT, start_new_session=True)
               for name, command in commands.items()}
    codes = {}
    for name, process in running.items():
        try:
            codes[name] = process.wait(max(1.0, began + CHECK_SECONDS - time.time()))
        except subprocess.TimeoutExpired:
            codes[name] = None
            os.killpg(process.pid, signal.SIGINT)
        _log(began, f"{name}: exit code {codes[name]}\n{logs[name].read_text()[-3500:]}")
    return codes["smoke run"] == 0


def unpack(part: Path) -> None:
    """Decode a part on all cores; a data set that is complete becomes arrays, checked by their SHA-256."""
    blocks = HOME / "blocks"
    blocks.mkdir(parents=True, exist_ok=True)
    for path in (*part.glob("*.json"), *part.glob("*.npz")):
        shutil.copyfile(path, blocks / path.name)
    if (part / "resume").exists():
        shutil.copytree(part / "resume", OUTPUTS, dirs_exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(min(16, os.cpu_count() or 1)) as pool:
        pool.starmap(_decode, [(path, blocks / f"{path.stem}.npy") for path in part.glob("*.webp")])
    for head in blocks.glob("*.json"):
        _assemble(head, blocks)


def _decode(picture: Path, target: Path) -> None:
    import numpy as np
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    np.save(target, np.asarray(Image.open(picture).convert("RGB")))


def _assemble(head: Path, blocks: Path) -> None:
    import numpy as np

    table, folder = json.loads(head.read_text()), DATA / head.stem
    names = [Path(name).stem for rows in table["blocks"].values() for name, *_ in rows]
    if (folder / "meta.json").exists() or not all((blocks / f"{name}.npy").exists() for name in names):
        return
    folder.mkdir(parents=True, exist_ok=True)
    arrays = dict(np.load(head.with_suffix(".npz")))
    for key, rows in table["blocks"].items():
        pieces = []
        for name, count, columns, size in rows:
            tiles = np.load(blocks / f"{Path(name).stem}.npy").reshape(-1, size, columns, size, 3)
            pieces.append(tiles.transpose(0, 2, 1, 3, 4).reshape(-1, size, size, 3)[:count])
        arrays[key] = np.concatenate(pieces)
    for key, array in arrays.items():
        if _hash(np.ascontiguousarray(array).tobytes()) != table["meta"]["sha256"][key]:
            sys.exit(f"{head.stem} {key} differs from what was packed.")
        np.save(folder / f"{key}.npy", array)
    (folder / "meta.json").write_text(json.dumps(table["meta"], indent=2) + "\n")
    print(f"{head.stem} is complete", flush=True)


def queue() -> None:
    """Run ``queue.json``, group after group: ``width`` jobs at a time, each when its data is there and if it can end
    before ``seconds`` have passed since the first start.
    """
    table = json.loads(Path("queue.json").read_text())
    end = float((HOME / "began").read_text()) + table["seconds"]
    for group in table["groups"]:
        jobs, lock = list(group["jobs"]), threading.Lock()
        cores = sorted(os.sched_getaffinity(0))  # each job its own: threads of several jobs would wait for each other
        share = max(1, len(cores) // group["width"])
        threads = [threading.Thread(target=_work, args=(jobs, lock, end, cores[k * share:][:share] or cores))
                   for k in range(group["width"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"END OF QUEUE {Path('commit').read_text()[:7]}", flush=True)


def _work(jobs: list[Mapping[str, Any]], lock: threading.Lock, end: float, cores: Sequence[int]) -> None:
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if shutil.which("taskset") else []
    while True:
        with lock:
            jobs[:] = [job for job in jobs if time.time() + 60 * job["minutes"] < end]
            ready = next((job for job in jobs if (DATA / job["data"] / "meta.json").exists() or not job["data"]), None)
            if ready:
                jobs.remove(ready)
        if ready:
            began = time.time()
            found = subprocess.run([*pinned, sys.executable, *ready["command"], str(OUTPUTS)], capture_output=True,
                                   text=True, check=False)
            lines = (found.stdout + found.stderr).strip().splitlines()
            result = [line for line in lines if "%" in line][-1:] if found.returncode == 0 else lines[-6:]
            _log(began, f"{' '.join(ready['command'][1:])}: exit code {found.returncode} {result}")
        elif not jobs:
            return
        else:
            time.sleep(1)


def wait(seconds: float, unfinished: bool = False) -> None:
    """Until so many seconds have passed or every queue has ended; then ``collect``."""
    until = time.time() + seconds
    while time.time() < until and LOG.read_text().count("END OF QUEUE") < len(list(HOME.glob("*/queue.json"))):
        time.sleep(0.5)
    collect(unfinished)


def collect(unfinished: bool = False) -> None:
    """Pack finished runs that were not packed before, and with ``unfinished`` the newest checkpoint of the others."""
    out, noted = Path(os.environ["OUT"]), HOME / "packed.json"
    before = json.loads(noted.read_text()) if noted.exists() else []
    print(LOG.read_text()[-4500:] if LOG.exists() else "")
    stream, chosen, room = io.BytesIO(), [], TOTAL_BYTES
    with zipfile.ZipFile(stream, "w") as archive:
        for run in sorted(path for path in OUTPUTS.glob("*/*") if path.is_dir()):
            name, files = str(run.relative_to(OUTPUTS)), [path for path in run.rglob("*") if path.is_file()]
            if _is_finished(run):
                files = [path for path in files if path.name in RETURNED or path.suffix in (".ipynb", ".png")]
            elif unfinished:
                files = [path for folder in (run, *run.glob("stage*")) for path in (
                    *sorted(folder.glob("epoch-*.pt"), key=os.path.getmtime)[-1:], *folder.glob("lr_range.json"))]
                name += " (unfinished)"
            size = sum(path.stat().st_size for path in files)
            if name not in before and files and size <= room and (unfinished or _is_finished(run)):
                room -= size
                chosen.append(name)
                for path in files:
                    archive.write(path, path.relative_to(OUTPUTS))
    if chosen:
        packed, number = lzma.compress(stream.getvalue(), preset=0), len(before)
        names = [f"results-{number:02d}-{k}.xz" for k in range(-(-len(packed) // FILE_BYTES))]
        for k, name in enumerate(names):
            (out / name).write_bytes(packed[k * FILE_BYTES:(k + 1) * FILE_BYTES])
        table = {"files": names, "sha256": _hash(packed), "runs": chosen}
        (out / f"results-{number:02d}.json").write_text(json.dumps(table))
        noted.write_text(json.dumps(before + chosen))
    print(f"{len(chosen)} runs packed: {chosen}")


def _is_finished(run: Path) -> bool:
    status = run / "status.json"
    return (run / "tuning.json").exists() or (
        status.exists() and json.loads(status.read_text())["state"] not in ("waiting", "running"))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _log(began: float, text: str) -> None:
    print(f"[{time.time() - began:5.1f} s] {text}", flush=True)


def main(arguments: Sequence[str]) -> int:
    command, *rest = arguments
    if command == "start":
        return start(Path(rest[0]), "--no-checks" not in rest)
    if command == "part":
        unpack(Path(rest[0]))
        collect()
    elif command == "queue":
        queue()
    elif command == "wait":
        wait(float(rest[0]), "unfinished" in rest)
    return 0
