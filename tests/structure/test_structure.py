"""Includes point one way along the folders of src/; files stay small.

The tables below are the rule. A new arrow is a decision about the architecture: change the table and say why.
"""

import graphlib
import pathlib
import re
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MOST_LINES = 600

# Folder of src/: the folders that its files may include, besides itself. An entry with a slash allows that file alone.
ARROWS = {
    "base": [],
    "guest": ["base"],
    "frontend": ["base", "guest"],
    "translator": ["base", "guest", "frontend"],
    "codecache": ["base", "guest", "frontend", "translator"],
    "devices": ["base", "guest"],
    # Of the devices the CPU knows the bus and its clock, never one by name.
    "runtime": ["base", "guest", "frontend", "translator", "codecache", "devices/bus.h", "devices/clock.h"],
    "inspect": ["base", "guest", "frontend", "translator", "codecache", "devices", "runtime"],
    "machine": ["base", "guest", "frontend", "translator", "codecache", "devices", "runtime", "inspect"],
    "cli": ["base", "guest", "frontend", "translator", "codecache", "devices", "runtime", "inspect", "machine"],
}

# Library header: the folders that may use it directly. fmt and the standard library are for everybody.
LIBRARIES = {
    "asmjit": ["translator"],
    "Zydis": ["frontend", "inspect"],
    "CLI": ["cli"],
}

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)
SOURCE = {".h", ".cpp", ".c", ".S", ".py"}


def sources(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in SOURCE and path.is_file())


def may_include(folder, included):
    target = included.split("/")[0]
    return target == folder or target in ARROWS[folder] or included in ARROWS[folder]


def wrong_includes(src):
    """One line for every include under `src` that the tables do not allow."""
    wrong = []
    for path in sources(src):
        folder = path.relative_to(src).parts[0]
        where = f"src/{path.relative_to(src)}"
        if folder not in ARROWS:
            wrong.append(f"{where}: no arrows are defined for this folder")
            continue
        for own, library in INCLUDE.findall(path.read_text()):
            if own:
                if not (src / own).is_file():
                    wrong.append(f"{where}: {own} is not a path from src/")
                elif not may_include(folder, own):
                    wrong.append(f"{where}: {folder} must not include {own}")
            elif folder not in LIBRARIES.get(library.split("/")[0], [folder]):
                wrong.append(f"{where}: {folder} must not use <{library}>")
    return wrong


def long_files(folders):
    """One line for every source file in the folders that is longer than MOST_LINES."""
    wrong = []
    for path in (path for folder in folders for path in sources(folder)):
        lines = path.read_bytes().count(b"\n")
        if lines > MOST_LINES:
            wrong.append(f"{path}: {lines} lines, at most {MOST_LINES}")
    return wrong


class Structure(unittest.TestCase):
    def test_includes_point_one_way(self):
        self.assertEqual(wrong_includes(ROOT / "src"), [])

    def test_arrows_have_no_cycle(self):
        graph = {folder: [target.split("/")[0] for target in targets] for folder, targets in ARROWS.items()}
        graphlib.TopologicalSorter(graph).prepare()  # raises CycleError

    def test_folders_are_those_of_the_tables(self):
        self.assertEqual(sorted(path.name for path in (ROOT / "src").iterdir() if path.is_dir()), sorted(ARROWS))

    def test_files_are_small(self):
        self.assertEqual(long_files([ROOT / name for name in ["src", "tests", "bench", "scripts"]]), [])


class TheCheckItself(unittest.TestCase):
    """The check on a small tree of its own: it finds each kind of violation, and nothing else."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.src = pathlib.Path(folder.name) / "src"
        for name in ["base/a.h", "guest/g.h", "devices/bus.h", "devices/uart.h", "runtime/memory/m.h", "runtime/r.cpp", "machine/m.h"]:
            self.put(name, "")

    def put(self, name, text):
        path = self.src / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def test_allowed(self):
        self.put("runtime/r.cpp", '#include "runtime/memory/m.h"\n#include "devices/bus.h"\n#include "guest/g.h"\n#include <vector>\n')
        self.assertEqual(wrong_includes(self.src), [])

    def test_against_the_arrow(self):
        self.put("base/a.h", "// text\n  # include \"guest/g.h\"\n")
        self.assertEqual(wrong_includes(self.src), ["src/base/a.h: base must not include guest/g.h"])

    def test_device_by_name(self):
        self.put("runtime/memory/m.h", '#include "devices/uart.h"\n')
        self.assertEqual(wrong_includes(self.src), ["src/runtime/memory/m.h: runtime must not include devices/uart.h"])

    def test_relative_path(self):
        self.put("machine/m.h", '#include "../base/a.h"\n#include "other.h"\n')
        self.assertEqual(len(wrong_includes(self.src)), 2)

    def test_library(self):
        self.put("runtime/r.cpp", "#include <asmjit/x86.h>\n#include <fmt/format.h>\n")
        self.assertEqual(wrong_includes(self.src), ["src/runtime/r.cpp: runtime must not use <asmjit/x86.h>"])

    def test_unknown_folder(self):
        self.put("misc/x.h", "")
        self.assertEqual(wrong_includes(self.src), ["src/misc/x.h: no arrows are defined for this folder"])

    def test_long_file(self):
        self.put("base/a.h", "\n" * MOST_LINES)
        self.assertEqual(long_files([self.src]), [])
        self.put("base/a.h", "\n" * (MOST_LINES + 1))
        self.assertEqual(len(long_files([self.src])), 1)
