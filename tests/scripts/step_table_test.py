#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What scripts/kernel-table --steps counts, from a stored listing of a loop with two loops in it,
and whether its tables name what the sources have. Needs neither nvcc nor nvdisasm."""
import importlib.machinery
import importlib.util
import pathlib
import sys
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts"))

import sass_count
import step_table

KERNEL = "_Z18nested_loop_kernelPfPKfi"
ROUNDS = [("add_pieces", "i < 720", 256, step_table.strided(720)),
          ("nested_loop_kernel", "i < 8", 1, step_table.always(8))]
CONDITIONS = [("nested_loop_kernel", "thread < 128", step_table.share_of_warps(128))]
PHASES = {"add_pieces": "new cells", "nested_loop_kernel": "other"}
EXAMPLE = step_table.EXAMPLES[0][1]["forward"]
# Instructions of the listing, from .L_x_6 to the branch back to it: outside of loops; the atomic
# sum, of every other warp; the copy of pieces, three rounds, but two of the last warp; and the loop
# of eight, two at once.
STEP = 6 + 6 + 5 + 3 + 2 + 2 / 2 + 15 * 23 / 8 + 13 * 8 / 2


def step_of(change=("", ""), rounds=ROUNDS, conditions=CONDITIONS, phases=PHASES):
    text = (HERE / "nested_loop.sass").read_text()
    if change[0] not in text:
        raise ValueError(f"the listing has no {change[0]}")
    text = text.replace(*change).replace('"nested_loop.cu"', f'"{HERE / "nested_loop.cu"}"')
    graph = sass_count.Graph(sass_count.parse_listing(text.splitlines())[KERNEL])
    loop = max(graph.loops.values(), key=lambda loop: len(loop.blocks))
    with mock.patch.multiple(step_table, ROUNDS=rounds, CONDITIONS=conditions, PHASE_OF=phases):
        step = step_table.Step(graph, step_table.Sources(ROOT), "forward", loop)
        return step, step.counts()[0]


class Counting(unittest.TestCase):
    def test_the_loops_and_how_they_lie_in_each_other(self):
        step, _ = step_of()
        self.assertEqual(len(step.graph.loops), 3)
        self.assertEqual(len(step.region.loops), 2)

    def test_a_step_is_its_blocks_times_their_rounds(self):
        step, counts = step_of()
        self.assertAlmostEqual(sum(counts.values()), STEP)
        self.assertEqual(step.unknown, set())

    def test_by_phase_and_kind(self):
        _, counts = step_of()
        # The loop of pieces, what prepares it, and the branch past it.
        pieces = sum(n for (phase, _), n in counts.items() if phase == "new cells")
        self.assertAlmostEqual(pieces, 1 + 5 + 15 * 23 / 8 + 1 + 1)
        kinds = {kind: sum(n for key, n in counts.items() if key[1] == kind)
                 for kind in step_table.KINDS}
        self.assertAlmostEqual(kinds["global"], 1 / 2 + 2 * 23 / 8 + 4 * 4)
        self.assertAlmostEqual(kinds["wait"], 2)
        self.assertAlmostEqual(kinds["branch"], 6 + 23 / 8 + 4 + 1)

    def test_a_counter_with_another_step_makes_other_rounds(self):
        _, counts = step_of(("VIADD R9, R9, 0x2", "VIADD R9, R9, 0x1"))
        self.assertAlmostEqual(sum(counts.values()), STEP + 13 * 4)

    def test_a_loop_that_does_not_go_back_is_counted_once(self):
        _, counts = step_of(("@!P3 BRA `(.L_x_4)", "@!P3 BRA `(.L_x_3)"))
        self.assertAlmostEqual(sum(counts.values()), STEP - 15 * 15 / 8)

    def test_what_the_tables_lack_is_named_and_counted_once(self):
        step, counts = step_of(rounds=ROUNDS[:1], conditions=[],
                               phases={"nested_loop_kernel": "other"})
        self.assertAlmostEqual(sum(counts.values()), STEP + 1 - 13 * 3)
        loop, phase = sorted(step.unknown)
        self.assertRegex(loop, "^the loop `.*i < 8.*` of `nested_loop_kernel`, counted once$")
        self.assertEqual(phase, "the phase of `add_pieces`")

    def test_a_jump_to_nobody_knows_where_is_refused(self):
        with self.assertRaisesRegex(ValueError, "BRX"):
            step_of(("BSYNC B0", "BRX R2 -0x10"))


class Tables(unittest.TestCase):
    def setUp(self):
        self.functions = {}
        for path in [*ROOT.glob("cuda/*.cu"), *ROOT.glob("cuda/*.cuh"), *ROOT.glob("cuda/*.hpp")]:
            lines = path.read_text().splitlines()
            for first, last, name in step_table.find_functions(lines):
                self.functions.setdefault(name, []).extend(lines[first - 1:last])

    def test_functions_of_the_tables_are_there(self):
        named = {*step_table.PHASE_OF, *step_table.HELPERS, *step_table.KERNELS}
        for directions in step_table.KERNELS.values():
            named |= set(directions) - {None}
        self.assertEqual(named - set(self.functions), set())

    def test_lines_of_the_tables_are_there(self):
        everywhere = [line for lines in self.functions.values() for line in lines]
        for rule in [*step_table.ROUNDS, *step_table.CONDITIONS, *step_table.BLOCKS]:
            function, _, caller = (rule[0] or "").partition(" < ")
            for name in filter(None, [function, caller]):
                self.assertTrue(name in self.functions, rule)
            lines = self.functions[function] if function else everywhere
            self.assertTrue(rule[1] is None or any(rule[1] in line for line in lines), rule)

    def test_a_function_has_one_phase(self):
        names = " ".join(step_table.FUNCTIONS.values()).split()
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(set(names) & step_table.HELPERS, set())


class Script(unittest.TestCase):
    def test_a_missing_nvdisasm_is_said_in_one_line(self):
        loader = importlib.machinery.SourceFileLoader("kernel_table",
                                                      str(ROOT / "scripts" / "kernel-table"))
        script = importlib.util.module_from_spec(
            importlib.util.spec_from_loader("kernel_table", loader))
        loader.exec_module(script)
        with mock.patch("shutil.which", return_value=None), self.assertRaises(SystemExit) as end:
            script.find_nvdisasm()
        self.assertRegex(str(end.exception),
                         r"^kernel-table: nvdisasm is missing from PATH and .*; it comes with ")
        self.assertNotIn("\n", str(end.exception))


if __name__ == "__main__":
    unittest.main()
