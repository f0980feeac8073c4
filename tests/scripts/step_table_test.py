#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What scripts/kernel-table --steps counts in a stored listing of a loop with two loops in it, and
whether its tables name what the sources have. Needs neither nvcc nor nvdisasm."""
import collections
import importlib.machinery
import importlib.util
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts"))

import band_table
import sass_count
import step_table
import stream_table

KERNEL = "_Z18nested_loop_kernelPfPKfi"
ROUNDS = [("add_pieces", "i < 720", 256, step_table.strided(720)),
          ("nested_loop_kernel", "i < 8", 1, step_table.always(8))]
CONDITIONS = [("nested_loop_kernel", "thread < 128", step_table.share_of_warps(128))]
PHASES = {"add_pieces": "new cells", "nested_loop_kernel": "other"}
# Instructions of the listing, from .L_x_6 to the branch back to it: those outside of loops; the
# atomic sum, in every other warp; the copy of pieces, three rounds, in the last warp two; and the
# loop of eight rounds, two at once.
STEP = 6 + 6 + 5 + 3 + 2 + 2 / 2 + 15 * 23 / 8 + 13 * 8 / 2


def tables_of(rounds, conditions, phases):
    return step_table.TABLES._replace(rounds=rounds, conditions=conditions, phase_of=phases)


def mean_counts(step):
    """The mean over the warps of the first example."""
    mean = collections.Counter()
    for of_warp in step.counts()[0]:
        for key, number in of_warp.items():
            mean[key] += number / step_table.WARPS
    return mean


def step_of(change=("", ""), rounds=ROUNDS, conditions=CONDITIONS, phases=PHASES,
            helpers=step_table.HELPERS):
    text = (HERE / "nested_loop.sass").read_text()
    if change[0] not in text:
        raise ValueError(f"the listing has no {change[0]}")
    text = text.replace(*change).replace('"nested_loop.cu"', f'"{HERE / "nested_loop.cu"}"')
    graph = sass_count.Graph(sass_count.parse_listing(text.splitlines())[KERNEL])
    loop = max(graph.loops.values(), key=lambda loop: len(loop.blocks))
    tables = tables_of(rounds, conditions, phases)._replace(helpers=helpers)
    step = step_table.Step(tables, graph, step_table.Sources(ROOT), "forward", loop)
    return step, mean_counts(step)


class Counting(unittest.TestCase):
    def test_loops_are_found_with_the_loops_inside_them(self):
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

    def test_a_loop_without_a_step_makes_a_round_at_a_time(self):
        _, counts = step_of(rounds=[ROUNDS[0], ("nested_loop_kernel", "i < 8", None,
                                                step_table.always(8))])
        self.assertAlmostEqual(sum(counts.values()), STEP + 13 * 4)

    def test_a_prefetch_is_no_wait(self):
        def kind(opcode):
            return step_table.kind_of(sass_count.Instruction(None, opcode, "[R2]", ()))
        self.assertEqual([kind("CCTL.E.PF1"), kind("CCTL.IVALL")], ["global", "wait"])

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

    def test_a_loop_that_ends_in_a_helper_is_its_callers(self):
        step, _ = step_of(rounds=ROUNDS[1:], phases={"nested_loop_kernel": "other"},
                          helpers={"add_pieces"})
        [loop] = step.unknown
        self.assertRegex(loop, "^the loop `add_pieces.*` of `nested_loop_kernel`, counted once$")

    def test_a_jump_to_an_unknown_place_is_refused(self):
        with self.assertRaisesRegex(ValueError, "BRX"):
            step_of(("BSYNC B0", "BRX R2 -0x10"))


SOURCE = """
template <int parts>
class Multiplier {
public:
    Multiplier(int first_, Row& row_)
        : first(first_),
          row{row_.of(first), 1} {}
    int next() const { return first + 1; }  // of the row

private:
    struct Pair {
        float low, high;
        float sum() const { return low + high; }
    };
    template <class Row>
    float multiply(const Row& of,
                   int columns) {  // a comment {
        for (int i = 0; i < columns; ++i) {
            if (i > first) {
                grow(of, i);
            } else {
                wait();
            }
        }
    }

    int first = 0;
};

__global__ void __launch_bounds__(256) multiply_kernel(int rows) {
    Multiplier<2>(rows).multiply();
}
"""
# A branch in line 19 whose two sides, lines 20 and 22, both have instructions. All are inlined at
# line 31.
SIDES = """
.text.multiply_kernel:
  //## File "{file}", line 19
  //## File "{file}", line 31
        /*0000*/              ISETP.GE.AND P0, PT, R0, R1, PT ;
        /*0010*/          @P0 BRA `(.L_x_1) ;
  //## File "{file}", line 20
  //## File "{file}", line 31
        /*0020*/              FADD R2, R2, R3 ;
        /*0030*/              FADD R2, R2, R4 ;
        /*0040*/              BRA `(.L_x_2) ;
.L_x_1:
  //## File "{file}", line 22
  //## File "{file}", line 31
        /*0050*/              FMUL R2, R2, R3 ;
.L_x_2:
  //## File "{file}", line 30
        /*0060*/              EXIT ;
"""


class MemberFunctions(unittest.TestCase):
    def test_are_found_with_their_class(self):
        self.assertEqual(step_table.find_functions(SOURCE.splitlines()),
                         [[5, 7, "Multiplier::Multiplier"], [8, 8, "Multiplier::next"],
                          [13, 13, "Pair::sum"], [15, 25, "Multiplier::multiply"],
                          [30, 32, "multiply_kernel"]])

    def test_belong_to_their_callers_unless_their_class_has_phases(self):
        tables = tables_of([], [], {"Multiplier::multiply": "MLP"})
        self.assertTrue(tables.is_known("Pair::sum"))
        self.assertTrue(tables.is_known("Multiplier::multiply"))
        self.assertFalse(tables.is_known("Multiplier::next"))
        self.assertFalse(tables.is_known("multiply_kernel"))

    def count(self, condition):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "multiply.cu"
            file.write_text(SOURCE)
            graph = sass_count.Graph(sass_count.parse_listing(
                SIDES.format(file=file).splitlines())["multiply_kernel"])
            tables = tables_of([], [condition], {"Multiplier::multiply": "MLP"})._replace(
                parts=[("Multiplier::multiply", "} else {", "gather")])
            counts = mean_counts(step_table.Step(tables, graph, step_table.Sources(folder),
                                                 "forward"))
            return {phase: sum(n for key, n in counts.items() if key == (phase, "float"))
                    for phase in ("MLP", "gather")}

    def test_of_two_sides_one_is_named_and_the_other_has_the_rest(self):
        line, share = "if (i > first)", step_table.always(1 / 4)
        self.assertEqual(self.count(("Multiplier::multiply", line, share, "grow(")),
                         {"MLP": 2 / 4, "gather": 3 / 4})
        self.assertEqual(self.count(("Multiplier::multiply", line, share, "wait(")),
                         {"MLP": 2 * 3 / 4, "gather": 1 / 4})
        self.assertEqual(self.count(("Multiplier::multiply", line, step_table.always(1))),
                         {"MLP": 2, "gather": 1})

    def test_a_side_is_found_where_the_caller_is_named_too(self):
        line, share = "if (i > first)", step_table.always(1 / 4)
        self.assertEqual(self.count(("Multiplier::multiply < multiply_kernel", line, share,
                                     "grow(")), {"MLP": 2 / 4, "gather": 3 / 4})
        self.assertEqual(self.count(("Multiplier::multiply < another_kernel", line, share,
                                     "grow(")), {"MLP": 2, "gather": 1})


class Rows(unittest.TestCase):
    def setUp(self):
        self.example = step_table.Example(60, 1, 1, 0, 1, 32)

    def shares(self, rule, copy=0):
        return [rule(self.example, warp, copy) for warp in range(step_table.WARPS)]

    def test_of_exact_come_in_chunks(self):
        self.assertEqual(step_table.chunks(self.example), [32, 28])
        self.assertEqual(step_table.rows_of_chunk(self.example, 0, 0), 30)
        # Four rows to a warp: the last one has none in the second chunk.
        self.assertEqual(self.shares(step_table.share_of_chunks(4)), [1] * 7 + [1 / 2])

    def test_of_the_next_chunk_are_asked_for_in_all_but_the_last(self):
        self.assertEqual(self.shares(step_table.has_later_chunks), [1 / 2] * 4 + [0] * 4)
        self.assertEqual(self.shares(step_table.has_next_grad_u, 1), [1 / 2] * 4 + [0] * 4)

    def test_of_tensor_cores_come_in_pieces(self):
        self.assertEqual(self.shares(step_table.has_piece), [1] * 8)
        self.assertEqual(self.shares(step_table.has_piece, 1), [0] * 8)
        few = self.example._replace(rows=23)
        self.assertEqual([step_table.writes_grad_p(few, warp, 0) for warp in range(4)],
                         [1, 1 / 2, 0, 0])


MODULES = [step_table, stream_table, band_table]
ALL_TABLES = [module.TABLES for module in MODULES]


class Tables(unittest.TestCase):
    def setUp(self):
        self.functions = {}
        for path in [*ROOT.glob("cuda/*/*.cu"), *ROOT.glob("cuda/*/*.cuh"), *ROOT.glob("cuda/*/*.hpp")]:
            lines = path.read_text().splitlines()
            for first, last, name in step_table.find_functions(lines):
                self.functions.setdefault(name, []).extend(lines[first - 1:last])

    def test_functions_of_the_tables_are_there(self):
        for tables in ALL_TABLES:
            named = {*tables.phase_of, *tables.helpers, *tables.kernels}
            for directions in tables.kernels.values():
                named |= set(directions) - {None}
            self.assertEqual(named - set(self.functions), set())

    def test_lines_of_the_tables_are_there(self):
        everywhere = [line for lines in self.functions.values() for line in lines]
        for tables in ALL_TABLES:
            for rule in [*tables.rounds, *tables.conditions, *tables.blocks, *tables.parts]:
                function, _, caller = (rule[0] or "").partition(" < ")
                for name in filter(None, [function, caller]):
                    self.assertTrue(name in self.functions, rule)
                lines = self.functions[function] if function else everywhere
                side = rule[3] if rule in tables.conditions and len(rule) == 4 else None
                for piece in filter(None, [rule[1], side]):
                    self.assertTrue(any(piece in line for line in lines), (rule, piece))

    def test_a_function_has_one_phase(self):
        for module in MODULES:
            names = " ".join(module.FUNCTIONS.values()).split()
            self.assertEqual(len(names), len(set(names)))
            self.assertEqual(set(names) & module.HELPERS, set())

    def test_phases_have_a_column(self):
        for tables in ALL_TABLES:
            columns = {phase for phases in tables.phases.values() for phase in phases}
            self.assertEqual({*tables.phase_of.values(), *(part[2] for part in tables.parts)},
                             columns)


LAUNCHES = """
    launch(NCA_KERNEL(plain_kernel), {.blocks = 1, .threads = 256}, stream, args);
    launch("parts_kernel", parts_kernel<parts>,
           {.blocks = 1,
            .shared_bytes = sizeof(Shared<parts>)},
           stream, args);
    launch("chosen_kernel", exact ? chosen_kernel<0> : chosen_kernel<1>,
           {.threads = 128}, stream, args);
"""


class Script(unittest.TestCase):
    def setUp(self):
        loader = importlib.machinery.SourceFileLoader("kernel_table",
                                                      str(ROOT / "scripts" / "kernel-table"))
        self.script = importlib.util.module_from_spec(
            importlib.util.spec_from_loader("kernel_table", loader))
        loader.exec_module(self.script)

    def test_an_instance_is_named_by_its_template_arguments(self):
        kernels = ["step_kernel", "band_kernel", "stream_kernel"]
        for mangled, expected in [
                ("_ZN3nca4cuda11step_kernelENS0_4ArgsE", ("step_kernel", "")),
                ("_ZN3nca4cuda11step_kernelINS0_17PreciseArithmeticEEEvT_", ("step_kernel",
                                                                             "precise")),
                ("_ZN3nca4cuda11band_kernelILi1ELi2EEEvNS0_4ArgsE", ("band_kernel",
                                                                     "fast, 64 columns")),
                ("_ZN3nca4cuda11band_kernelILi2ELi4EEEvNS0_4ArgsE", ("band_kernel",
                                                                     "precise, 128 columns")),
                ("_ZN3nca4cuda13stream_kernelILi1EEEvNS0_4ArgsE", ("stream_kernel", "fast")),
                ("_ZN3nca4cuda13stream_kernelILi2EEEvNS0_4ArgsE", ("stream_kernel", "precise")),
                ("_ZN3nca4cuda13stream_kernelILi0EEEvNS0_4ArgsE", ("stream_kernel", "exact")),
                ("_ZN3nca4cuda13another_kernelENS0_4ArgsE", (None, ""))]:
            self.assertEqual(self.script.kernel_and_instance(mangled, kernels), expected)

    def test_a_launch_is_found_whatever_chooses_the_instance(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "launches.cu"
            file.write_text(LAUNCHES)
            launches = self.script.launches_of(file)
        default = "LaunchShape{}.threads", "LaunchShape{}.shared_bytes"
        self.assertEqual(launches, {
            "plain_kernel": self.script.Launch("256", default[1], "0"),
            "parts_kernel": self.script.Launch(default[0], "sizeof(Shared<parts>)", "0"),
            "chosen_kernel": self.script.Launch("128", default[1], "0")})

    def test_a_block_has_as_many_warps_as_fit(self):
        launch = self.script.Launch(256, 1 << 10, 24 << 10)  # 227 KiB and 99 KiB can be had
        self.assertEqual(launch.on(90), (256, 193 << 10))
        self.assertEqual(launch.on(86), (4 * 32, 97 << 10))
        self.assertEqual(launch._replace(bytes_of_warp=0).on(86), (256, 1 << 10))

    def test_numbers_in_names_are_in_their_order(self):
        names = ["b, 128 columns", "b, 64 columns", "a, 256 columns"]
        self.assertEqual(sorted(names, key=self.script.in_order), names[::-1])

    def test_a_missing_nvdisasm_is_one_line(self):
        with mock.patch("shutil.which", return_value=None), self.assertRaises(SystemExit) as end:
            self.script.find_nvdisasm()
        self.assertRegex(str(end.exception),
                         r"^kernel-table: nvdisasm is missing from PATH and .*; it comes with ")
        self.assertNotIn("\n", str(end.exception))


if __name__ == "__main__":
    unittest.main()
