"""A terminal on stdin and stdout: raw while the guest runs, as it was afterwards, whatever happened."""

import os
import pty
import select
import signal
import subprocess
import termios
import time

import support
from support import DEBUG_EXIT, ECHO, EXIT_33, FOREVER, HALT, RING3, multiboot, out, say


class Terminal(support.Case):
    def setUp(self):
        super().setUp()
        self.master, self.slave = pty.openpty()
        self.addCleanup(os.close, self.master)
        self.addCleanup(os.close, self.slave)
        self.before = termios.tcgetattr(self.slave)

    def start(self, code, *options):
        kernel = self.file("kernel", multiboot(code))
        # Where this is a build with sanitizers, signals are ring3's business all the same.
        signals = ":".join([os.environ.get("ASAN_OPTIONS", ""), "handle_segv=0", "handle_sigbus=0", "handle_sigfpe=0"])
        run = subprocess.Popen([RING3, "run", "--kernel", kernel, "--memory", "4M", *DEBUG_EXIT, *options], stdin=self.slave, stdout=self.slave,
                               stderr=subprocess.PIPE, env=dict(os.environ, ASAN_OPTIONS=signals.strip(":")))
        self.addCleanup(run.stderr.close)
        self.addCleanup(run.kill)
        return run

    def expect(self, text):
        seen = b""
        deadline = time.monotonic() + support.PATIENCE
        while text not in seen:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            self.assertTrue(ready, f"{text} did not come, only {seen}")
            seen += os.read(self.master, 1000)
        return seen

    def local_flags(self):
        return termios.tcgetattr(self.slave)[3]

    def restored(self):
        """Settings come back; a guardian process may need a moment for it."""
        deadline = time.monotonic() + support.PATIENCE
        while termios.tcgetattr(self.slave) != self.before and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(termios.tcgetattr(self.slave), self.before)

    def test_raw_while_running_and_restored_at_the_end(self):
        run = self.start(say(b"up") + ECHO)
        self.expect(b"up")
        self.assertEqual(self.local_flags() & (termios.ICANON | termios.ECHO | termios.ISIG), 0)
        os.write(self.master, b"\x03abc")  # Ctrl-C is the guest's
        self.expect(b"\x03abc")
        os.write(self.master, b"q")
        self.assertEqual(run.wait(support.PATIENCE), 33)
        self.assertEqual(termios.tcgetattr(self.slave), self.before)

    def test_escape_key(self):
        run = self.start(say(b"up") + ECHO)
        self.expect(b"up")
        os.write(self.master, b"\x01h")
        self.expect(b"quit ring3")
        os.write(self.master, b"\x01\x01")
        self.expect(b"\x01")
        os.write(self.master, b"\x01x")
        self.assertEqual(run.wait(support.PATIENCE), 14)
        self.assertEqual(termios.tcgetattr(self.slave), self.before)

    def test_quit_key_reaches_a_guest_that_reads_nothing(self):
        run = self.start(say(b"up") + FOREVER)
        self.expect(b"up")
        os.write(self.master, b"x" * 2000 + b"\x01x")
        self.assertEqual(run.wait(support.PATIENCE), 14)

    def test_restored_after_signals(self):
        for number in [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV,
                       signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS]:
            with self.subTest(signal=number):
                run = self.start(say(b"up") + FOREVER)
                self.expect(b"up")
                self.assertNotEqual(termios.tcgetattr(self.slave), self.before)
                run.send_signal(number)
                self.assertEqual(run.wait(support.PATIENCE), -number)
                self.restored()

    def test_restored_after_every_ending(self):
        endings = {
            6: b"\x0f\x0b",  # ud2 without an IDT: triple fault
            8: b"\xfa" + HALT,  # halted for good
            10: b"\x0f\x20\xc0\x24\xfe\x0f\x22\xc0" + FOREVER,  # mov eax, cr0; and al, 0feh; mov cr0, eax: real mode is missing
            124: FOREVER,
            4: out(0x64, 0xFE) + FOREVER,  # reset
        }
        for status, code in endings.items():
            with self.subTest(status=status):
                run = self.start(say(b"up") + code, "--no-reboot", "--timeout", "2s")
                self.expect(b"up")
                self.assertEqual(run.wait(support.PATIENCE), status)
                self.restored()

    def test_stop_and_continue(self):
        run = self.start(say(b"up") + ECHO)
        self.expect(b"up")
        run.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, run.pid, os.WSTOPPED)
        self.assertEqual(termios.tcgetattr(self.slave), self.before)
        run.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + support.PATIENCE
        while self.local_flags() & termios.ICANON and time.monotonic() < deadline:
            time.sleep(0.01)
        os.write(self.master, b"q")
        self.assertEqual(run.wait(support.PATIENCE), 33)
        self.assertEqual(termios.tcgetattr(self.slave), self.before)

    def test_bad_input_leaves_the_terminal_alone(self):
        run = subprocess.Popen([RING3, "run", "--kernel", "/nonexistent"], stdin=self.slave, stdout=self.slave, stderr=subprocess.PIPE)
        run.communicate(timeout=support.PATIENCE)
        self.assertEqual(run.returncode, 2)
        self.assertEqual(termios.tcgetattr(self.slave), self.before)
