# SPDX-License-Identifier: MIT
"""The instructions that a warp issues in a step of a kernel, by phase and by kind.

An estimate from machine code (sass_count.py says how) and from tables: which function belongs to
which phase, how many rounds a loop takes, and how likely a condition holds. The tables name
functions and pieces of their source, never numbers of lines; loops and functions that they do not
know are reported. The tables below are for the kernels whose blocks take a step of a tile;
stream_table.py has those for steps in strips, and band_table.py those for rollouts in bands.
"""
import bisect
import collections
import pathlib
import re
import textwrap

import sass_count

WARPS = 8
WARP = 32
OWN, HALO, WIDE = 128, 180, 240  # cells of a tile of 16 x 8, with one cell around it, with two
THREADS = WARPS * WARP
EXACT_ROWS = 32  # of the MLP that a block takes at once going back in exact; else all of a tile's
ROWS_ACROSS = THREADS // 4  # of the MLP, by all threads
PARTIAL_LINES = 261         # of 128 bytes in PartialGradients

# What is counted for in a direction. rows: of the MLP, in a tile that has any. any_rows: the share
# of tiles and steps that have any. living: the share of rows of eight cells that have a living one.
# edge: the share of warps that reach across the grid's edge. inside: the share of cells in the
# grid. at_once: the rows that a warp multiplies at once, back on tensor cores.
Example = collections.namedtuple("Example", "rows any_rows living edge inside at_once",
                                 defaults=[None])
EXAMPLES = [
    ("a tile in the grid's middle that is all alive, with 64 rows forward and 60 back",
     {"forward": Example(64, 1, 1, 0, 1), "back": Example(60, 1, 1, 0, 1)}),
    ("the mean tile of the notebook's 40x40 cells, which has 12 rows: 21 in 9 of 16 steps forward, "
     "23 in every other step back, none in the rest; a quarter of its rows of eight cells have "
     "life, a sixth of its cells lies outside of the grid, and half of the warps reach across its "
     "edge",
     {"forward": Example(21, 9 / 16, 1 / 4, 1 / 2, 5 / 6),
      "back": Example(23, 1 / 2, 1 / 4, 1 / 2, 5 / 6)}),
]
AT_ONCE = {"fast": 32, "precise": 16}


def examples_of(instance):
    return [{direction: example._replace(at_once=AT_ONCE.get(instance))
             for direction, example in directions.items()} for _, directions in EXAMPLES]


PHASES = ["fire bits", "addresses, loads", "masks, lists", "perception", "MLP", "gather",
          "new cells", "exchange", "tape", "other"]
FUNCTIONS = {
    "fire bits": "cell_fires fire_words word_of_cell philox4x32",
    "addresses, loads": "load_tile load_halo_states load_weights load_w1 load_backward_operands "
                        "prepare weight_scales prefetch_backward_operands prefetch_partial "
                        "wait_for_copies copy_async tile_at tile_count",
    "masks, lists": "find_life mask_states decide_fates is_living_before list_rows life_before "
                    "find_rows list_cell sum_of_counts load_life_after",
    "perception": "perceived perceive_cell perceive_rows perceive_group perceive_chunk "
                  "perceive_with scale_of_rows store_p",
    "MLP": "update_rows mlp_forward_rows step_rows step_chunk start_grad_u finish_grad_u "
           "compute_hidden store_hidden sum_output_layer sum_hidden_layer write_grad_p share_out "
           "write_sums sum_shared_row compute_u0 send_rows_back put_grad_u scale_of_gradients "
           "unless_known store_grad_u add_b2 multiply_rows multiply_some make_hidden add_w1 "
           "add_w1_rows compute_grad_p",
    "gather": "gather_sent gather_plain gather_general perceive_adjoint write_grad_z",
    "new cells": "write_passive_cells",
    "exchange": "note_senders has_row_after grad_p_place let_dependents_start "
                "wait_for_predecessor",
    "tape": "write_states",
    "other": "step_forward_kernel step_backward_kernel step_backward_tensor_kernel",
}
PHASE_OF = {function: phase for phase, names in FUNCTIONS.items() for function in names.split()}
# Functions that belong to whoever calls them.
HELPERS = set("""
    add_scaled any_around c_column c_row cell_at element first_cell forward_quad_of forward_row_of
    grad_a_of_warp halo_cell halo_of_own halves halves_of_rows inverse_of_power lane_in_blocks
    largest_element largest_of_warp largest_over_warp load4 load_a load_b load_matrices
    load_matrices_transposed make_a make_b make_parts mma_fp16 multiply multiply_small note_largest
    opaque operand_scale own_cell own_offset own_x own_y power_of_two prefetch rounded_to_fp16
    rows_of_halves scale_to scaled shared_address shared_storage split_columns store4
    store_matrices_transposed store_operands sum_of_halves sum_place tiles_across tiles_down
    wrapped write_next zero4""".split())

KINDS = ["tensor", "convert", "float", "integer", "shared", "global", "wait", "branch", "rest"]
KIND_TEXT = textwrap.fill(
    "The same by kind of instruction. Tensor: products on tensor cores. Convert: between kinds of "
    "numbers. Float: float32 arithmetic and comparisons. Integer: arithmetic, addresses, "
    "comparisons and moves. Shared, global: loads and stores there. Wait: barriers and fences. "
    "Branch: jumps, and where lanes meet again. Rest: shuffles, votes, constants and the like.",
    104)
KIND_AGAIN = "By kind of instruction:"
KIND_OF = {
    "tensor": r"[HID]MMA",
    "convert": r"F2F|F2FP|F2I|I2F|I2FP",
    "float": r"FFMA|FADD|FMUL|FMNMX3?|FSEL|FSETP|FSET|FCHK|MUFU|D(FMA|ADD|MUL|SETP)|"
             r"H(FMA|ADD|MUL)2",
    "integer": r"U?(IMAD|IADD3|LEA|LOP3|SHF|ISETP|PRMT|SEL|PLOP3|MOV|FLO|POPC|BREV|VIADD)|IABS|"
               r"VIADD|VIADDMNMX|VIMNMX|IMNMX|CS2R|P2R|R2P|SGXT|BMSK|R2UR|MOVM|I?DP\w*",
    "shared": r"LDS|LDSM|STS|STSM|ATOMS",
    "global": r"LDG|STG|LDGSTS|REDG?|ATOM|ATOMG|ST|LD|STAS|LDL|STL",
    "wait": r"BAR|MEMBAR|SYNCS|ERRBAR|CGAERRBAR|WARPSYNC|DEPBAR|LDGDEPBAR|CCTL|FENCE|"
            r"UCGABAR_\w+|ACQBULK|PREEXIT|NANOSLEEP|ENDCOLLECTIVE",
    "branch": r"BRA|BSSY|BSYNC|BREAK|EXIT|YIELD|NOP|CALL|RET|WARPSYNC",
}


def kind_of(instruction):
    if re.match(r"CCTL\.\w+\.PF", instruction.opcode):  # of a line into a cache
        return "global"
    for kind, pattern in KIND_OF.items():
        if re.fullmatch(pattern, instruction.name):
            return kind
    return "rest"


def share_of_warps(threads):
    """Whether a warp has one of the first so many threads."""
    return lambda e, warp, copy: 1 if warp * WARP < threads else 0


def strided(count):
    """Rounds of a loop over so many things by all threads."""
    return lambda e, warp, copy: max(0, -(-(count - warp * WARP) // THREADS))


def always(share):
    return lambda e, warp, copy: share


def has_rows(rows):
    """Whether a warp has any rows, where each warp has so many."""
    return lambda e, warp, copy: 1 if warp * rows < e.rows else 0


def has_piece(e, warp, copy):
    """Whether a warp has any row of piece `copy`; a piece is what all threads take at once."""
    return 1 if copy * ROWS_ACROSS + warp * 8 < e.rows else 0


def any_rows(e, warp, copy):
    return e.any_rows


def own_inside(e, warp, copy):
    return share_of_warps(OWN)(e, warp, copy) * e.inside


def chunks(e):
    """Rows of the MLP that a block takes at once, going back in exact."""
    return [min(EXACT_ROWS, e.rows - first) for first in range(0, e.rows, EXACT_ROWS)]


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers) if numbers else 0


def rows_of_chunk(e, warp, copy):
    return mean(chunks(e))


def share_of_chunks(rows, which=slice(None)):
    """In which share of chunks a warp has any rows, where each warp has so many."""
    return lambda e, warp, copy: mean(warp * rows < n for n in chunks(e)[which])


def has_grad_u(e, warp, copy):
    """Of the first chunk; a branch of its own asks whether the warp has any rows of a chunk."""
    return 1 if warp * 8 < (EXACT_ROWS if copy == 0 else chunks(e)[0]) else 0


def has_next_grad_u(e, warp, copy):
    of_next = [warp * 8 < n for n in chunks(e)[1:]]
    return share_of_warps(EXACT_ROWS * 4)(e, warp, 0) if copy == 0 else mean(of_next + [False])


def has_later_chunks(e, warp, copy):
    return (1 - 1 / len(chunks(e))) * share_of_warps(EXACT_ROWS * 4)(e, warp, copy)


def first_of_grad_p(warp):
    """Of a warp's 16 rows on tensor cores. Another warp has their other perceptions."""
    return warp % (WARPS // 2) * 16


def writes_grad_p(e, warp, copy):
    """Of the first and the second eight of the 16."""
    first = first_of_grad_p(warp)
    return mean(half < e.rows for half in (first, first + 8))


# (function, piece of the loop's line, step of its counter, rounds by example and warp). Without a
# step the loop makes one round at a time.
ROUNDS = [
    (None, "index < tiles;", 1, always(1)),
    (None, "index + blocks < tiles", None, always(1)),  # the same
    (None, "index = shared.tile.next", None, always(1)),
    (None, "i < Traits::halo_cells * Traits::quads", THREADS, strided(HALO * 4)),
    (None, "i < Traits::tile_cells * Traits::quads", THREADS, strided(OWN * 4)),
    (None, "i < Traits::perception * Traits::hidden / 4", THREADS, strided(48 * 128 // 4)),
    ("load_weights", "i < pieces", THREADS, strided(2084)),  # of 16 bytes in ForwardWeights
    ("step_forward_kernel", "while (first < total)", 64, has_rows(8)),
    ("step_forward_kernel", "__syncwarp();  // the next rows", 64, has_rows(8)),  # the same
    ("mlp_forward_rows", "k < Traits::perception", 4, always(12)),
    ("mlp_forward_rows", "j < half / 4", 1, always(16)),
    ("list_cell", "warp < thread / Traits::warp_size", 1, lambda e, warp, copy: min(warp, 4)),
    ("prefetch_partial", "i < partial_floats", 32 * THREADS, strided(PARTIAL_LINES)),
    ("write_grad_z", "round < rounds", 1, always(OWN * 4 // THREADS)),
    ("sum_shared_row", None, 1, always(0)),
    ("step_rows", "first < shared.tile.all_rows()", None,
     lambda e, warp, copy: len(chunks(e))),
    ("compute_hidden", "k < Traits::perception", 4, always(12)),
    ("sum_output_layer", "row < count", 1, rows_of_chunk),
    ("sum_hidden_layer", "row < count", 1, rows_of_chunk),
    ("write_grad_p", "hidden < Traits::hidden", 32, always(4)),
    ("send_rows_back", "first < shared.tile.all_rows()", None, always(1)),
    ("multiply_rows", "first < count", None,
     lambda e, warp, copy: -(-e.rows // e.at_once)),
    ("add_w1", "first < count", 16, lambda e, warp, copy: -(-e.rows // 16)),
    ("compute_grad_p", "first < count", None, always(1)),
]
# (function, piece of the branch's line, how likely a warp takes the guarded side). Where both sides
# are guarded, a piece of one of them follows: the likelihood is of that side, and the other has the
# rest.
CONDITIONS = [
    (None, "thread >= Traits::tile_cells", share_of_warps(OWN)),
    (None, "thread < Traits::tile_cells", share_of_warps(OWN)),
    (None, "thread >= Traits::halo_cells", share_of_warps(HALO)),
    (None, "thread < Traits::halo_cells", share_of_warps(HALO)),
    (None, "thread < Traits::wide_cells", share_of_warps(WIDE)),
    (None, "thread == 0", share_of_warps(1)),
    (None, "thread() == 0", share_of_warps(1)),
    (None, "threadIdx.x == 0", share_of_warps(1)),
    ("cell_at", "if (!inside)", lambda e, warp, copy: e.edge),
    ("cell_at", "const bool inside", lambda e, warp, copy: e.edge),
    ("load_halo_states", "if (cell < 0)", always(1), "copy_async(to"),
    ("step_forward_kernel", "const bool fires", own_inside),
    ("decide_fates", "cell >= 0", lambda e, warp, copy: e.inside),
    ("write_passive_cells", "fate != Fate::kept", lambda e, warp, copy: e.inside),
    ("write_next", "args.marks_out == nullptr", always(0)),
    ("write_states", "own_cell(args.grid, tile, own) < 0", lambda e, warp, copy: e.inside),
    ("step_forward_kernel", "first >= total",
     lambda e, warp, copy: 1 if warp * 8 + ROWS_ACROSS < e.rows else 0),
    ("step_forward_kernel", "first < total",
     lambda e, warp, copy: e.any_rows if warp * 8 < e.rows else 0),
    ("step_forward_kernel", "total > 0", any_rows),
    # Going back.
    (None, "shared.tile.any_rows", any_rows),
    (None, "shared.tile.all_rows() > 0", any_rows),
    (None, "shared.tile.shared_row > 0", always(0)),
    (None, "first < shared.tile.all_rows()", any_rows),
    ("list_rows", "const bool fires", own_inside),
    ("life_before", "args.life_before == nullptr", always(1), "args.life_before["),
    ("note_senders", "if (cell < 0)", own_inside),
    ("write_grad_z", "if (cell < 0)", lambda e, warp, copy: e.inside),
    ("write_grad_z", "life_after[own]) {", lambda e, warp, copy: e.living / e.inside),  # behind it
    ("write_grad_z", "life_after[own] == 0", lambda e, warp, copy: e.living),
    ("write_grad_z", "life_after[own] != 0", lambda e, warp, copy: e.living, "grad = load4(at)"),
    ("gather_sent", "args.rule.plain_taps", always(1), "gather_plain("),
    # In exact, a chunk of rows at a time.
    ("step_rows", "if (first > 0)", has_later_chunks),
    ("perceive_chunk", "start >= chunk", share_of_warps(EXACT_ROWS * 4)),
    ("perceive_rows < step_rows", "row < count", share_of_chunks(8, slice(1, None))),
    ("perceive_rows < perceive_chunk", "row < count", share_of_chunks(8, slice(1))),
    ("perceived < perceive_with", "cell == nullptr", has_piece, "add_scaled("),  # tensor cores'
    ("perceived < step_rows", "cell == nullptr", share_of_chunks(8, slice(1, None)),
     "add_scaled("),
    ("perceived < perceive_chunk", "cell == nullptr", share_of_chunks(8, slice(1)), "add_scaled("),
    ("start_grad_u < step_chunk", "row >= chunk", has_next_grad_u),
    ("start_grad_u", "row >= chunk", has_grad_u),
    ("finish_grad_u", "row >= chunk", share_of_warps(EXACT_ROWS * 4)),
    ("finish_grad_u", "first + row < shared.tile.rows", share_of_chunks(8), "wait_for_copies()"),
    ("finish_grad_u", "first + row < shared.tile.all_rows()", always(0)),  # of the shared row
    ("step_rows", "rows > 8", lambda e, warp, copy: mean(n > 8 for n in chunks(e)),
     "step_chunk<4>"),
    ("write_grad_p", "first + start >= shared.tile.rows", share_of_chunks(4)),
    ("write_sums < step_backward_kernel", "!overwrite", always(1), "before.w1[i] = load4"),
    ("write_sums < step_backward_kernel", "has_b2",
     lambda e, warp, copy: 1 if warp % 4 == 0 else 0),
    # On tensor cores.
    ("send_rows_back", "if (first > 0)", always(0)),
    ("perceive_chunk", "rule.plain_taps", always(1), "perceive_with<true>"),
    ("perceive_with", "row < cells", has_piece),
    ("put_grad_u", "if (row < shared.tile.rows)", has_piece, "scaled(load4("),
    ("put_grad_u", "row < shared.tile.all_rows()", always(0)),  # of the shared row
    ("compute_grad_p", "first < count",
     lambda e, warp, copy: 1 if first_of_grad_p(warp) < e.rows else 0),
    ("compute_grad_p", "to == nullptr", writes_grad_p),
    ("send_rows_back", "first + row >= shared.tile.rows", writes_grad_p),
    ("write_sums", "!overwrite", always(1), "= partial.w1["),
    ("write_sums", "has_b2", share_of_warps(16)),
]
# (function, piece of a line or None for the whole function, how likely a warp comes to such a
# block).
BLOCKS = [
    ("find_life", "shared.states[thread * Traits::channels + c] != 0", always(0)),
    ("is_living_before", None, always(0)),
    ("perceive_adjoint", None, always(0)),  # of other filters
    ("perceive_chunk < send_rows_back", None, always(0)),  # of a second chunk
]


class Tables(collections.namedtuple("Tables", """
        kernels phases phase_of parts helpers rounds conditions blocks examples numbers""")):
    """What has to be known of kernels to count a step.

    kernels: {kernel: {function: direction}}: the function's largest loop is a step; None: the whole
        kernel is one
    phases: {direction: phases, in order}
    phase_of: {function: phase}; parts: [(function, piece of the line it begins in, phase)]
    helpers: functions that belong to whoever calls them
    rounds, conditions, blocks: as above
    examples: of an instance, as kernel-table names it: [{direction: example}]
    numbers: of [[number of a warp] for each example]: those to print

    A member function is named with its class. The functions of a class are helpers where no phase
    names any of them.
    """

    def is_known(self, function):
        if function in self.phase_of or function in self.helpers:
            return True
        of_class = function.rpartition("::")[0]
        return of_class != "" and not any(other.startswith(of_class + "::")
                                          for other in self.phase_of)


class Sources:
    """The project's functions and lines, found by reading its sources."""

    def __init__(self, root):
        self.root = pathlib.Path(root).resolve()
        self.files = {}

    def read(self, name):
        """(lines, first lines of functions, [(first, last, function)]); empty for other files."""
        if name not in self.files:
            path = pathlib.Path(name).resolve()
            own = path.is_relative_to(self.root) and path.exists()
            lines = path.read_text().splitlines() if own else []
            functions = find_functions(lines)
            self.files[name] = lines, [first for first, _, _ in functions], functions
        return self.files[name]

    def line(self, frame):
        lines = self.read(frame[0])[0]
        return lines[frame[1] - 1].strip() if frame[1] <= len(lines) else ""

    def function_at(self, frame):
        """(first line, last line, name), or nothing."""
        _, firsts, functions = self.read(frame[0])
        at = bisect.bisect(firsts, frame[1]) - 1
        return functions[at] if at >= 0 and frame[1] <= functions[at][1] else None

    def function(self, frame):
        found = self.function_at(frame)
        return found[2] if found else None

    def is_behind(self, frame, piece):
        """Whether the frame's function has the piece in this line or in one above."""
        lines, first = self.read(frame[0])[0], self.function_at(frame)[0]
        return any(piece in line for line in lines[first - 1:frame[1]])


def find_functions(lines):
    """[[first line, last line, name]] of functions, those of a class as class::function."""
    functions = []
    lines = [re.sub(r"\s*//.*", "", line) for line in lines]
    scan_functions(functions, lines, 0, len(lines), 0, "")
    return functions


def scan_functions(functions, lines, begin, end, indent, scope):
    """Adds the functions of lines [begin, end) that are indented by so much."""
    head, first, number = "", 0, begin
    while number < end:
        line = lines[number]
        number += 1
        if not head:
            if not re.match(rf" {{{indent}}}[A-Za-z_]", line) or re.match(r"\s*\w+:$", line):
                continue
            first = number
        head += line.strip() + " "
        if "{" not in head and ";" not in head:
            continue
        text = re.sub(r"__launch_bounds__\([^)]*\)|template <[^{;]*?> (?=\w)", "", head)
        opens = head.rstrip().endswith("{")
        head = ""
        if text.startswith("namespace"):
            continue
        last = number
        if opens:
            last = next((other + 1 for other in range(number, end)
                         if lines[other].startswith(" " * indent + "}")), end)
        name = re.match(r"[^={;()]*?\b(\w+)\(", text)
        in_class = re.match(r"(?:struct|class|union) (?:alignas\(\w+\) )?(\w+)", text)
        if in_class:
            scan_functions(functions, lines, number, last - 1, indent + 4, in_class[1] + "::")
        elif name and "{" in text:
            functions.append([first, last, scope + name[1]])
        number = last


def rule_for(rules, sources, frames):
    """The first rule for the first frame's function and, behind "<", for one of its callers."""
    function, line = sources.function(frames[0]), sources.line(frames[0])
    for rule in rules:
        own, _, caller = (rule[0] or "").partition(" < ")
        if own not in ("", function) or not (rule[1] is None or rule[1] in line):
            continue
        if not caller or caller in map(sources.function, frames[1:]):
            return rule
    return None


def body_of_loop(lines, first):
    """The last line of the statement that begins in this line, counted from 1."""
    indent = len(lines[first - 1]) - len(lines[first - 1].lstrip())
    braces = False
    for number in range(first, len(lines) + 1):
        line = lines[number - 1]
        if braces and re.match(rf" {{{indent}}}}}", line):
            return number
        braces = braces or line.rstrip().endswith("{")
        if not braces and line.rstrip().endswith(";"):
            return number
    return first


class Step:
    """A round of a kernel's main loop, or all of a kernel for one tile."""

    def __init__(self, tables, graph, sources, direction, loop=None, instance=""):
        self.tables = tables
        self.graph = graph
        self.sources = sources
        self.direction = direction
        self.examples = [example[direction] for example in tables.examples(instance)]
        self.region = sass_count.Region(graph, loop)
        self.unknown = set()
        self.find_rounds()
        self.find_conditions()

    def find_rounds(self):
        """For each loop: how many of the source's rounds it makes at once, and their rule. And the
        blocks before and behind an unrolled loop that are rounds of it."""
        self.rounds, self.left_over = [], set()
        by_source = collections.defaultdict(list)
        for loop in self.region.loops:
            frames = self.graph.frames_of(loop)
            while len(frames) > 1 and not self.is_named(frames[0]):
                frames = frames[1:]  # CUDA's headers, helpers
            by_source[frames].append(loop)
        for frames, loops in by_source.items():
            rule = rule_for(self.tables.rounds, self.sources, frames)
            if not rule:
                self.unknown.add(f"the loop `{self.sources.line(frames[0])}` of "
                                 f"`{self.sources.function(frames[0])}`, counted once")
                self.rounds += [(loop, 1, always(1)) for loop in loops]
                continue
            factors = [sass_count.rounds_at_once(self.graph, loop, rule[2]) if rule[2] else 1
                       for loop in loops]
            # Loops of one source with different factors are one loop: the one with the largest
            # factor that is not above the rounds makes most rounds, the others make those left
            # over. Loops with one factor are copies, for example because a loop around them is
            # unrolled.
            most = max(rule[3](self.examples[0], warp, 0) for warp in range(WARPS))
            main = max((f for f in factors if f <= most), default=min(factors))
            for loop, factor in zip(loops, factors):
                self.rounds.append((loop, factor, rule[3] if factor == main else always(0)))
            if main > 1:
                inside = set.union(*(loop.blocks for loop in loops))
                last = body_of_loop(self.sources.read(frames[0][0])[0], frames[0][1])
                self.left_over |= {
                    block for block in self.region.blocks() if block not in inside and
                    2 * sum(self.in_body(i, frames, last) for i in self.graph.instructions(block))
                    > len(self.graph.instructions(block))}

    @staticmethod
    def in_body(instruction, loop, last):
        (file, first), callers = loop[0], loop[1:]
        at = len(instruction.frames) - 1 - len(callers)
        if at < 0 or instruction.frames[at + 1:] != callers or instruction.frames[at][0] != file:
            return False
        line = instruction.frames[at][1]
        return first <= line <= last and (at > 0 or line > first or last == first)

    def find_conditions(self):
        """For each block: the rule of its branch, how many branches of the same source come before
        it, and the rules of the block as a whole."""
        self.branches, self.wholes = {}, {}
        seen = collections.Counter()
        for block in sorted(self.region.blocks()):
            frames = self.graph.last(block).frames
            self.branches[block] = (rule_for(self.tables.conditions, self.sources, frames),
                                    seen[frames])
            seen[frames] += 1
            instructions = self.graph.instructions(block)
            matches = collections.Counter(
                rule for i in instructions
                for rule in {rule_for(self.tables.blocks, self.sources, i.frames[at:])
                             for at in range(len(i.frames))} - {None})
            self.wholes[block] = [rule for rule, count in matches.items()
                                  if 2 * count >= len(instructions)]

    def frequencies(self, example, warp):
        """{block: how often the warp runs it}"""
        def share_of_branch(block, side):
            rule, copy = self.branches[block]
            if not rule:
                return 1
            share = rule[2](example, warp, copy)
            function = (rule[0] or "").partition(" < ")[0]
            return share if len(rule) == 3 or self.is_at(side, function, rule[3]) else 1 - share

        often = {}
        for block, share in self.region.shares(share_of_branch).items():
            if block == self.region.end or block in self.left_over:
                continue
            for loop, factor, rounds in self.rounds:
                if block in loop.blocks:
                    share *= rounds(example, warp, 0) / factor
            for rule in self.wholes[block]:
                share *= rule[2](example, warp, 0)
            often[block] = share
        return often

    def is_at(self, block, function, piece):
        """Whether the block has an instruction from such a line of the function."""
        return any(self.sources.function(frame) == function and piece in self.sources.line(frame)
                   for instruction in self.graph.instructions(block)
                   for frame in instruction.frames)

    def is_named(self, frame):
        function = self.sources.function(frame)
        helper = function is None or "::" in function or function in self.tables.helpers
        return function is not None and (not helper or function in self.tables.phase_of or
                                         any(function == (rule[0] or "").partition(" < ")[0]
                                             for rule in self.tables.rounds))

    def phase_of(self, instruction):
        """The phase of the innermost function that has one."""
        for frame in instruction.frames:
            function = self.sources.function(frame)
            if function is None:
                continue
            if not self.tables.is_known(function):
                self.unknown.add(f"the phase of `{function}`")
            phase = self.tables.phase_of.get(function)
            for name, piece, of_part in self.tables.parts:
                if name == function and self.sources.is_behind(frame, piece):
                    phase = of_part
            if phase not in (None, "other"):
                return phase
        return "other"

    def counts(self):
        """[[{(phase, kind): instructions} of each warp] for each example]"""
        keys = {block: collections.Counter((self.phase_of(i), kind_of(i))
                                           for i in self.graph.instructions(block))
                for block in self.region.blocks()}

        def of_warp(example, warp):
            counts = collections.Counter()
            for block, often in self.frequencies(example, warp).items():
                for key, number in keys[block].items():
                    counts[key] += number * often
            return counts
        return [[of_warp(example, warp) for warp in range(WARPS)] for example in self.examples]


# Kernels, and the functions whose loop is a step. Without a function the kernel is one step.
KERNELS = {
    "step_forward_kernel": {None: "forward"},
    "step_backward_kernel": {None: "back"},
    "step_backward_tensor_kernel": {None: "back"},
}


def mean_of_examples(numbers):
    """For each example the mean over its warps."""
    return [sum(of_warps) / len(of_warps) for of_warps in numbers]


TABLES = Tables(KERNELS, {"forward": PHASES, "back": PHASES}, PHASE_OF, [], HELPERS, ROUNDS,
                CONDITIONS, BLOCKS, examples_of, mean_of_examples)


def has_steps(tables, source):
    return any(re.search(rf"\b{kernel}\(const", source) for kernel in tables.kernels)


def steps_of(tables, kernel, instance, listing, sources):
    """[Step], forward first; none where the kernel is empty, as for a GPU that cannot run it."""
    graph = sass_count.Graph(listing)
    if sass_count.Region(graph).empty:
        return []
    steps = {}
    for function, direction in tables.kernels[kernel].items():
        loops = [loop for loop in graph.loops.values()
                 if function in map(sources.function, graph.frames_of(loop))]
        if function and not loops:
            raise ValueError(f"{kernel}: {function} has no loop")
        largest = max(loops, key=lambda loop: len(loop.blocks)) if function else None
        steps[direction] = Step(tables, graph, sources, direction, largest, instance)
    return list(steps.values())


def explanation(architecture):
    first, second = (text for text, _ in EXAMPLES)
    return textwrap.fill(
        "Instructions that a warp issues in a step, the mean of a block's eight warps, at "
        f"{architecture}, estimated from the machine code. The first number is for {first}. The "
        f"second is for {second}. A block has one tile, edges are circular, and life is masked "
        "after the update; filters are the cell itself and Sobel's two. Where the lanes of a warp "
        "go different ways, all are counted. Not counted: what only the first or the last step "
        "does, the shared row, and waiting (what is waited for is there at once). What a kernel "
        "does before its tile, such as loading weights, and after it is included.", 104)
