"""Runs work under ring3, under QEMU's TCG and natively, and measures CPU time of the whole process."""

import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/bench"
STORE = ROOT / "build/debian"
RING3 = ROOT / "build/release/ring3"
LIMIT = 900  # seconds without a line from the guest

INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
stty -echo -opost
while read name program count; do
  echo "@begin $name"
  echo "@result $name $(/bin/$program $name $count 2>&1)"
  echo "@end $name"
done < /list
poweroff -f
"""


class Failed(Exception):
    """A machine did not do what it should; the text is for the user."""


def cpu_seconds(pid):
    """CPU time of a process with all its threads, in nanosecond steps (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def compile_programs():
    """The programs as static i386 binaries, and one as a position-independent dynamic one."""
    BUILD.mkdir(parents=True, exist_ok=True)
    source = ROOT / "bench/programs"
    flags = ["gcc", "-m32", "-march=i686", "-O2", "-Wall", "-Wextra", "-Wno-array-bounds"]
    newest = max(path.stat().st_mtime for path in source.iterdir())
    made = BUILD / "kernel-pie"
    if made.exists() and made.stat().st_mtime > newest:
        return
    for name, extra in (("x87", ["-mno-sse", "-mfpmath=387"]), ("sse2", ["-msse2", "-mfpmath=sse"])):
        subprocess.run([*flags, *extra, f"-DMATRIX=matrix_{name}", "-c", source / "floating.c", "-o", BUILD / f"{name}.o"], check=True)
    parts = [source / f"{part}.c" for part in ("integer", "memory", "control", "user")]
    subprocess.run([*flags, "-static", *parts, BUILD / "x87.o", BUILD / "sse2.o", "-o", BUILD / "user"], check=True)
    subprocess.run([*flags, "-static", source / "kernel.c", "-o", BUILD / "kernel"], check=True)
    subprocess.run([*flags, "-fPIE", "-pie", source / "kernel.c", "-o", made], check=True)


def loader_files(binary):
    """The files that a dynamic i386 binary needs, as ldd names them."""
    listing = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True).stdout
    return re.findall(r"(/\S+) \(0x", listing)


def initramfs(programs, machine):
    """An initramfs that runs `programs` one after the other and powers off."""
    tree = BUILD / f"root-{machine}"
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("bin", "dev", "proc", "tmp"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(STORE / "busybox/bin/busybox", tree / "bin")
    for applet in ("sh", "mount", "stty", "poweroff"):
        (tree / "bin" / applet).symlink_to("busybox")
    for binary in ("user", "kernel", "kernel-pie"):
        shutil.copy(BUILD / binary, tree / "bin")
    for path in loader_files(BUILD / "kernel-pie"):
        where = tree / path.lstrip("/")
        where.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, where)
    count = (lambda p: max(1, p.count // p.qemu)) if machine == "qemu" else (lambda p: p.count)
    (tree / "list").write_text("".join(f"{p.name} {p.binary} {count(p)}\n" for p in programs))
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    out = BUILD / f"initramfs-{machine}.cpio"
    with out.open("wb") as archive:
        subprocess.run("find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0", shell=True, cwd=tree, stdout=archive, check=True)
    return out


def debian_kernel(flavour):
    """The newest unpacked kernel of the flavour; fetches it if there is none."""
    found = sorted((STORE / flavour / "boot").glob("vmlinuz-*"))
    if not found:
        pae = ["--pae"] if flavour == "686-pae" else []
        subprocess.run([ROOT / "scripts/boot-debian", "--check", "--short", *pae], check=True, stdout=subprocess.DEVNULL)
        found = sorted((STORE / flavour / "boot").glob("vmlinuz-*"))
    return found[-1]


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


def lines(line, on_line):
    """Runs a machine and calls `on_line(text, CPU seconds so far)` for each line on its serial port, at the moment it comes."""
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            pipe, rest = process.stdout.fileno(), b""
            while select.select([pipe], [], [], LIMIT)[0]:
                chunk = os.read(pipe, 65536)
                if not chunk:
                    return
                now = cpu_seconds(process.pid)
                *whole, rest = (rest + chunk).split(b"\n")
                for text in whole:
                    on_line(text.decode(errors="replace").strip(), now)
            raise Failed(f"{line[0]}: nothing on the serial port for {LIMIT} s")
        finally:
            process.kill()


def run_guest_programs(machine, programs, extra=()):
    """{name: (CPU seconds a unit, result)} of the programs in a Linux guest."""
    kernel = debian_kernel("686")
    started, measured, results, tail = {}, {}, {}, []
    by_name = {p.name: p for p in programs}

    def on_line(text, now):
        tail.append(text)
        word, _, value = text.partition(" ")
        if word == "@begin":
            started[value] = now
        elif word == "@result":
            name, _, result = value.partition(" ")
            results[name] = result
        elif word == "@end":
            program = by_name[value]
            done = max(1, program.count // program.qemu) if machine == "qemu" else program.count
            measured[value] = (now - started[value]) / done

    lines(command(machine, kernel, initramfs(programs, machine), "console=ttyS0 quiet panic=-1", extra=extra), on_line)
    missing = [p.name for p in programs if p.name not in measured]
    if missing:
        raise Failed(f"{machine}: {missing[0]} did not end; the guest said last:\n" + "\n".join(tail[-15:]))
    return {name: (seconds, results[name]) for name, seconds in measured.items()}


def run_native(program, count):
    """(CPU seconds a unit, result) of a program on this machine."""
    with subprocess.Popen([BUILD / program.binary, program.name, str(count)], stdout=subprocess.PIPE, text=True) as process:
        result = process.stdout.read().strip()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Failed(f"{program.name} failed natively: {result}")
    return (usage.ru_utime + usage.ru_stime) / count, result


def run_nano(machine, extra=()):
    """{row: nanoseconds} of the nanobenchmark kernel."""
    rows = {}

    def on_line(text, _):
        if text.startswith("nano ") and not text.startswith("nano clock"):
            name, _, picoseconds = text[5:].rpartition(": ")
            rows[name] = int(picoseconds) / 1000

    lines(command(machine, ROOT / "build/release/bench/guests/nano.elf", memory=64, extra=extra), on_line)
    if not rows:
        raise Failed(f"{machine}: the nanobenchmark kernel printed nothing")
    return rows


def run_start(machine, extra=()):
    """CPU and wall milliseconds from the start of the process to its end, for a guest that leaves at its first instruction."""
    begin = time.monotonic()
    with subprocess.Popen(command(machine, ROOT / "build/release/bench/guests/start.elf", memory=256, extra=extra), stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 33:
        raise Failed(f"{machine}: the guest that only leaves ended with status {process.returncode}")
    return {"start, CPU": (usage.ru_utime + usage.ru_stime) * 1e3, "start, wall": (time.monotonic() - begin) * 1e3}


GREETING = "busybox shell on the serial console"


def resident(pid, name):
    """Resident KiB of the largest mapping whose file name contains `name`."""
    best, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = name in line
        elif inside and line.startswith("Rss:"):
            best = max(best, int(line.split()[1]))
    return best


def boot(machine, flavour, extra=()):
    """(CPU seconds, {kind: KiB}) when the shell's greeting appears."""
    line = command(machine, debian_kernel(flavour), STORE / "initramfs.gz", "console=ttyS0 panic=-1", extra=extra)
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            seen = b""
            while GREETING.encode() not in seen:
                if not select.select([process.stdout], [], [], LIMIT)[0]:
                    raise Failed(f"{machine}: no shell after {LIMIT} s")
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    raise Failed(f"{machine}: ended before the shell:\n" + seen[-2000:].decode(errors="replace"))
                seen += chunk
            seconds = cpu_seconds(process.pid)
            status = Path(f"/proc/{process.pid}/status").read_text()
            value = {key: int(number) for key, number in re.findall(r"^(\w+):\s+(\d+) kB", status, re.M)}
            guest = resident(process.pid, "guest-ram")
            return seconds, {"anon": value["RssAnon"], "tables": value["VmPTE"], "shared": value["RssShmem"] - guest, "guest": guest}
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit("this is a part of bench/compare")
