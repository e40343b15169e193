"""What runs in the guest: Debian's kernels, the benchmark programs, programs of Debian, and the initramfs that holds them."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/bench"
STORE = ROOT / "build/debian"
DEBIAN = STORE / "bench"  # Debian's programs with their libraries, unpacked
SOURCE = ROOT / "bench/programs"

PACKAGES = ("gzip", "bzip2", "xz-utils", "tcc", "libc6-dev", "libstb-dev", "gnuplot-nox")
REAL = ("bin/gzip", "bin/bzip2", "usr/bin/xz", "usr/bin/tcc", "usr/bin/gnuplot-nox")
LIBRARIES = ("lib/i386-linux-gnu", "usr/lib/i386-linux-gnu")
LOADER = "lib/ld-linux.so.2"
TCC = "usr/lib/i386-linux-gnu/tcc"
APPLETS = ("sh", "mount", "stty", "poweroff", "cat", "md5sum")

STB_IMAGE = """#define STB_IMAGE_IMPLEMENTATION
#define STBI_NO_SIMD
#include <stb/stb_image.h>
"""


def script(text):
    """Runs a piece of bash with scripts/lib.sh."""
    subprocess.run(["bash", "-c", f'set -e; . "{ROOT}/scripts/lib.sh"; {text}'], check=True)


def prepare(real):
    """Programs, ring3, and Debian's kernels; Debian's programs if `real`."""
    script("need_packages $(listed_packages build) qemu-system-x86 gcc-multilib cpio gzip; build release ring3 bench_guests")
    BUILD.mkdir(parents=True, exist_ok=True)
    compile_programs()
    kernel("686")
    if real:
        if not (DEBIAN / "usr/bin/gnuplot-nox").exists():
            script(f'lock_store; fetch_all "{DEBIAN}" {" ".join(PACKAGES)} || {{ update_index; fetch_all "{DEBIAN}" {" ".join(PACKAGES)}; }}')
        (DEBIAN / "data").mkdir(exist_ok=True)
        shutil.copy(STORE / "busybox/bin/busybox", DEBIAN / "data")
        (DEBIAN / "data/stb_image.c").write_text(STB_IMAGE)


def compile_programs():
    """The programs as static i386 binaries, and one as a position-independent dynamic one."""
    flags = ["gcc", "-m32", "-march=i686", "-O2", "-Wall", "-Wextra", "-Wno-array-bounds"]
    sources = sorted(SOURCE.glob("*.[ch]"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + repr(flags).encode()).hexdigest()
    stamp = BUILD / "programs.sha256"
    if stamp.exists() and stamp.read_text() == digest:
        return
    for name, extra in (("x87", ["-mno-sse", "-mfpmath=387"]), ("sse2", ["-msse2", "-mfpmath=sse"])):
        subprocess.run([*flags, *extra, f"-DMATRIX=matrix_{name}", "-c", SOURCE / "floating.c", "-o", BUILD / f"{name}.o"], check=True)
    parts = [SOURCE / f"{part}.c" for part in ("integer", "memory", "control", "user")]
    subprocess.run([*flags, "-static", *parts, BUILD / "x87.o", BUILD / "sse2.o", "-o", BUILD / "user"], check=True)
    kernel_parts = [SOURCE / f"{part}.c" for part in ("kernel", "system_calls", "processes")]
    subprocess.run([*flags, "-static", *kernel_parts, "-o", BUILD / "kernel"], check=True)
    subprocess.run([*flags, "-fPIE", "-pie", *kernel_parts, "-o", BUILD / "kernel-pie"], check=True)
    stamp.write_text(digest)


def kernel(flavour):
    """Debian's newest unpacked kernel of the flavour; fetches it if there is none."""
    found = sorted((STORE / flavour / "boot").glob("vmlinuz-*"))
    if not found:
        pae = ["--pae"] if flavour == "686-pae" else []
        subprocess.run([ROOT / "scripts/boot-debian", "--check", "--short", *pae], check=True, stdout=subprocess.DEVNULL)
        found = sorted((STORE / flavour / "boot").glob("vmlinuz-*"))
    return found[-1]


def native_run():
    """(environment) in which bench/programs/real finds Debian's programs on this machine."""
    path = ":".join(str(DEBIAN / folder) for folder in LIBRARIES)
    temporary = BUILD / "tmp"
    temporary.mkdir(exist_ok=True)
    return dict(os.environ, ROOT=str(DEBIAN), TMP=str(temporary), RUN=f"{DEBIAN / LOADER} --inhibit-cache --library-path {path}")


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def add_debian_programs(tree):
    """Copies Debian's programs, their libraries, and what tcc reads."""
    environment = native_run()
    wanted = {*REAL, LOADER, "data/busybox", "data/stb_image.c"}
    run = environment["RUN"].split()
    for binary in REAL:
        listing = subprocess.run([*run, "--list", DEBIAN / binary], check=True, capture_output=True, text=True).stdout
        wanted.update(os.path.relpath(path, DEBIAN) for path in re.findall(r"=> (/\S+) \(0x", listing))
    include = [f"-I{DEBIAN / folder}" for folder in (f"{TCC}/include", "usr/include/i386-linux-gnu", "usr/include")]
    depends = BUILD / "stb_image.d"
    subprocess.run([*run, DEBIAN / "usr/bin/tcc", f"-B{DEBIAN / TCC}", "-nostdinc", *include, "-MD", "-MF", depends, "-c", DEBIAN / "data/stb_image.c",
                    "-o", BUILD / "stb_image.o"], check=True)
    wanted.update(os.path.relpath(path, DEBIAN) for path in depends.read_text().split() if path.startswith(str(DEBIAN)))
    for path in wanted:
        copy(DEBIAN / path, tree / path)


def add_loader(tree):
    """The files that kernel-pie needs, as ldd names them."""
    listing = subprocess.run(["ldd", BUILD / "kernel-pie"], check=True, capture_output=True, text=True).stdout
    for path in re.findall(r"(/\S+) \(0x", listing):
        if not (tree / path.lstrip("/")).exists():
            copy(path, tree / path.lstrip("/"))


def initramfs(name, rows, real):
    """An initramfs that runs `rows` of (name, binary, program, count, before), one after the other, and powers off."""
    tree = BUILD / f"root-{name}"
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("bin", "dev", "proc", "tmp"):
        (tree / folder).mkdir(parents=True)
    if real:
        add_debian_programs(tree)
    copy(STORE / "busybox/bin/busybox", tree / "bin/busybox")
    for applet in APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")
    for binary in ("user", "kernel", "kernel-pie"):
        copy(BUILD / binary, tree / "bin" / binary)
    copy(SOURCE / "real", tree / "bin/real")
    add_loader(tree)
    (tree / "list").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    copy(SOURCE / "init", tree / "init")
    for path in (tree / "init", tree / "bin/real"):
        path.chmod(0o755)
    out = BUILD / f"initramfs-{name}.cpio"
    with out.open("wb") as archive:
        subprocess.run("find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0", shell=True, cwd=tree, stdout=archive, check=True)
    return out
