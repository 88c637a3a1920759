"""Memory that is there: the system's and the container's."""

from __future__ import annotations

import pathlib

import pytest

from simclr_tf.devices import memory


def test_memory_is_read_from_the_system_and_the_container(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2**20 < memory.available_memory() <= memory.machine_memory()
    files = {
        "/proc/self/cgroup": "0::/box/job\n",
        "/proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable:    4000000 kB\n",
        "/sys/fs/cgroup/box/memory.max": "1000000000\n",
        "/sys/fs/cgroup/box/memory.current": "900000000\n",
        "/sys/fs/cgroup/box/memory.stat": "anon 1\ninactive_file 300000000\n",
        "/sys/fs/cgroup/box/job/memory.max": "max\n",
    }
    monkeypatch.setattr(memory, "_read", lambda path: files.get(path, ""))
    assert memory.machine_memory() == 10**9
    assert memory.available_memory() == 400_000_000
    files["/sys/fs/cgroup/box/memory.max"] = "max\n"
    assert memory.available_memory() == 4_096_000_000
    files["/proc/self/cgroup"] = "5:cpu:/a\n7:memory:/b\n"
    files["/sys/fs/cgroup/memory/b/memory.limit_in_bytes"] = "5000\n"
    files["/sys/fs/cgroup/memory/b/memory.usage_in_bytes"] = "4000\n"
    assert (memory.machine_memory(), memory.available_memory()) == (5000, 1000)
    assert memory.in_words(5000) == "4.9 KiB" and memory.in_words(3.3 * 2**30) == "3.3 GiB"
