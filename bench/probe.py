"""Looking at processes from outside: CPU time, memory, and the yardstick."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from app.config import ROOT
from app.protocol.keys import Algorithm, generate, load_private_key

_TICKS = os.sysconf("SC_CLK_TCK")


def signatures_per_second(for_s: float = 1.0) -> float:
    """The yardstick: RSA-2048 signatures of one thread in a second."""
    key = load_private_key(generate(Algorithm.RSA).private_key_pem)
    key.sign(b"warm")
    started, made = time.perf_counter(), 0
    while (took := time.perf_counter() - started) < for_s:
        key.sign(b"x" * 1_000)
        made += 1
    return made / took


def cpu_of_help_s() -> float:
    """CPU seconds of `flask --help`, which loads no more than the list of commands."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "flask", "--help"], cwd=ROOT, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def descendants(root: int) -> list[int]:
    """The process and all that it started, as far as they run."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, wave = [], [root]
    while wave:
        found += wave
        wave = [child for pid in wave for child in children.get(pid, [])]
    return found


def cpu_seconds(root: int) -> float:
    """CPU time of a process tree, of its ended and reaped children too."""
    total = 0
    for pid in descendants(root):
        if fields := _stat(pid):
            total += sum(int(field) for field in fields[11:15])
    return total / _TICKS


def memory_mb(root: int) -> dict[int, float]:
    """Proportional set size of each process of a tree, in MB (10^6 bytes); shared pages count in part."""
    sizes = {pid: _pss(pid) for pid in descendants(root)}
    return {pid: size for pid, size in sizes.items() if size}


def _pss(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:"))


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
