"""Here: ``pack``, ``take``, ``restore``; there: ``start``, ``part``, ``wait``. README.md says when."""
import argparse
import os
import sys
from pathlib import Path

THERE = ("start", "part", "queue", "wait")


def main() -> int:
    if sys.argv[1:2] and sys.argv[1] in THERE:
        from benchmarks.gpu_machine import machine

        return machine.main(sys.argv[1:])
    from benchmarks.gpu_machine import pack

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_machine", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="fill .pack/")
    packing.add_argument("queue", type=Path)
    packing.add_argument("--data", type=Path, default=Path(os.environ.get("COURSE_DATA", "data")))
    packing.add_argument("--python", default="3.12", help="version there (default: 3.12)")
    commands.add_parser("take", help="unpack what came back").add_argument("folder", type=Path)
    commands.add_parser("restore", help="undo what pack did to the work tree")
    args = parser.parse_args()
    if args.command == "pack":
        pack.pack(args.queue, args.data, args.python)
    elif args.command == "take":
        pack.take(args.folder)
    else:
        pack.restore()
    return 0


if __name__ == "__main__":
    sys.exit(main())
