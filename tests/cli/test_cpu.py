"""--cpu: the models, the list of them, and what a guest finds."""

import unittest

import support
from support import multiboot

# CPUID(1), then EAX to port F4h in three parts: family and model; isa-debug-exit gives (v << 1) | 1.
SIGNATURE = bytes.fromhex("b801000000" "0fa2" "c1e804" "e6f4")
MODELS = {"486": 0x43, "pentium": 0x52, "pentium2": 0x65, "pentium3": 0x68}


class Cpu(support.Case):
    def status(self, *options):
        kernel = self.file("kernel", multiboot(SIGNATURE))
        return self.ring3("run", "--kernel", kernel, "--debug-exit", "0xf4", "--timeout", "20s", *options).returncode

    def test_models(self):
        for name, family_model in MODELS.items():
            self.assertEqual(self.status("--cpu", name), (family_model << 1 | 1) & 0xFF, name)

    def test_default_is_core(self):
        core = self.status("--cpu", "core")
        self.assertEqual(core, (0x6F << 1 | 1) & 0xFF)
        self.assertEqual(self.status(), core)

    def test_last_one_counts(self):
        self.assertEqual(self.status("--cpu", "486", "--cpu", "pentium"), (0x52 << 1 | 1) & 0xFF)

    def test_list(self):
        for arguments in (["--cpu", "list"], ["--cpu=list", "--kernel", "/nonexistent"]):
            done = self.ring3("run", *arguments)
            self.assertEqual(done.returncode, 0)
            self.assertEqual(done.stderr, b"")
            lines = done.stdout.decode().splitlines()
            self.assertTrue(lines[0].startswith("name"))
            self.assertTrue(all(len(line) <= 100 for line in lines), lines)
            models = {line.split()[0]: line for line in lines[1:] if not line.startswith(" ")}
            self.assertEqual(list(models), [*MODELS, "core"])
            self.assertIn("4/3/5", models["486"])
            # Flags, with the lines that go on.
            flags, name = {}, None
            for line in lines[1:]:
                if not line.startswith(" "):
                    name = line.split()[0]
                flags[name] = flags.get(name, []) + (line[57:] if name in flags else line.split("/")[2][1:]).split()
            flags = {name: [flag for flag in found if not flag.isdigit()] for name, found in flags.items()}
            pentium = ["fpu", "de", "pse", "tsc", "msr", "cx8"]
            p6 = ["fpu", "de", "pse", "tsc", "msr", "pae", "cx8", "sep", "pge", "cmov", "pat"]
            self.assertEqual(flags["486"], ["fpu"])
            self.assertEqual(flags["pentium"], pentium)
            self.assertEqual(flags["pentium2"], [*p6, "pse36", "mmx", "fxsr"])
            self.assertEqual(flags["pentium3"], [*p6, "pse36", "mmx", "fxsr", "sse"])
            self.assertEqual(flags["core"][:len(p6)], p6)
            self.assertIn("nx", flags["core"])
            self.assertEqual(flags["core"][-2:], ["ibrs", "arch_capabilities"])

    def test_unknown(self):
        for name in ("586", "", "LIST"):
            done = self.ring3("run", "--kernel", "x", "--cpu", name)
            self.assertEqual(done.returncode, 2, name)
            self.assertEqual(done.stdout, b"")
            self.assertIn("486, pentium, pentium2, pentium3, core", done.stderr.decode())


if __name__ == "__main__":
    unittest.main()
