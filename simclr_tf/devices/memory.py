"""How much memory the machine has, and this process may use, containers included."""

from __future__ import annotations

import os
import sys

_CGROUPS = "/sys/fs/cgroup"
_UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2**63 where there is no limit


def machine_memory() -> int | None:
    """Returns how many bytes this process may use at most; None where the system does not say.

    A container's limit counts where it is below the machine's memory.
    """
    limits = [limit for limit, _ in _cgroup_limits()]
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=None)


def available_memory() -> int | None:
    """Returns how many bytes can be allocated now without swapping; None where that is unknown.

    Files that the system only caches count as free.
    """
    free = [max(0, limit - used) for limit, used in _cgroup_limits()]
    for line in _read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            free.append(int(value.split()[0]) * 1024)
            break
    else:
        have = machine_memory()
        free += [] if have is None else [have]
    return min(free, default=None)


def peak_memory() -> int | None:
    """Returns the most bytes that this process held so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_words(size: float) -> str:
    """Returns bytes in the unit that suits them, as `3.2 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _cgroup_limits() -> list[tuple[int, int]]:
    """Returns (limit, used without cached files) of the cgroups that this process is in."""
    found = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        names = ("memory.max", "memory.current", "inactive_file")
        top = _CGROUPS
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = os.path.join(_CGROUPS, "memory")
        # Limits of parent groups apply too; inside a container the path may not exist.
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts) + 1):
            folder = os.path.join(top, *parts[:depth])
            limit = _number(_read(os.path.join(folder, names[0])))
            if limit is None or limit >= _UNLIMITED:
                continue
            used = _number(_read(os.path.join(folder, names[1]))) or 0
            statistics = dict(
                line.split()[:2]
                for line in _read(os.path.join(folder, "memory.stat")).splitlines()
                if len(line.split()) >= 2
            )
            cached = _number(statistics.get(names[2], "")) or 0
            found.append((limit, max(0, used - cached)))
    return found


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() else None  # `max` is no limit


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
