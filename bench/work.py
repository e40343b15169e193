"""What bench/compare measures: programs, how much of each, and in which units."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """One program of a Linux guest. `count` units take some two seconds natively (user) or under ring3 (kernel)."""

    name: str
    group: str  # user: also run natively; kernel: only in guests
    binary: str
    count: int
    qemu: int  # QEMU does 1/qemu of the count: it takes that much longer, and costs are compared per unit


USER = [
    ("integer", 320000, 2),
    ("sieve", 2200, 2),
    ("recursion", 84000, 4),
    ("sha256", 38000, 4),
    ("lz", 6000, 3),
    ("quicksort", 1500, 3),
    ("qsort", 700, 4),
    ("x87", 18000, 60),
    ("sse2", 66000, 40),
    ("chase16k", 1000000, 2),
    ("chase8m", 18000, 1),
    ("bytecode-switch", 100000, 6),
    ("bytecode-goto", 220000, 8),
    ("calls", 1500000, 6),
    ("indirect", 240000, 4),
]

KERNEL = [
    ("getpid-int80", 1000000, 2),
    ("getpid-vdso", 1000000, 2),
    ("clock-vdso", 2000000, 2),
    ("clock-call", 1000000, 2),
    ("read-write", 300000, 2),
    ("sched-yield", 600000, 2),
    ("pipe", 20000, 4),
    ("pipe-64", 1000, 4),
    ("fork-exit", 1000, 2),
    ("exec-static", 700, 2),
    ("exec-dynamic", 400, 2),
    ("mmap-touch", 10000, 4),
    ("signal", 100000, 4),
    ("sigsegv", 60000, 4),
    ("files", 30000, 4),
]

PROGRAMS = [Program(name, "user", "user", count, qemu) for name, count, qemu in USER] + [
    Program(name, "kernel", "kernel", count, qemu) for name, count, qemu in KERNEL
]
