"""Exit statuses and what stands on stderr."""

import resource
import signal
import subprocess
import unittest

import support
from support import DEBUG_EXIT, EXIT_33, FOREVER, HALT, RING3, elf, multiboot, out, say

TRIPLE_FAULT = b"\x0f\x0b"  # ud2 without an IDT


class Endings(support.Case):
    def ends(self, kernel, *options):
        return self.ring3("run", "--kernel", self.file("kernel", kernel), "--memory", "4M", *options)

    def test_debug_exit(self):
        for value in [0, 1, 0x10, 0x7F]:
            done = self.ends(multiboot(out(0x501, value) + FOREVER), *DEBUG_EXIT)
            self.assertEqual((done.returncode, done.stderr), (value << 1 | 1, b""))

    def test_elf_kernel_and_serial_output(self):
        done = self.ends(elf(say(b"hello\r\n") + EXIT_33), *DEBUG_EXIT)
        self.assertEqual((done.returncode, done.stdout), (33, b"hello\r\n"))

    def test_multiboot_magic_and_information(self):
        code = b"\x3d\x02\xb0\xad\x2b\x75\x1a"  # cmp eax, 2badb002h; jne fail
        code += b"\x8b\x43\x40\x81\x38ring\x75\x0f"  # mov eax, [ebx + 64]; cmp dword [eax], "ring"; jne fail
        code += b"\x80\x78\x04\x33\x75\x09"  # cmp byte [eax + 4], '3'; jne fail
        done = self.ends(multiboot(code + EXIT_33 + FOREVER), *DEBUG_EXIT, "--timeout", "20s")
        self.assertEqual(done.returncode, 33, done.stderr.decode())

    def test_power_off(self):
        # SLP_EN and SLP_TYP 5 in PM1a_CNT: mov dx, 604h; mov ax, 3400h; out dx, ax
        done = self.ends(multiboot(b"\x66\xba\x04\x06\x66\xb8\x00\x34\x66\xef" + FOREVER), "--timeout", "20s")
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_reset(self):
        for reset in [out(0x64, 0xFE), out(0xCF9, 0x06), out(0x92, 0x03)]:
            done = self.ends(multiboot(reset + FOREVER), "--no-reboot", "--timeout", "20s")
            self.assertEqual(done.returncode, 4, done.stderr.decode())

    def test_reset_starts_again_with_fresh_memory(self):
        # The byte at 200000h is 0 at power-on; the first life sets it and then resets. A second life that saw it set would say so.
        code = b"\x80\x3d\x00\x00\x20\x00\x00\x75\x16"  # cmp byte [200000h], 0; jne +22
        first = b"\xfe\x05\x00\x00\x20\x00" + say(b"a")  # inc byte [200000h]
        self.assertEqual(len(first), 22)
        kernel = self.file("kernel", multiboot(code + first + out(0x64, 0xFE) + FOREVER))
        run = subprocess.Popen([RING3, "run", "--kernel", kernel, "--memory", "4M", "--timeout", "50s"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(run.stdout.read(3), b"aaa")
        run.terminate()
        self.assertIn(b"starting the guest again", run.communicate(timeout=support.PATIENCE)[1])

    def test_triple_fault_shows_the_state(self):
        done = self.ends(multiboot(b"\xb8\x44\x33\x22\x11" + TRIPLE_FAULT), "--no-reboot")  # mov eax, 11223344h
        errors = done.stderr.decode()
        self.assertEqual(done.returncode, 6, errors)
        for part in ["triple fault", "EAX 11223344", "EIP 00100025", "CR0", "0f 0b", "ud2", "#UD"]:
            self.assertIn(part, errors)

    def test_halted_for_good(self):
        done = self.ends(multiboot(b"\xfa" + HALT))
        self.assertEqual(done.returncode, 8)
        self.assertIn(b"interrupts off", done.stderr)

    def test_timeout(self):
        # Both while running and while halted with interrupts on.
        for code in [FOREVER, b"\xfb\xf4\xeb\xfd"]:
            done = self.ends(multiboot(code), "--timeout", "500ms")
            self.assertEqual(done.returncode, 124, done.stderr.decode())
            self.assertIn(b"ring3: timeout\nguest state: protected mode", done.stderr)

    def test_idle_guest_costs_no_processor_time(self):
        # sti; hlt; jmp: asleep for the whole run. A guest that spins would use all of it.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.ends(multiboot(b"\xfb\xf4\xeb\xfd"), "--timeout", "3s")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.assertLess(used, 1.0)

    def test_help_and_version(self):
        done = self.ring3("run", "--help")
        self.assertEqual(done.returncode, 0)
        for part in [b"124", b"triple fault", b"Ctrl-A x", b"--kernel"]:
            self.assertIn(part, done.stdout)
        done = self.ring3("--version")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, rb"^ring3 \d")

    def test_signals(self):
        for number in [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]:
            run = subprocess.Popen([RING3, "run", "--kernel", self.file("kernel", multiboot(say(b"up") + FOREVER)), "--memory", "4M"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGHUP)])
            self.assertEqual(run.stdout.read(2), b"up")
            run.send_signal(number)
            run.communicate(timeout=support.PATIENCE)
            self.assertEqual(run.returncode, -number)

    @unittest.skipUnless(support.TRANSLATES, "this build does not translate")
    def test_statistics_and_dump(self):
        listing = self.folder / "listing"
        done = self.ends(multiboot(say(b"x") + EXIT_33), *DEBUG_EXIT, "--stats", "--dump-cache", str(listing))
        self.assertEqual(done.returncode, 33)
        for part in [b"guest instructions", b"blocks", b"expansion", b"time"]:
            self.assertIn(part, done.stderr)
        text = listing.read_text()
        for part in ["block 00100020", "mov dx, 0x3FD", "code32", "executed", "[exit_argument]"]:
            self.assertIn(part, text)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["kernel", "listing"])

    @unittest.skipUnless(support.TRANSLATES, "this build does not translate")
    def test_families_to_interpret(self):
        # `say` makes of each family: mov (MOV DX and MOV AL), alu (TEST), control (JZ), io (IN and OUT, never emitted).
        def interpreted(*options):
            listing = self.folder / "listing"
            done = self.ends(multiboot(say(b"x") + EXIT_33), *DEBUG_EXIT, "--dump-cache", str(listing), *options)
            self.assertEqual((done.returncode, done.stdout), (33, b"x"))
            lines = listing.read_text().splitlines()
            return {word for word in ["mov dx", "test al", "jz", "in al"] for line in lines if word in line and "[interpreted]" in line}

        self.assertEqual(interpreted(), {"in al"})
        self.assertEqual(interpreted("--interpret", "alu"), {"in al", "test al"})
        self.assertEqual(interpreted("--interpret", "control,mov"), {"in al", "jz", "mov dx"})
        self.assertEqual(interpreted("--interpret", "alu", "--interpret", "sse,x87"), {"in al"})
        self.assertEqual(interpreted("--interpret", "alu,control,mov", "--check", "lockstep"), {"in al", "test al", "jz", "mov dx"})

    @unittest.skipUnless(support.TRANSLATES, "this build does not translate")
    def test_dump_replaces_a_file_only_when_it_is_complete(self):
        listing = self.folder / "listing"
        listing.write_text("old")
        link = self.folder / "link"
        link.symlink_to(listing)
        self.assertEqual(self.ends(multiboot(b"\xfa" + HALT)[:20], "--dump-cache", str(link)).returncode, 2)
        self.assertEqual(listing.read_text(), "old")
        self.ends(multiboot(b"\xfa" + HALT), "--dump-cache", str(link))
        self.assertTrue(link.is_symlink())
        self.assertIn("block 00100020", listing.read_text())
        done = self.ends(multiboot(b"\xfa" + HALT), "--dump-cache", "/dev/stdout")
        self.assertIn(b"block 00100020", done.stdout)

    @unittest.skipUnless(support.TRANSLATES, "this build does not translate")
    def test_dump_on_a_full_disk(self):
        done = self.ends(multiboot(EXIT_33), *DEBUG_EXIT, "--dump-cache", "/dev/full")
        self.assertEqual((done.returncode, done.stderr), (33, b"ring3: --dump-cache: No space left on device; there is no listing\n"))

    def test_trace(self):
        trace = self.folder / "trace"
        self.ends(multiboot(out(0x80, 0x5A) + EXIT_33), *DEBUG_EXIT, "--trace", "io", "--trace-file", str(trace))
        self.assertIn("write 0x0080 size 1 = 0x5a", trace.read_text())

    @unittest.skipUnless(support.TRANSLATES, "this build does not translate")
    def test_trace_of_the_translator(self):
        # mov byte [100029h], 90h writes over the nop that follows it; then ud2 without an IDT.
        trace = self.folder / "trace"
        code = b"\x90\x90\xc6\x05\x29\x00\x10\x00\x90\x90" + TRIPLE_FAULT
        done = self.ends(multiboot(code), "--no-reboot", "--trace", "blocks,exits,faults,invalidate", "--trace-file", str(trace))
        self.assertEqual(done.returncode, 6, done.stderr.decode())
        for line in ["blocks: 00100020 physical 00100020 mode 0x", "5 instructions, 12 bytes to ", "exits: host fault 11 at 00100022: ",
                     "invalidate: write to physical 00100029 size 1: 1 blocks", "exits: interpret 0010002a",
                     "faults: vector 6 at 0010:0010002a\n"]:
            self.assertIn(line, trace.read_text())
