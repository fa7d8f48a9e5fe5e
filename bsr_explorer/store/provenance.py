"""Where a result came from: versions, machine, commit, time, command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bsr_explorer.version import __version__

_PACKAGES = ("torch", "timm", "torchvision", "optuna", "numpy")


def provenance(device: str) -> dict[str, Any]:
    """Of this process, now."""
    return {
        "bsr_explorer": __version__,
        **{name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": device,
        "processor": _processor(device),
        "threads": torch.get_num_threads() if (torch := sys.modules.get("torch")) else None,
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
    }


def command() -> str:
    """The whole command that this process was started by, to be typed again."""
    program, *words = sys.argv
    path = Path(program)
    if path.name == "__main__.py":
        start = ["python", "-m", path.parent.name]
    else:
        start = ["python", program] if path.suffix == ".py" else [path.name]
    return shlex.join([*start, *words])


def _processor(device: str) -> str:
    """The model of the GPU, or of the CPU: on another, sums are added up in another order."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    with suppress(OSError):  # only Linux has this file, and Python's own answer is mostly empty there
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout that this package runs from, with ``+dirty`` if it was changed since."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return f"{commit}+dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return run.stdout.strip()
