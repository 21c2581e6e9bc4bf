"""Where a run came from: the commit, the machine, the versions."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PROVENANCE = ("commit", "device", "dtype", "versions", "seconds", "claims")
REPOSITORY = Path(__file__).resolve().parents[3]


def in_checkout() -> bool:
    """Whether the package lies in the project's repository, or is installed elsewhere."""
    return (REPOSITORY / "data" / "README.md").is_file()


@cache
def commit() -> str:
    """The repository's commit, with "-dirty" where the package's source differs from it; what
    $TANGENTS_COMMIT says of a copy that has another repository, or none."""

    def git(*words: str) -> str:
        # without locks: a process that is killed must not leave the repository locked
        command = ["git", "--no-optional-locks", "-C", str(REPOSITORY), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    if given := os.environ.get("TANGENTS_COMMIT"):
        return given
    try:
        # An installed copy may lie within another project's repository.
        if not (REPOSITORY / ".git").exists():
            return "unknown"
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "src") else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or no commit yet
        return "unknown"


@cache
def device_name(device: str) -> str:
    """The name of the hardware behind a torch device, for the record."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def versions() -> str:
    """Versions of Python, torch, numpy and this package, as one line."""
    found = [f"python {platform.python_version()}"]
    for package in ("torch", "numpy", "tangents"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} unknown")
    return ", ".join(found)


def provenance(config: Any, device: str, seconds: float, claims: str = "") -> dict[str, Any]:
    """Where a run came from. `seconds`: its share of its stack's wall time (see `sweep`); `claims`:
    what its study claimed then (see `claims.digests`)."""
    dtype = getattr(config, "dtype", "unstated")
    found = (commit(), device_name(device), dtype, versions(), float(seconds), claims)
    return dict(zip(PROVENANCE, found, strict=True))
