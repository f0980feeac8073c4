# SPDX-License-Identifier: MIT
"""What step_table.py has to know about steps in strips (cuda/step/stream_forward.cu)."""
import collections
import textwrap

from step_table import Tables, always

# The mean row that a warp passes: whether it is one of the segment's own, how many groups of cells
# are computed there, whether anything lives there.
Row = collections.namedtuple("Row", "own groups alive")

CELLS = 128
WIDTH = 28    # columns of a strip
GROUP = 32    # cells that are computed at once
HEIGHT = 128  # rows of a segment; one more above and one below are passed
FIRE_RATE = 0.5
OWN = HEIGHT / (HEIGHT + 2)
ROWS = CELLS / WIDTH / OWN  # passed for so many cells


def examples_of(instance):
    groups = OWN * WIDTH * FIRE_RATE / GROUP
    return [{"forward": Row(OWN, groups * alive, alive)} for alive in (1, 0)]


def of_cells(numbers):
    """All warps do the same, so that one is enough."""
    return [of_warps[0] * ROWS for of_warps in numbers]


PHASES = ["loads", "fire bits", "masks", "rows", "queue", "perception", "MLP", "new cells",
          "other"]
FUNCTIONS = {
    "loads": "Strip::ask_for",
    "fire bits": "Strip::draw fire_words philox4x32",
    "masks": "Strip::look Strip::living_before Strip::alphas Strip::holding Strip::note_life "
             "Strip::note_marks",
    "rows": "Strip::take Strip::put",
    "queue": "Strip::queue_row_above Strip::push Strip::largest_around level_of",
    "perception": "Strip::perceive",
    "MLP": "Strip::add_hidden Strip::multiply_block Strip::make_hidden",
    "new cells": "Strip::compute Strip::state_of Strip::mark",
    "other": "Strip::Strip Strip::run Strip::begin stream_forward_kernel",
}
PHASE_OF = {function: phase for phase, names in FUNCTIONS.items() for function in names.split()}
# Functions that belong to whoever calls them.
HELPERS = set("""
    Strip::ballot Strip::cell_in Strip::floats_of Strip::is_masked Strip::place_of
    Strip::place_second_above Strip::source Strip::source_column Strip::store_cells Strip::uniform
    add_pairs add_scaled at_shared_address copy_async difference end_copy_group halves
    largest_element largest_over_warp load4 load4_if load_byte make_parts mma_fp16 mma_fp16_from
    multiply multiply_add_pairs multiply_pairs multiply_small opaque opaque_shared_address
    power_of_two relu_cut_to_fp16 relu_rounded_to_fp16 rounded_to_fp16 scaled shared_address store4
    store4_if store_byte subtract_pairs sum_of wait_for_older_copies widened wrapped""".split())


def is_own(e, warp, copy):
    return e.own


def is_own_and_alive(e, warp, copy):
    return e.own * e.alive


def is_dead(e, warp, copy):
    return 1 - e.alive


def passes(e):
    """Of the loop over a row's groups. The last one ends the loop and computes none."""
    return 1 + e.groups


# As in step_table.py. Branches that are not named here are taken.
ROUNDS = [
    ("Strip::ask_for", "i < 4", 1, always(0)),  # at an edge of the grid
    ("Strip::queue_row_above", "if (waiting == 0", 1, lambda e, warp, copy: passes(e)),
    ("Strip::queue_row_above", "while (true)", 1, lambda e, warp, copy: passes(e)),
    ("Strip::queue_row_above", "if (waiting != 0", 1, lambda e, warp, copy: passes(e)),
    ("Strip::queue_row_above", "head = queued == 0", 1, lambda e, warp, copy: passes(e)),
    ("Strip::largest_around", None, 1, always(0)),
    ("Strip::add_hidden", "block < StreamWeights::blocks", 1, always(8)),
    ("Strip::multiply_block", None, 1, always(8)),  # the same
]
CONDITIONS = [
    ("Strip::source", None, always(0)),
    ("Strip::ask_for", "y > bottom + 1", always((HEIGHT - 1) / (HEIGHT + 2))),
    ("Strip::ask_for", "interior", always(1), "from + i * 8"),
    ("Strip::look", "args.first ?", always(1), ": widened(alpha_here"),
    ("Strip::look", "of_four == 0", always((HEIGHT / 4 + 1) / (HEIGHT + 2))),
    ("Strip::living_before", "unsigned(y) >=", always(0)),  # beyond the grid
    ("Strip::take", "life_here != looked_at", is_dead),
    ("Strip::take", "row.columns != 0", is_own),
    ("Strip::take", "args.state_out != nullptr", always(0)),
    ("Strip::take", "row.empty != 0", is_dead),
    ("Strip::note_life", "is_own) {", is_own),
    ("Strip::note_life", "if_noted != 0", always(0)),
    ("Strip::queue_row_above", "if (has_levels)", always(0)),
    ("Strip::queue_row_above", "if (waiting != 0)",
     lambda e, warp, copy: is_own_and_alive(e, warp, copy) / passes(e)),
    ("Strip::queue_row_above", "if (parts == 2 && has", always(0)),
    ("Strip::queue_row_above", "if (waiting == 0", lambda e, warp, copy: e.groups / passes(e)),
    ("Strip::queue_row_above", "level > 0)", always(0), "compute<2, true>"),
    ("Strip::queue_row_above", "here > 16", always(0), "compute<1, false>"),
    ("Strip::push", "cells & lane_bit", always(1)),
    ("Strip::compute", "any != any", always(0)),
    ("Strip::compute", "args.marks_out != nullptr", always(0)),
    ("Strip::mark", None, always(0)),
]
BLOCKS = []

# A step is a round of this function's largest loop: a row.
KERNELS = {"stream_forward_kernel": {"Strip::run": "forward"}}
TABLES = Tables(KERNELS, {"forward": PHASES}, PHASE_OF, [], HELPERS, ROUNDS, CONDITIONS, BLOCKS,
                examples_of, of_cells)


def explanation(architecture):
    return textwrap.fill(
        f"Steps in strips at {architecture}: what a warp issues for {CELLS} cells, where all is "
        f"alive and where nothing is. A cell fires with a probability of {FIRE_RATE}, life is "
        f"masked before and after the update, segments have {HEIGHT} rows, and strips lie whole "
        "inside of the grid. Where the lanes of a warp go different ways, all are counted. Not "
        "counted: what only the first or the last step of a rollout does, its tape, waiting, and "
        "what comes before a segment's first row or after its last.", 104)
