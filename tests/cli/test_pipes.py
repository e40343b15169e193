"""stdin and stdout that are closed, piped, full or files."""

import fcntl
import os
import subprocess

import support
from support import DEBUG_EXIT, ECHO, EXIT_33, FOREVER, RING3, multiboot, say

# Writes 300,000 bytes to COM1: more than the pipe and ring3's queue hold together. Then exits.
FLOOD = (
    b"\xb9\xe0\x93\x04\x00"  # mov ecx, 300000
    b"\x66\xba\xfd\x03\xec\xa8\x20\x74\xf7"  # 1: wait for THRE
    b"\x66\xba\xf8\x03\xb0\x2e\xee"  # mov dx, 3f8h; mov al, '.'; out dx, al
    b"\x49\x75\xed"  # dec ecx; jnz 1b
) + EXIT_33


class Pipes(support.Case):
    def start(self, code, *options, **keywords):
        kernel = self.file("kernel", multiboot(code))
        return subprocess.Popen([RING3, "run", "--kernel", kernel, "--memory", "4M", *DEBUG_EXIT, *options], **keywords)

    def test_echo_through_pipes_loses_nothing(self):
        data = bytes(range(1, 113)) * 40 + b"q"
        run = self.start(ECHO, "--timeout", "50s", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        output, _ = run.communicate(data, timeout=support.PATIENCE)
        self.assertEqual((output, run.returncode), (data, 33))

    def test_echo_of_a_file_into_a_file(self):
        data = b"some text\n" * 50 + b"q"
        with open(self.file("in", data), "rb") as source, open(self.folder / "out", "wb") as sink:
            run = self.start(ECHO, "--timeout", "50s", stdin=source, stdout=sink)
            self.assertEqual(run.wait(support.PATIENCE), 33)
        self.assertEqual((self.folder / "out").read_bytes(), data)

    def test_closed_standard_files(self):
        kernel = self.file("kernel", multiboot(say(b"x") + EXIT_33))
        for closed in ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"]:
            done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", RING3, "run", "--kernel", kernel, "--memory", "4M", *DEBUG_EXIT],
                                  timeout=support.PATIENCE, capture_output=True)
            self.assertEqual(done.returncode, 33, closed)
            self.assertEqual(done.stdout, b"" if ">" in closed.replace("2>&-", "") else b"x")

    def test_reader_that_stops_reading_loses_nothing_when_it_goes_on(self):
        run = self.start(FLOOD, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(run.stdout.close)
        with self.assertRaises(subprocess.TimeoutExpired):
            run.wait(1)  # the guest waits for its UART, ring3 for its reader
        self.assertEqual(len(run.stdout.read()), 300000)
        self.assertEqual(run.wait(support.PATIENCE), 33)

    def test_reader_that_never_reads_does_not_hold_the_end(self):
        run = self.start(FLOOD, "--timeout", "1s", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(run.wait(support.PATIENCE), 124)
        self.assertIn(b"nobody reads stdout", run.stderr.read())
        run.stdout.close()
        run.stderr.close()

    def test_reader_that_goes_away(self):
        run = self.start(FLOOD, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        run.stdout.read(10)
        run.stdout.close()
        self.assertEqual(run.wait(support.PATIENCE), 33)

    def test_flags_of_inherited_files_are_left_alone(self):
        read_end, write_end = os.pipe()
        in_read, in_write = os.pipe()
        run = self.start(say(b"x") + FOREVER, stdin=in_read, stdout=write_end)
        self.assertEqual(os.read(read_end, 1), b"x")
        for fd in (write_end, in_read):
            self.assertEqual(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK, 0)
        run.kill()
        run.wait()
        for fd in (read_end, write_end, in_read, in_write):
            os.close(fd)
