"""Each kind of bad input gives exit status 2 and one line on stderr that names the culprit and says how to mend it."""

import os
import struct
import unittest

import support
from support import HALT, LOAD, bzimage, elf, multiboot


class BadInput(support.Case):
    def refused(self, arguments, culprit, *words):
        done = self.ring3("run", *arguments)
        errors = done.stderr.decode()
        self.assertEqual(done.returncode, 2, errors)
        self.assertEqual(errors.count("\n"), 1, errors)
        self.assertTrue(errors.startswith("ring3: "), errors)
        self.assertIn(culprit, errors)
        for word in words:
            self.assertIn(word, errors)
        self.assertEqual(done.stdout, b"")

    def refused_kernel(self, content, *words, options=()):
        self.refused(["--kernel", self.file("the-kernel", content), *options], "the-kernel", *words)

    def good(self):
        return self.file("good", multiboot(HALT))

    def test_files_that_are_no_kernels(self):
        self.refused(["--kernel", "/nonexistent/the-kernel"], "/nonexistent/the-kernel", "No such file")
        self.refused(["--kernel", str(self.folder)], self.folder.name, "not a regular file")
        self.refused_kernel(b"", "empty")
        self.refused_kernel(b"#!/bin/sh\n", "not a kernel")
        self.refused_kernel(bytes(100000), "not a kernel")
        self.refused_kernel(b"\x1f\x8b" + bytes(100), "gunzip")
        self.refused_kernel(b"\xfd7zXZ\0" + bytes(100), "unxz")

    def test_name_with_a_line_feed_stays_one_line(self):
        self.refused(["--kernel", "/nonexistent/a\nb"], "/nonexistent/a?b")

    def test_unreadable_file(self):
        path = self.good()
        os.chmod(path, 0)
        if os.geteuid() == 0:
            self.skipTest("root reads everything")
        self.refused(["--kernel", path], path, "Permission denied")

    def test_elf(self):
        self.refused_kernel(elf(HALT, elf_class=2), "64-bit")
        self.refused_kernel(elf(HALT, machine=62), "another processor")
        self.refused_kernel(elf(HALT)[:96], "cut off")
        self.refused_kernel(elf(HALT, file_bytes=5000, memory=6000), "cut off")
        self.refused_kernel(elf(HALT, file_bytes=50, memory=20), "more bytes in the file")
        self.refused_kernel(elf(HALT, memory=0x80000000), "--memory")
        self.refused_kernel(elf(HALT, address=0xFFFFF000, memory=0x2000), "3 GiB")
        self.refused_kernel(elf(HALT, address=0xA0000), "firmware")
        self.refused_kernel(elf(HALT, address=0), "interrupt vectors")
        # Without a Multiboot header an ELF file is no kernel, whatever it is for.
        self.refused_kernel(elf(HALT).replace(struct.pack("<I", 0x1BADB002), bytes(4)), "Multiboot")

    def test_multiboot(self):
        self.refused_kernel(multiboot(HALT, flags=0x10008), "features")
        self.refused_kernel(multiboot(HALT, flags=0x10004), "video")
        self.refused_kernel(multiboot(HALT, flags=0), "flag 16")
        self.refused_kernel(multiboot(HALT)[:20], "cut off")
        header = list(struct.unpack("<8I", multiboot(b"")))

        def changed(index, value):
            fields = list(header)
            fields[index] = value
            return struct.pack("<8I", *fields) + HALT

        self.refused_kernel(changed(4, LOAD + 4), "byte 0")
        self.refused_kernel(changed(4, 0), "byte 0")
        self.refused_kernel(changed(5, LOAD - 1), "load_end_addr")
        self.refused_kernel(changed(5, LOAD + 4096), "cut off")
        self.refused_kernel(changed(6, LOAD + 1), "bss_end_addr")
        self.refused_kernel(changed(6, 0xFFFFFFFF), "3 GiB")
        self.refused_kernel(changed(7, 0xFFFFFFF0), "entry point")
        self.refused_kernel(multiboot(HALT), "--module", options=["--initrd", self.good()])

    def test_linux(self):
        self.refused_kernel(bzimage(version=0x205), "2.05", "2.06")
        self.refused_kernel(bzimage(loadflags=0), "bzImage")
        self.refused_kernel(bzimage(xloadflags=1), "64-bit", "linux-image-686")
        self.refused_kernel(bzimage()[:0x210], "cut off")
        self.refused_kernel(bzimage()[:1024], "cut off")
        self.refused_kernel(bzimage(syssize=0x10000), "cut off")
        self.refused_kernel(bzimage(syssize=0), "cut off")
        self.refused_kernel(bzimage(init_size=0x7FFFFFFF), "--memory")
        self.refused_kernel(bzimage(pref_address=0xFFFFFFFFFFFFFFFF), "3 GiB")
        self.refused_kernel(bzimage(relocatable_kernel=1, kernel_alignment=0xFFFFFFFF), "3 GiB")
        self.refused_kernel(bzimage(code32_start=0xFFFFFFF0), "3 GiB")
        self.refused_kernel(bzimage(code32_start=0x90000, pref_address=0x90000), "firmware")
        self.refused_kernel(bzimage(), "--append", options=["--append", "x" * 256])
        self.refused_kernel(bzimage(), "--initrd", options=["--module", self.good()])

    def test_initrd_and_modules(self):
        linux = self.file("linux", bzimage())
        big = self.folder / "big"
        with open(big, "wb") as file:
            file.truncate(17 << 20)
        small = ["--memory", "16M"]
        self.refused(["--kernel", linux, "--initrd", str(big), *small], "big", "--memory")
        self.refused(["--kernel", linux, "--initrd", str(self.folder / "absent"), *small], "absent", "No such file")
        self.refused(["--kernel", linux, "--initrd", self.file("nothing", b""), *small], "nothing", "empty")
        os.truncate(big, (16 << 20) - 4096)
        self.refused(["--kernel", linux, "--initrd", str(big), *small], "big", "--memory")
        low = self.file("low", bzimage(initrd_addr_max=0x1FFFFF))
        os.truncate(big, 2 << 20)
        self.refused(["--kernel", low, "--initrd", str(big), *small], "big", "do not fit")
        self.refused(["--kernel", self.good(), "--module", f"{big} argument", "--memory", "2M"], "big", "--memory")
        self.refused(["--kernel", self.good(), "--module", "absent argument"], "'absent'", "No such file")

    def test_memory(self):
        for size in ["0", "1M", "3073M", "4G", "1K", "2049K"]:
            self.refused(["--kernel", self.good(), "--memory", size], "--memory")
        for size in ["", "M", "12Q", "-5M", "1.5G", "99999999999999999999", "99999999999G"]:
            self.refused(["--kernel", self.good(), f"--memory={size}"], "--memory")

    def test_other_options(self):
        kernel = ["--kernel", self.good()]
        self.refused([*kernel, "--trace", "io,nonsense"], "nonsense", "irq")
        self.refused([*kernel, "--trace", "io", "--trace-file", "/nonexistent/t"], "/nonexistent/t", "cannot write")
        self.refused([*kernel, "--trace-file", "t"], "--trace-file", "--trace")
        self.refused([*kernel, "--dump-cache", "/nonexistent/d"], "/nonexistent/d", "cannot write")
        self.refused([*kernel, "--timeout", "soon"], "--timeout", "60s")
        self.refused([*kernel, "--timeout", "0"], "--timeout")
        self.refused([*kernel, "--debug-exit", "70000"], "--debug-exit")
        self.refused([*kernel, "--debug-exit", "0x3f8"], "--debug-exit", "another device")
        self.refused([*kernel, "--engine", "kvm"], "kvm", "interp")
        self.refused([*kernel, "--check", "everything"], "everything", "lockstep")
        self.refused([*kernel, "--cache-size", "1K"], "--cache-size")
        for size in ("5G", "much"):
            self.refused([*kernel, "--contexts-size", size], "--contexts-size")
        self.refused([*kernel, "--max-block", "0"], "--max-block")
        for ticks in ("-1", "many", "3x", "1000001"):
            self.refused([*kernel, "--windows-after", ticks], "--windows-after", "1000000")
        self.refused([*kernel, "--engine", "interp", "--windows-after", "0"], "--windows-after")
        self.refused([*kernel, "--engine", "interp", "--no-chain"], "--no-chain")
        self.refused([*kernel, "--engine", "interp", "--interpret", "alu"], "--interpret")
        for families in ["simd", "alu,simd", "simd,alu", "simd\n"]:
            self.refused([*kernel, "--interpret", families], "simd", "no such", "sse")
        for families in [",", "alu,", "alu,,mov", "ALU", "alu mov"]:
            self.refused([*kernel, "--interpret", families], "--interpret", "sse")
        self.refused([*kernel, "--engine", "interp", "--opt", "no-sensitive"], "--opt")
        for names in ("sensitive", "no-speed", "no-sensitive,", ",no-sensitive", "no-"):
            self.refused([*kernel, "--opt", names], "--opt", "no-sensitive")
        self.refused([*kernel, "--nonsense"], "--nonsense", "--help")
        self.refused([*kernel, "stray"], "stray", "--help")
        self.refused([], "--kernel", "--help")

    @unittest.skipIf(support.TRANSLATES, "this build translates")
    def test_engine_that_this_build_cannot_run(self):
        for options in [["--engine", "bt"], ["--check", "lockstep"], ["--no-chain"]]:
            self.refused(["--kernel", self.good(), *options], "--engine bt", "AddressSanitizer", "use --engine interp")

    def test_no_command(self):
        done = self.ring3()
        self.assertEqual((done.returncode, done.stderr.count(b"\n")), (2, 1))
