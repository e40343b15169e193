"""Runs ring3, QEMU's TCG and native programs, and measures CPU time of the whole process and its memory."""

import os
import re
import select
import subprocess
import time
from pathlib import Path

from guest_files import BUILD, ROOT, SOURCE, STORE, native_run

RING3 = ROOT / "build/release/ring3"
LIMIT = 900  # seconds without a line from the guest
GREETING = b"busybox shell on the serial console"


class Failed(Exception):
    """A machine did not do what it should; the text is for the user."""


def cpu_seconds(pid):
    """CPU time of a process with all its threads, in nanosecond steps (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def command(machine, kernel, initrd=None, append="", memory=256, extra=()):
    """The command line of one machine for a kernel."""
    if machine == "qemu":
        line = ["qemu-system-i386", "-accel", "tcg", "-cpu", "max", "-m", str(memory), "-display", "none", "-serial", "stdio", "-monitor", "none"]
        line += ["-no-reboot", "-net", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-kernel", str(kernel)]
        line += ["-append", append] if append else []
    else:
        line = [str(RING3), "run", "--kernel", str(kernel), "--memory", f"{memory}M", "--no-reboot", "--debug-exit", "0xf4"]
        line += ["--append", append] if append else []
        line += list(extra)
    return line + (["-initrd" if machine == "qemu" else "--initrd", str(initrd)] if initrd else [])


class Guest:
    """A running machine: lines of its serial port, with the CPU time at each."""

    def __init__(self, line):
        self.name = line[0]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.pid = self.process.pid
        self.last = b""  # what it said last, for messages

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def chunk(self):
        """The next bytes, b"" at the end."""
        pipe = self.process.stdout.fileno()
        if not select.select([pipe], [], [], LIMIT)[0]:
            raise Failed(f"{self.name}: nothing on the serial port for {LIMIT} s; it said last:\n{self.tail()}")
        data = os.read(pipe, 65536)
        self.last = (self.last + data)[-3000:]
        return data

    def tail(self):
        return "\n".join(self.last.decode(errors="replace").splitlines()[-15:])

    def lines(self):
        """(text, CPU seconds so far) of every line, at the moment it comes."""
        rest = b""
        while data := self.chunk():
            now = cpu_seconds(self.pid)
            *whole, rest = (rest + data).split(b"\n")
            for text in whole:
                yield text.decode(errors="replace").strip(), now

    def wait_for(self, text):
        seen = b""
        while text not in seen:
            data = self.chunk()
            if not data:
                raise Failed(f"{self.name}: ended too early; it said last:\n{self.tail()}")
            seen = (seen + data)[-4096:]

    def send(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def cpu(self):
        return cpu_seconds(self.pid)

    def memory(self):
        """MiB: what it takes besides guest RAM, how much of guest RAM was touched (None if that cannot be told), and the number of mappings."""
        ours, shared_guest, mappings = 0, None, 0
        name, shared = "", False
        for line in Path(f"/proc/{self.pid}/smaps").read_text().splitlines():
            key, _, value = line.partition(":")
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                name = line.split(None, 5)[5] if len(line.split(None, 5)) > 5 else ""
                shared = name.startswith(("/memfd:", "/dev/zero", "/dev/shm", "/SYSV"))
                mappings += 1
            elif "guest-ram" in name:
                continue
            elif key == "Anonymous" or (key == "Pss" and shared):  # Pss: a page that is mapped twice counts once
                ours += int(value.split()[0])
        status = Path(f"/proc/{self.pid}/status").read_text()
        ours += int(re.search(r"VmPTE:\s+(\d+)", status)[1])
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            if "guest-ram" in os.readlink(descriptor):
                shared_guest = descriptor.stat().st_blocks / 2048
        return ours / 1024, shared_guest, mappings


def run_programs(machine, flavour_kernel, initrd, append, names, progress, extra=()):
    """{name: (CPU seconds, result)} of the programs in a Linux guest, and the most mappings that the process had at a mark.

    `progress(number, name)` is told what begins.
    """
    started, measured, results, mappings = {}, {}, {}, 0
    with Guest(command(machine, flavour_kernel, initrd, f"console=ttyS0 quiet panic=-1 {append}".strip(), extra=extra)) as guest:
        for text, now in guest.lines():
            word, _, value = text.partition(" ")
            if word == "@begin":
                progress(len(started), value)
                started[value] = now
            elif word == "@end":
                measured[value] = now - started[value]
                mappings = max(mappings, guest.memory()[2])
            elif word == "@result":
                name, _, result = value.partition(" ")
                results[name] = result
            if word in ("@begin", "@end"):
                guest.send(b"\n")
        missing = [name for name in names if name not in results or name not in measured]
        if missing:
            raise Failed(f"{machine}: {missing[0]} did not end; the guest said last:\n{guest.tail()}")
    return {name: (measured[name], results[name]) for name in names}, mappings


def run_native(program, count):
    """(CPU seconds, result) of a program on this machine."""
    real = program.binary == "real"
    line = [STORE / "busybox/bin/busybox", "sh", SOURCE / "real"] if real else [BUILD / program.binary]
    with subprocess.Popen([*line, program.name, str(count)], stdout=subprocess.PIPE, text=True, env=native_run() if real else None) as process:
        result = process.stdout.read().strip()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Failed(f"{program.name} failed natively: {result}")
    return usage.ru_utime + usage.ru_stime, result


def run_nano(machine, extra=()):
    """{row: nanoseconds} of the nanobenchmark kernel, by the guest's clock: the host's TSC in both."""
    rows = {}
    with Guest(command(machine, ROOT / "build/release/bench/guests/nano.elf", memory=64, extra=extra)) as guest:
        for text, _ in guest.lines():
            row = re.fullmatch(r"nano (?!clock)(.+): (\d+)", text)
            if row:
                rows[row[1]] = int(row[2]) / 1000
        if "nano end" not in guest.tail():
            raise Failed(f"{machine}: the nanobenchmark kernel did not end; it said last:\n{guest.tail()}")
    return rows


def run_start(machine, extra=()):
    """CPU and wall seconds from the start of the process to its end, for a guest that leaves at its first instruction."""
    begin = time.monotonic()
    with subprocess.Popen(command(machine, ROOT / "build/release/bench/guests/start.elf", extra=extra), stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 33:
        raise Failed(f"{machine}: the guest that only leaves ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - begin


def boot(machine, kernel, extra=(), idle=0.0):
    """CPU seconds and memory (as Guest.memory) when the shell's greeting appears; the share of a core that it then takes for `idle` seconds."""
    with Guest(command(machine, kernel, STORE / "initramfs.gz", "console=ttyS0 panic=-1", extra=extra)) as guest:
        guest.wait_for(GREETING)
        seconds, memory, share = guest.cpu(), guest.memory(), None
        if idle:
            time.sleep(2)  # the kernel's own work after the start
            before, begin = guest.cpu(), time.monotonic()
            time.sleep(idle)
            share = (guest.cpu() - before) / (time.monotonic() - begin)
        return seconds, memory, share


def boot_statistics(kernel, extra=()):
    """What --stats tells about a boot to the shell and back, in a run of its own: counters take time."""
    seconds, said = 0.0, []
    with Guest(command("ring3", kernel, STORE / "initramfs.gz", "console=ttyS0 panic=-1", extra=[*extra, "--stats"])) as guest:
        guest.wait_for(GREETING)
        guest.send(b"exit\n")
        for text, seconds in guest.lines():
            said.append(text)
    text = "\n".join(said)
    number = r"([\d.]+)"
    times = re.search(rf"{number} in the cache, {number} translating, {number} in the runtime", text)
    translated = re.search(rf"translated +{number} guest instructions.*expansion {number}", text)
    if not times or not translated:
        raise Failed(f"--stats does not say what is expected:\n{text}")
    # --stats reads a clock that goes on while others run; shares of it are shares of CPU time.
    share = float(times[2]) / max(sum(map(float, times.groups())), 1e-9)
    return {"per second": float(translated[1]) / max(share * seconds, 1e-9), "expansion": float(translated[2]), "share": share}
