"""scripts/dialog: what it takes for an answer, and that it fails when the guest does."""

import pathlib
import subprocess
import tempfile
import unittest

DIALOG = pathlib.Path(__file__).resolve().parents[2] / "scripts/dialog"


class Dialog(unittest.TestCase):
    def run_dialog(self, steps, shell, *options):
        with tempfile.NamedTemporaryFile("w", suffix=".dialog") as script:
            script.write(steps)
            script.flush()
            return subprocess.run([DIALOG, "--limit", "20", *options, script.name, "sh", "-c", shell], capture_output=True, text=True)

    def accepts(self, steps, shell, *options):
        result = self.run_dialog(steps, shell, *options)
        self.assertEqual(result.returncode, 0, result.stderr)

    def refuses(self, steps, shell, why, *options):
        result = self.run_dialog(steps, shell, *options)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn(why, result.stderr)

    def test_talks(self):
        self.accepts("# greeting\n\nexpect name\\?\nsend ring3\\r\\n\nexpect hello ring3.?\nstatus 7\n",
                     "printf 'name? '; read -r name; printf 'hello %s' \"$name\"; exit 7")

    def test_sends_control_characters(self):
        self.accepts("send \\t\\e\\x41\\n\nexpect 09 1b 41 0a\n", "head -c 4 | od -An -tx1; exec sleep 60")

    def test_matches_text_without_control_sequences(self):
        self.accepts("expect Select a language\n", r"printf '\033[31mSel\033(0\033[1;24rect\007 a \033[0mlang\033=uage'; exec sleep 60")

    def test_joins_what_comes_in_pieces(self):
        self.accepts("expect ready\n", r"printf 're\033'; sleep 0.2; printf '['; sleep 0.2; printf '1;1Hady'; exec sleep 60")

    def test_matches_only_behind_the_last_match(self):
        self.refuses("expect one\nexpect one\n", "echo one two", "at step 'expect one'")

    def test_fails_when_the_command_ends_early(self):
        self.refuses("expect shell\n", "echo panic; exit 6", "the command ended before, with status 6")

    def test_fails_at_another_status(self):
        self.refuses("expect bye\nstatus 0\n", "echo bye; exit 3", "it was 3")

    def test_takes_any_status_if_told(self):
        self.accepts("expect bye\nstatus 0\n", "echo bye; exit 3", "--any-status")

    def test_fails_at_the_limit(self):
        self.refuses("expect never\n", "echo waiting; exec sleep 60", "not within 1.0 s", "--limit", "1")

    def test_ends_the_command_after_the_last_step(self):
        self.accepts("expect up\n", "echo up; exec sleep 3600")

    def test_names_a_wrong_line(self):
        result = self.run_dialog("wait for it\n", "true")
        self.assertEqual(result.returncode, 1)
        self.assertIn("neither expect, send nor status", result.stderr)


if __name__ == "__main__":
    unittest.main()
