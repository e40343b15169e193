"""What the documents name exists: files, tests, options, links."""

import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

PATH = re.compile(r"(?<![\w/.-])((?:src|tests|scripts|bench|cmake|docs|\.ci)/[\w./-]*\w/?)")
GUEST_TEST = re.compile(r"(?<![\w/])guest\.([a-z]\w*)")
UNIT_TEST = re.compile(r"`([A-Z]\w+)\.([A-Z]\w+)`")
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]+)")
LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([\w-]*))?\)")
# The reader makes it.
NOT_IN_THE_TREE = {"tests/guests/NAME.c"}


def unit_tests():
    text = "\n".join(path.read_text() for path in sorted((ROOT / "tests/unit").rglob("*.cpp")))
    return set(re.findall(r"^TEST(?:_F|_P)?\((\w+), (\w+)\)", text, re.MULTILINE))


def headings(document):
    lines = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


class Docs(unittest.TestCase):
    def setUp(self):
        self.wrong = []

    def tearDown(self):
        self.assertEqual(self.wrong, [])

    def each(self, pattern):
        for document in DOCUMENTS:
            for match in pattern.finditer(re.sub(r"build/[\w./-]*", "", document.read_text())):
                yield document, match

    def test_paths(self):
        for document, match in self.each(PATH):
            path = match[1]
            if path not in NOT_IN_THE_TREE and not (ROOT / path).exists():
                self.wrong.append(f"{document.name}: no {path}")

    def test_guest_tests(self):
        for document, match in self.each(GUEST_TEST):
            if not (ROOT / f"tests/guests/{match[1]}.c").is_file():
                self.wrong.append(f"{document.name}: no {match[0]}")

    def test_unit_tests(self):
        known = unit_tests()
        for document, match in self.each(UNIT_TEST):
            if match.groups() not in known:
                self.wrong.append(f"{document.name}: no test {match[1]}.{match[2]}")

    def test_links(self):
        for document, match in self.each(LINK):
            target = document.parent / match[1] if match[1] else document
            if not target.is_file():
                self.wrong.append(f"{document.name}: link to {match[1]}")
            elif match[2] and match[2] not in headings(target):
                self.wrong.append(f"{document.name}: link to {match[1]}#{match[2]}")

    def test_options(self):
        programs = ["src/cli/options.cpp", "scripts/boot-debian", "scripts/boot-guest", "scripts/test",
                    "tests/hostcpu/main.cpp", "bench/compare", "tests/blessed/main.cpp", "scripts/mutate", "tests/streams/run_streams",
                    "tests/streams/stream_maker.cpp", "tests/hostile/run_hostile", "tests/stress/run_stress"]
        text = "\n".join((ROOT / program).read_text() for program in programs)
        others = {"--preset", "--test-dir", "--output-on-failure", "--gtest"}  # of cmake, ctest and Google Test
        for document, match in self.each(OPTION):
            if match[1] not in others and not re.search(re.escape(match[1]) + r"(?![\w-])", text):
                self.wrong.append(f"{document.name}: no option {match[1]}")

    def test_proofs_of_rows(self):
        """A guest test that stands for a row has the instruction in it."""
        written = {"call_far": "lcall", "jmp_far": "ljmp", "ret_far": "retf", "int_": "int", "int1": "icebp|0xF1", "iret": "iretw?d?", "ud0": "0xFF", "ud1": "0xB9"}
        for line in (ROOT / "tests/isa/proofs.txt").read_text().splitlines():
            rows, _, tests = line.partition(":")
            if not line or line.startswith("#"):
                continue
            for row in rows.split():
                word = written.get(row, row if row.startswith("mov_") or row.endswith("_sreg") else row.rstrip("_")).split("_")[0]
                for guest in re.findall(GUEST_TEST, tests):
                    source = (ROOT / f"tests/guests/{guest}.c").read_text()
                    if not re.search(rf"\b(?:{word})\b", source):
                        self.wrong.append(f"tests/isa/proofs.txt: guest.{guest} has no {word}")
