"""How many cores this process may use, in a container less than the machine has, and what instructions they have."""

import math
import os
import re
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
CPUINFO: Final = Path("/proc/cpuinfo")


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """Return the cores that the process is allowed to run on, no more than its cgroup's quota of time lets run at once.

    More threads than that would use up the quota early and then all stand still until the next period.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def instruction_sets(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Return Linux's names for what the first processor can do ("avx2"); none of other systems and architectures."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(flags[1].split() if flags else ())


def _quota(cgroups: Path) -> float | None:
    """Return the quota in cores, None without one. https://docs.kernel.org/admin-guide/cgroup-v2.html, cpu.max."""
    try:
        if (second := cgroups / "cpu.max").is_file():
            most, period = second.read_text(encoding="ascii").split()
        else:
            first = cgroups / "cpu"
            most = (first / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (first / "cpu.cfs_period_us").read_text(encoding="ascii")
        return int(most) / int(period) if most != "max" and int(most) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
