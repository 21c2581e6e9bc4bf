"""All that wants a GPU, in one command: tests of the device, kernels, runs of the `paper` presets.

    python tools/gpu.py pack FOLDER mnist cifar-10   # here: raw data, compressed, to take along
    python tools/gpu.py run OUT --data FOLDER        # on the machine with the GPU; no network
    python tools/gpu.py merge OUT                    # here: what came back into store and tables

`run` takes at most so many minutes, can be stopped, and goes on where it was. OUT then holds two
tables of kernels, tests.txt and <study>-<number>.tar, each below 16 MiB. A copy that is not this
repository names its commit in $TANGENTS_COMMIT.
"""

import argparse
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

LIMIT = 15 * 2**20  # bytes of a file of runs
# Runs in order of value: a study, which of its preset `paper`, and their share of what time is left
# when their turn comes.
RUNS = [
    ("orthogonal", dict(part="cifar", depth=50), 0.25),
    ("gauss_newton", dict(part="batches"), 0.4),
    ("random_features", dict(part="large", method="srht"), 0.3),
    ("iterative", dict(part="cifar", n=1000), 0.5),
    ("orthogonal", dict(part="cifar", depth=100), 0.4),
    ("random_features", dict(part="large", method="exact"), 0.3),
    ("constancy", dict(part="head", depth=1), 0.3),
    ("lazy", dict(part="lazy"), 0.5),
    ("recurrent", dict(part="limit"), 0.4),
    ("over_time", {}, 0.4),
    *((study, {}, 0.5) for study in ("orthogonal", "gauss_newton", "iterative", "lazy")),
    ("constancy", {}, 1.0),
]


def command(words: list[str], seconds: float, log: Path | None = None, **env: str) -> str:
    """Runs a command of this Python for so long; what became of it."""
    words = [sys.executable, *words]
    given = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"} | env
    print("+", *words[1:], flush=True)
    try:
        if log is None:
            code = subprocess.run(words, cwd=ROOT, env=given, timeout=seconds).returncode
        else:
            with log.open("w") as out:
                code = subprocess.run(words, cwd=ROOT, env=given, timeout=seconds, stdout=out,
                                      stderr=subprocess.STDOUT).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        return "stopped at the limit"
    return "done" if code == 0 else f"failed ({code})"


def run(args: argparse.Namespace) -> None:
    end, out = time.monotonic() + 60 * args.minutes, args.out
    out.mkdir(parents=True, exist_ok=True)
    if args.data:
        os.environ["TANGENTS_DATA"] = str(args.store.absolute() / "raw")
        unpack(args.data, args.store / "raw")

    def left(share: float = 1.0) -> float:
        return max(1.0, share * (end - time.monotonic()))

    if "tests" in args.parts:
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_devices.py"]
        log = out / "tests.txt"
        print(command(words, left(0.3), log, TANGENTS_DEVICE=args.device), flush=True)
        print(log.read_text()[-2000:])
    if "kernels" in args.parts:
        minutes = left(0.5) / 60
        words = ["benchmarks/device.py", str(out / "device.csv"), "--device", args.device]
        words += ["--minutes", f"{0.8 * minutes:.2f}", "--largest", str(args.largest)]
        print(command(words, 60 * minutes), flush=True)
        words = ["benchmarks/recurrent.py", str(out / "recurrent.csv"), "--device", args.device]
        print(command(words, left(0.2)), flush=True)
    if "runs" in args.parts:
        for study, fields, share in RUNS:
            if end - time.monotonic() < 10:
                break
            words = ["-m", "tangents", "run", study, "--preset", args.preset, "--device",
                     args.device, "--store", str(args.store)]  # fmt: skip
            if args.preset == "paper":
                words += [w for name, v in fields.items() for w in ("--only", name, str(v))]
            print(command(words, left(share)), flush=True)
            bundle(args.store / study, out, study)


def bundle(folder: Path, out: Path, study: str) -> None:
    """The runs of a study as tar files below the limit."""
    for old in out.glob(f"{study}*.tar"):
        old.unlink()
    files, number, size = sorted(folder.glob("[!.]*.npz")), 0, LIMIT
    for file in files:
        if size + file.stat().st_size > LIMIT:
            number, size = number + 1, 0
        size += file.stat().st_size + 1024
        with tarfile.open(out / f"{study}-{number}.tar", "a") as tar:
            tar.add(file, f"{study}/{file.name}")


def merge(args: argparse.Namespace) -> None:
    """Runs into the store, then the table of the preset with what is there; the device's kernels
    beside the other measurements."""
    from tangents import studies
    from tangents.lab.store import Store, publish, results_root, runs_root, seal

    for path in sorted(args.out.glob("*.tar")):
        with tarfile.open(path) as tar:
            tar.extractall(runs_root(args.store), filter="data")
    for name in {path.stem.rpartition("-")[0] for path in args.out.glob("*.tar")}:
        print(publish(studies.find(name), args.preset, Store(runs_root(args.store)), args.results,
                      partial=True))  # fmt: skip
    there = results_root(args.results)
    if (args.out / "device.csv").exists():
        print(shutil.copy(args.out / "device.csv", there / "benchmark-device.csv"))
        seal(there / "benchmark-device.csv")
    if (args.out / "recurrent.csv").exists():
        new, known = pd.read_csv(args.out / "recurrent.csv"), there / "benchmark-recurrent.csv"
        old = pd.read_csv(known)
        frame = pd.concat([old[~old["device"].isin(new["device"])], new])
        frame.to_csv(known, index=False, float_format="%.4g")
        seal(known)
        print(known)


PHOTOGRAPHS = 3 * 32 * 32  # bytes of an image of CIFAR-10, behind that of its label


def shrunk(name: str, content: bytes) -> dict[str, bytes]:
    """A raw file as smaller ones; photographs without loss by a codec that is made for them."""
    if not name.endswith(".bin"):
        return {f"{name}.gz": gzip.compress(content, 9, mtime=0)}
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + PHOTOGRAPHS)
    strip = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).reshape(100, -1, 32, 32, 3)
    image, found = strip.transpose(0, 2, 1, 3, 4).reshape(3200, -1, 3), io.BytesIO()
    Image.fromarray(image).save(found, "WEBP", lossless=True, quality=50)
    return {f"{name}.webp": found.getvalue(), f"{name}.labels": rows[:, 0].tobytes()}


def raw(file: Path) -> bytes:
    """What `shrunk` had, from its .gz or its .webp."""
    if file.suffix == ".gz":
        return gzip.decompress(file.read_bytes())
    strip = np.asarray(Image.open(file).convert("RGB")).reshape(100, 32, -1, 32, 3)
    images = strip.transpose(0, 2, 4, 1, 3).reshape(-1, PHOTOGRAPHS)
    labels = np.frombuffer(file.with_suffix(".labels").read_bytes(), np.uint8)
    return np.column_stack([labels, images]).tobytes()


def pack(args: argparse.Namespace) -> None:
    """The raw files of data sets, each compressed."""
    from tangents.data.sets import DATASETS, fetch

    for name in args.names:
        there = args.folder / name
        there.mkdir(parents=True, exist_ok=True)
        for file in DATASETS[name].files:
            for part, content in shrunk(file, (fetch(name) / file).read_bytes()).items():
                (there / part).write_bytes(content)
    size = sum(file.stat().st_size for file in args.folder.rglob("*.*"))
    print(f"{size / 2**20:.0f} MiB in {args.folder}")


def unpack(folder: Path, there: Path) -> None:
    """What `pack` made, as raw files."""
    for file in [*folder.rglob("*.gz"), *folder.rglob("*.webp")]:
        target = there / file.relative_to(folder).with_suffix("")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(raw(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("run")
    one.add_argument("out", type=Path)
    one.add_argument("--device", default="cuda")
    one.add_argument("--preset", default="paper")
    one.add_argument("--minutes", default=7.5, type=float)
    one.add_argument("--largest", default=60_000, type=int, help="images of a kernel at most")
    one.add_argument("--store", default=ROOT / "_build" / "gpu", type=Path)
    one.add_argument(
        "--data", default=None, type=Path, help="what pack made (default: what is here)"
    )
    one.add_argument("--parts", nargs="+", default=["tests", "kernels", "runs"])
    one.set_defaults(call=run)
    two = kinds.add_parser("merge")
    two.add_argument("out", type=Path)
    two.add_argument("--preset", default="paper")
    two.add_argument("--store", default=None)
    two.add_argument("--results", default=None)
    two.set_defaults(call=merge)
    three = kinds.add_parser("pack")
    three.add_argument("folder", type=Path)
    three.add_argument("names", nargs="+", help="of data sets")
    three.set_defaults(call=pack)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
