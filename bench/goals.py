"""The figures to reach, and whether a comparison reached them."""

import math
import statistics
from dataclasses import dataclass
from typing import Callable

from work import PROGRAMS


def geomean(values):
    """Geometric mean, or None of nothing."""
    values = [v for v in values if v]
    return math.exp(statistics.fmean(math.log(v) for v in values)) if values else None


def ratio(a, b):
    """a/b, or None where either is missing."""
    return a / b if a and b else None


class Figures:
    """Medians by row and machine: {group/name: {machine: value}}."""

    def __init__(self, samples):
        self.medians = {key: {m: statistics.median(v) for m, v in row.items() if v} for key, row in samples.items()}

    def value(self, key, machine="ring3"):
        return self.medians.get(key, {}).get(machine)

    def ratio(self, key, above, below):
        return ratio(self.value(key, above), self.value(key, below))

    def group(self, group, above, below):
        """{name: ratio} of a whole group; nothing if a program of it is missing."""
        wanted = [p.key for p in PROGRAMS if p.group == group] or [key for key in self.medians if key.startswith(f"{group}/")]
        found = {key.partition("/")[2]: self.ratio(key, above, below) for key in wanted}
        return found if found and all(found.values()) else {}


@dataclass(frozen=True)
class Goal:
    """`value(figures)` gives a number, or (number, remark), or None where it was not measured."""

    text: str
    most: bool  # at most the limit; otherwise at least
    limit: float
    value: Callable
    unit: str = ""

    def judge(self, figures):
        """(measured, remark, reached); None if not measured."""
        found = self.value(figures)
        number, remark = found if isinstance(found, tuple) else (found, "")
        if number is None:
            return None
        return number, remark, number <= self.limit if self.most else number >= self.limit


def mean(group, above, below):
    return lambda f: geomean(f.group(group, above, below).values())


def extreme(group, above, below, pick):
    def value(f):
        found = f.group(group, above, below)
        return None if not found else (lambda name: (found[name], name))(pick(found, key=found.get))

    return value


def worst_of(keys, above, below):
    def value(f):
        found = {key.partition("/")[2]: f.ratio(key, above, below) for key in keys}
        return None if None in found.values() else (lambda name: (found[name], name))(min(found, key=found.get))

    return value


def grown(larger, smaller):
    return lambda f: ratio(f.value(f"growth/{larger}"), f.value(f"growth/{smaller}"))


def scaled(key, by=1.0):
    return lambda f: None if f.value(key) is None else f.value(key) * by


GOALS = (
    Goal("user programs against native, geomean", True, 1.15, mean("user", "ring3", "native"), "x"),
    Goal("user programs against native, slowest", True, 1.6, extreme("user", "ring3", "native", max), "x"),
    Goal("user programs faster than QEMU, geomean", False, 5, mean("user", "qemu", "ring3"), "x"),
    Goal("x87 and SSE2 faster than QEMU", False, 40, worst_of(("user/x87", "user/sse2"), "qemu", "ring3"), "x"),
    Goal("cold code faster than QEMU, geomean", False, 3, mean("cold", "qemu", "ring3"), "x"),
    Goal("kernel-bound programs faster than QEMU, geomean", False, 4, mean("kernel", "qemu", "ring3"), "x"),
    Goal("kernel-bound programs faster than QEMU, least", False, 1.5, extreme("kernel", "qemu", "ring3", min), "x"),
    Goal("the same with page-table isolation, geomean", False, 4, mean("pti", "qemu", "ring3"), "x"),
    Goal("page fault in the guest's kernel", True, 2.0, scaled("kernel/mmap-touch", 1e6), "us"),
    Goal("fork+exec of a static program", True, 0.4, scaled("kernel/exec-static", 1e3), "ms"),
    Goal("nanobenchmarks faster than QEMU, geomean", False, 3, mean("nano", "qemu", "ring3"), "x"),
    Goal("nanobenchmarks faster than QEMU, least", False, 1, extreme("nano", "qemu", "ring3", min), "x"),
    Goal("MOV CR3 and page fault faster than QEMU", False, 8,
         worst_of(("nano/mov cr3", "nano/mov cr3, two spaces", "nano/page fault, ring 3", "nano/page fault, ring 0"), "qemu", "ring3"), "x"),
    Goal("boot of 686 against QEMU's CPU time", True, 1 / 3, lambda f: f.ratio("boot/686, CPU", "ring3", "qemu"), "x"),
    Goal("start-up to the first instruction", True, 15, scaled("start/CPU time", 1e3), "ms"),
    Goal("memory beyond guest RAM after the boot", True, 48, scaled("boot/686, memory"), "MiB"),
    Goal("translation, million guest instructions a second", False, 3, scaled("boot/translation, per second", 1e-6), "M/s"),
    Goal("translating, share of the boot", True, 15, scaled("boot/translation, share", 100), "%"),
    Goal("idle guest, share of a core", True, 1, scaled("idle/share at the prompt", 100), "%"),
    Goal("fork+exec, 16 live processes instead of 4", True, 1.1, grown("exec-16", "exec-4"), "x"),
    Goal("fork+exec, 64 live processes instead of 16", True, 1.1, grown("exec-64", "exec-16"), "x"),
    Goal("page faults, 64 MiB mapped instead of 16", True, 1.1, grown("touch-64m", "touch-16m"), "x"),
    Goal("ping-pong among 64 processes instead of 2", True, 1.1, grown("hops-64", "hops-2"), "x"),
    Goal("mappings of the process (the host allows 65,530)", True, 60000, scaled("growth/mappings of the process")),
)
