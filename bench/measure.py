"""Measures the chosen work under all machines, in turn, and keeps the samples."""

import functools
import sys
import time

import guest_files
import machines
from machines import Failed
from work import BOOTS

NATIVE_SECONDS = 2.1  # what a user program takes natively
IDLE_SECONDS = 5.0
PATIENCE = 15.0  # seconds of silence before progress is told


class Comparison:
    """Samples: {group/name: {machine: [values]}}. Values are seconds a unit of work unless report.unit() says otherwise."""

    def __init__(self, options, groups, programs):
        self.options, self.groups, self.programs = options, groups, programs
        self.samples = {}
        self.counts = {}
        self.results = {}
        self.begin = self.said = time.monotonic()
        self.guests = [m for m in ("ring3", "qemu") if m in options.machines]

    def say(self, text):
        self.said = time.monotonic()
        if not self.options.quiet:
            print(f"[{time.monotonic() - self.begin:5.0f} s] {text}", file=sys.stderr, flush=True)

    def progress(self, number, name):
        """Says now and then where a long group is."""
        if time.monotonic() - self.said > PATIENCE:
            self.say(f"  {number} done, now {name}")

    def extra(self, machine):
        return self.options.ring3 if machine == "ring3" else ()

    def add(self, key, machine, value):
        self.samples.setdefault(key, {}).setdefault(machine, []).append(value)

    def check(self, program, machine, count, result):
        """The same count gives the same result everywhere."""
        first = self.results.setdefault((program.key, count), (machine, result))
        if first[1] != result:
            raise Failed(f"{program.key}: {machine} says '{result}', {first[0]} said '{first[1]}'")
        if "FAILED" in result or not result.startswith(program.name):
            raise Failed(f"{program.key} under {machine}: {result or 'no result'}")

    def count(self, program, machine):
        whole = self.counts[program.key]
        return max(1, whole // program.qemu) if machine == "qemu" else whole

    def choose_counts(self):
        """How much each program does: user programs so much that they take NATIVE_SECONDS natively."""
        self.say("choosing how much work each program gets")
        for p in self.programs:
            self.counts[p.key] = max(1, round(p.count * self.options.scale))
            if p.group == "user":
                seconds, _ = machines.run_native(p, p.count)
                rounds = NATIVE_SECONDS * self.options.scale / max(seconds, 1e-3)
                self.counts[p.key] = max(1, round(p.count * rounds + 0.5))

    @functools.cache
    def initramfs(self, boot, machine):
        flavour, _, groups = boot
        programs = [p for p in self.programs if p.group in groups]
        rows = [(p.key, p.binary, p.name, self.count(p, machine), p.before) for p in programs]
        return guest_files.initramfs(f"{flavour}-{machine}", rows, any(p.binary == "real" and p.native for p in programs))

    def run_programs(self):
        native = [p for p in self.programs if p.native and "native" in self.options.machines]
        if native:
            self.say(f"{len(native)} programs natively")
        for p in native:
            counts = {self.count(p, machine) for machine in ("ring3", *self.guests)}
            for count in counts:
                if count != self.counts[p.key] and (p.key, count) in self.results:
                    continue  # it was run for its result alone
                seconds, result = machines.run_native(p, count)
                self.check(p, "native", count, result)
                if count == self.counts[p.key]:
                    self.add(p.key, "native", seconds / count)
        for boot in BOOTS:
            programs = [p for p in self.programs if p.group in boot[2]]
            for machine in self.guests if programs else ():
                self.say(f"{len(programs)} programs under {machine}, {boot[0]} {boot[1]}")
                found, mappings = machines.run_programs(
                    machine, guest_files.kernel(boot[0]), self.initramfs(boot, machine), boot[1], [p.key for p in programs], self.progress, self.extra(machine))
                for p in programs:
                    seconds, result = found[p.key]
                    count = self.count(p, machine)
                    self.check(p, machine, count, result)
                    self.add(p.key, machine, seconds / count)
                if "growth" in boot[2] and any(p.group == "growth" for p in programs):
                    self.add("growth/mappings of the process", machine, mappings)

    def run_nano(self):
        for machine in self.guests:
            self.say(f"nanobenchmarks under {machine}")
            for row, ns in machines.run_nano(machine, self.extra(machine)).items():
                self.add(f"nano/{row}", machine, max(ns, 0.001) * 1e-9)

    def run_start(self):
        for machine in self.guests:
            cpu, wall = machines.run_start(machine, self.extra(machine))
            self.add("start/CPU time", machine, cpu)
            self.add("start/wall time", machine, wall)

    def run_boots(self):
        for flavour in ("686", "686-pae"):
            kernel = guest_files.kernel(flavour)
            touched = 0.0
            for machine in self.guests:
                idle = IDLE_SECONDS if flavour == "686" and "idle" in self.groups else 0.0
                if not idle and "boot" not in self.groups:
                    continue
                self.say(f"booting {flavour} under {machine}")
                seconds, (memory, guest, mappings), share = machines.boot(machine, kernel, self.extra(machine), idle)
                if idle:
                    self.add("idle/share at the prompt", machine, share)
                if "boot" not in self.groups:
                    continue
                # QEMU keeps guest RAM in anonymous memory: what the guest touched under ring3 is taken off.
                touched = guest if guest is not None else touched
                self.add(f"boot/{flavour}, CPU", machine, seconds)
                if guest is not None or touched:
                    self.add(f"boot/{flavour}, memory", machine, memory - (touched if guest is None else 0))
                self.add(f"boot/{flavour}, mappings", machine, mappings)
        if "boot" in self.groups and "ring3" in self.guests:
            self.say("booting 686 under ring3 for its statistics")
            for name, value in machines.boot_statistics(guest_files.kernel("686"), self.options.ring3).items():
                self.add(f"boot/translation, {name}", "ring3", value)

    def run_once(self):
        if self.programs:
            self.run_programs()
        if "nano" in self.groups:
            self.run_nano()
        if "start" in self.groups:
            self.run_start()
        if self.groups & {"boot", "idle"}:
            self.run_boots()

    def run(self):
        """Everything, as often as asked; what is there so far is kept when the user stops it."""
        self.choose_counts()
        for number in range(self.options.runs):
            self.say(f"run {number + 1} of {self.options.runs}")
            self.run_once()
