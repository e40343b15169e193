"""Kernels made of a few bytes, and running ring3 on them."""

import os
import pathlib
import struct
import subprocess
import tempfile
import unittest

RING3 = os.environ["RING3"]
LOAD = 0x100000
DEBUG_EXIT = ["--debug-exit", "0x501"]
# False in builds whose only engine is the interpreter (src/base/sanitizer.h).
TRANSLATES = os.environ.get("RING3_TRANSLATES", "1") == "1"
# Seconds after which a run counts as hung; every run ends in a fraction of one on an idle machine.
PATIENCE = 60


def multiboot(code, flags=0x10000, magic=0x1BADB002):
    """A Multiboot 1 kernel with address fields; `code` is entered in 32-bit protected mode at LOAD + 32."""
    checksum = -(magic + flags) & 0xFFFFFFFF
    entry = LOAD + 32
    return struct.pack("<8I", magic, flags, checksum, LOAD, LOAD, 0, 0, entry) + code


def out(port, value):
    """mov dx, port; mov al, value; out dx, al"""
    return b"\x66\xba" + struct.pack("<H", port) + b"\xb0" + bytes([value]) + b"\xee"


def say(text):
    """Writes text to COM1, waiting for THRE before each byte, as drivers do."""
    code = b""
    for byte in text:
        # 1: mov dx, 3fdh; in al, dx; test al, 20h; jz 1b; mov dx, 3f8h; mov al, byte; out dx, al
        code += b"\x66\xba\xfd\x03\xec\xa8\x20\x74\xf7" + out(0x3F8, byte)
    return code


FOREVER = b"\xeb\xfe"  # jmp $
HALT = b"\xf4"  # hlt
EXIT_33 = out(0x501, 0x10) + FOREVER
# Echo: waits for data ready, reads the byte, writes it back; 'q' leaves by the debug exit.
ECHO = (
    b"\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7"  # 1: mov dx, 3fdh; in al, dx; test al, 1; jz 1b
    b"\x66\xba\xf8\x03\xec\x88\xc3"  # mov dx, 3f8h; in al, dx; mov bl, al
    b"\x66\xba\xfd\x03\xec\xa8\x20\x74\xf7"  # 2: wait for THRE
    b"\x66\xba\xf8\x03\x88\xd8\xee"  # mov dx, 3f8h; mov al, bl; out dx, al
    b"\x3c\x71\x75\xdc"  # cmp al, 'q'; jne 1b
) + EXIT_33


def elf(code, machine=3, elf_class=1, address=LOAD, file_bytes=None, memory=None):
    """An ELF executable with one segment that begins with a Multiboot header (no address fields)."""
    body = struct.pack("<3I", 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF) + code
    header = b"\x7fELF" + bytes([elf_class, 1, 1]) + bytes(9)
    header += struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, address + 12, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    size = len(body) if file_bytes is None else file_bytes
    program = struct.pack("<8I", 1, 84, address, address, size, len(body) if memory is None else memory, 7, 0)
    return header + program + body


def bzimage(version=0x20F, setup_sects=1, code=HALT, **fields):
    """A Linux image whose protected-mode part is `code`."""
    at = {
        "syssize": (0x1F4, "<I"), "boot_flag": (0x1FE, "<H"), "version": (0x206, "<H"), "loadflags": (0x211, "<B"),
        "code32_start": (0x214, "<I"), "initrd_addr_max": (0x22C, "<I"), "kernel_alignment": (0x230, "<I"),
        "relocatable_kernel": (0x234, "<B"), "xloadflags": (0x236, "<H"), "cmdline_size": (0x238, "<I"),
        "pref_address": (0x258, "<Q"), "init_size": (0x260, "<I"),
    }
    code = code + bytes(-len(code) % 16)
    values = {
        "syssize": len(code) // 16, "boot_flag": 0xAA55, "version": version, "loadflags": 1, "code32_start": LOAD,
        "initrd_addr_max": 0x7FFFFFFF, "kernel_alignment": 0x1000, "relocatable_kernel": 0, "xloadflags": 0, "cmdline_size": 255,
        "pref_address": LOAD, "init_size": 0x10000,
    }
    values.update(fields)
    image = bytearray((setup_sects + 1) * 512)
    image[0x1F1] = setup_sects
    image[0x200:0x202] = b"\xeb\x66"
    image[0x202:0x206] = b"HdrS"
    for name, value in values.items():
        offset, form = at[name]
        struct.pack_into(form, image, offset, value)
    return bytes(image) + code


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def ring3(self, *arguments, **keywords):
        keywords.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run([RING3, *arguments], capture_output=True, timeout=PATIENCE, **keywords)
