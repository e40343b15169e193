"""What bench/compare measures: groups, programs, and how much of each."""

from dataclasses import dataclass

GROUPS = {
    "user": "user programs in a Linux guest, and natively",
    "cold": "code that runs for a short time: a compiler, starting a large program; natively too",
    "kernel": "programs that spend their time in the guest's kernel (686)",
    "pti": "the same on 686-pae with page-table isolation forced on",
    "growth": "the same operation with more processes or more memory",
    "nano": "the nanobenchmark kernel: single privileged operations",
    "boot": "Debian's kernels to the shell: CPU time, memory, translation",
    "idle": "share of a core that a guest at its prompt takes",
    "start": "from the start of the process to the guest's first instruction, and its end",
}


@dataclass(frozen=True)
class Program:
    """One program of a Linux guest. `count` units take some 0.2 s natively; where nothing runs natively it is what is done."""

    group: str
    name: str
    binary: str  # user, kernel, real: bench/programs
    count: int
    qemu: int = 1  # QEMU does 1/qemu of the work: it takes that much longer, and costs are compared per unit
    before: str = ""  # what the guest's `binary` does first, not measured

    @property
    def key(self):
        return f"{self.group}/{self.name}"

    @property
    def native(self):
        return self.group in ("user", "cold")


USER = (
    ("integer", 44000, 3),
    ("sieve", 170, 5),
    ("recursion", 6400, 9),
    ("sha256", 8000, 6),
    ("lz", 540, 6),
    ("quicksort", 150, 6),
    ("qsort", 80, 8),
    ("x87", 1270, 100),
    ("sse2", 2800, 80),
    ("chase16k", 118000, 4),
    ("chase8m", 1570, 3),
    ("bytecode-switch", 3600, 9),
    ("bytecode-goto", 17000, 16),
    ("calls", 81000, 30),
    ("indirect", 24000, 6),
)
REAL = (("gzip", 1, 3), ("xz", 1, 2), ("bzip2", 1, 3))
COLD = (("tcc", 10, 2), ("gnuplot", 5, 2))

KERNEL = (
    ("getpid-int80", 250000, 1),
    ("getpid-vdso", 250000, 1),
    ("clock-vdso", 4000000, 2),
    ("clock-call", 250000, 1),
    ("read-write", 150000, 1),
    ("sched-yield", 250000, 1),
    ("pipe", 10000, 3),
    ("fork-exit", 1500, 3),
    ("exec-static", 600, 3),
    ("exec-dynamic", 100, 2),
    ("mmap-touch", 60000, 2),
    ("signal", 60000, 4),
    ("sigsegv", 60000, 2),
    ("files", 20000, 5),
)
SHELL = ("shell-forks", 1000, 2)

GROWTH = (
    ("hops-2", 30000, 3, "hops-64 640"),
    ("hops-64", 30000, 3, "hops-64 640"),
    ("exec-4", 2400, 3, "exec-64 64"),
    ("exec-16", 2400, 3, "exec-64 64"),
    ("exec-64", 2400, 3, "exec-64 64"),
    ("touch-16m", 98304, 2, "touch-64m 16384"),
    ("touch-64m", 98304, 2, "touch-64m 16384"),
)

PROGRAMS = tuple(
    [Program("user", name, "user", count, qemu) for name, count, qemu in USER]
    + [Program("user", name, "real", count, qemu) for name, count, qemu in REAL]
    + [Program("cold", name, "real", count, qemu) for name, count, qemu in COLD]
    + [Program("kernel", name, "kernel", count, qemu) for name, count, qemu in KERNEL]
    + [Program("kernel", SHELL[0], "real", *SHELL[1:])]
    + [Program("pti", name, "kernel", count // 4, qemu) for name, count, qemu in KERNEL]
    + [Program("pti", SHELL[0], "real", SHELL[1] // 4, SHELL[2])]
    + [Program("growth", name, "kernel", count, qemu, before) for name, count, qemu, before in GROWTH]
)

# Programs of these groups share a boot: kernel flavour, what its command line gets besides, and the groups.
BOOTS = (("686", "", ("user", "cold", "kernel", "growth")), ("686-pae", "pti=on", ("pti",)))


def chosen(names):
    """(groups, programs) that the names choose: groups, GROUP/PROGRAM, or PROGRAM where no group of its own has it (not pti). None: unknown."""
    groups, programs = set(), []
    for name in names:
        found = [p for p in PROGRAMS if name in (p.group, p.key) or (name == p.name and p.group != "pti")]
        if not found and name not in GROUPS:
            return None, name
        groups.update({name} & set(GROUPS))
        programs += found
    return groups, [p for p in PROGRAMS if p in programs]
