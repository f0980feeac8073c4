# SPDX-License-Identifier: MIT
"""What step_table.py has to know about the kernels of a rollout in bands (cuda/bands/)."""
import collections
import textwrap

from step_table import THREADS, WARP, WARPS, Tables, always, share_of_warps, strided

# A block's band, how many of its cells are listed in a step, and in how many columns they lie. By
# precision: how many warps share the hidden units forward, and the perceptions of grad_p back.
Band = collections.namedtuple("Band", "rows width columns zero_edges listed unit_groups p_groups")

TILE = 16  # listed cells that a warp multiplies at once
QUADS = 4  # threads of a cell
CELLS = THREADS // QUADS
DEATHS = 0.3         # the share of a band's rows in which a cell dies in a step
ALPHA_CHANGES = 0.2  # how likely one alpha of eight listed cells crosses the threshold

# A band in the middle of a grid whose bands are cut by their load: of the notebook's 40x40 cells,
# and of the growing preset's 72x72, with zero edges and life masked before and after a step.
EXAMPLES = {
    "64 columns": {"rows": 5, "width": 40, "columns": 32, "zero_edges": False},
    "128 columns": {"rows": 4, "width": 72, "columns": 28, "zero_edges": True},
}
LISTED = {"forward": 45, "back": 40}


def examples_of(instance):
    precision, _, columns = instance.partition(", ")
    groups = {"unit_groups": 4 if precision == "precise" else 2,
              "p_groups": 3 if precision == "precise" else 2}
    return [{direction: Band(listed=listed, **EXAMPLES[columns], **groups)
             for direction, listed in LISTED.items()}]


def mean_and_most(numbers):
    [of_warps] = numbers
    return [sum(of_warps) / len(of_warps), max(of_warps)]


PHASES = {
    "forward": ["life, list", "perception", "MLP", "finish", "exchange", "other"],
    "back": ["a, dW2", "grad_p", "gather", "edges", "perception", "dW1", "other"],
}
FUNCTIONS = {
    "life, list": "Forward::live Forward::list_cells Forward::reset_cells",
    "perception": "Forward::perceive_cells Backward::perceive_rows perceive store_perception",
    "MLP": "Forward::multiply_rows",
    "finish": "Forward::finish_cells Forward::put_cell Forward::put_spilled Forward::spilled",
    "exchange": "Forward::send_unchanged Forward::send_piece Forward::send_bits Forward::send_row",
    "a, dW2": "Backward::multiply_rows Backward::multiply_tiles",
    "grad_p": "Backward::compute_grad_p",
    "gather": "Backward::gather Backward::gather_column Backward::add_window",
    "dW1": "Backward::add_w1",
    "other": "Forward::Forward Forward::run Forward::prepare Forward::place_bits "
             "Forward::number_cells Forward::load_first_state Forward::store_state "
             "Forward::compute Backward::Backward Backward::run Backward::fit_scale "
             "let_dependents_start Backward::prepare Backward::start Backward::sum_loss "
             "Backward::fetch Backward::phase_of Backward::expect_neighbours "
             "Backward::open_window Backward::write_sums Backward::finish band_forward_kernel "
             "band_backward_kernel",
}
PHASE_OF = {function: phase for phase, names in FUNCTIONS.items() for function in names.split()}
PARTS = [("Backward::gather", "wait_arrivals(shared.edges", "edges")]
# Functions that belong to whoever calls them.
HELPERS = set("""
    Backward::address_of Backward::edge_row Backward::grad_a_row Backward::grad_of
    Backward::grad_row Backward::grad_u_row Backward::line_of Backward::list_in Backward::list_of
    Backward::load_row Backward::load_settled Backward::mask_of Backward::neighbours_of
    Backward::note_largest Backward::offset_of Backward::p_column Backward::pad_rows
    Backward::piece Backward::put_operand Backward::put_row Backward::put_rows Backward::quad_bytes
    Backward::row_at Backward::row_before Backward::settle Backward::state_row
    Backward::window_list Forward::address_of Forward::address_of_cell Forward::halo_row
    Forward::magnitude_of Forward::piece Forward::u_place add_scaled add_w1_rows all_if at
    at_shared_address band_of_block bulk_load bulk_store cluster_rank count_bits difference
    expect_bytes fence_async_proxy from_lane from_lane_above from_lane_below grad_p_place halves
    halves_of_rows has_arrived in_window inverse_of_power lane_row largest_element largest_of_warp
    largest_over_warp life_before listed_cell listed_in_row load4 load_a load_b load_matrices
    load_matrices_transposed make_hidden make_parts mma_fp16 move_halves multiply multiply_small
    nanoseconds offset_of_listed opaque opaque_shared_address operand_scale power_of_two
    rounded_to_fp16 row_of row_of_listed row_of_words rows_of_halves scaled shared_address
    sobel_corner split_columns store4 store_async store_matrices_transposed sum_of sum_of_halves
    sum_over_warp wait_arrivals wait_bulk_reads weight_scales whole_row word_of wrapped_row
    write_window zero4""".split())


def warps_with(count_of):
    """Whether a warp has any rounds."""
    return lambda e, warp, copy: 1 if count_of(e, warp, copy) > 0 else 0


def last_warp(e, warp, copy):
    return 1 if warp == WARPS - 1 else 0


def has_zero_edges(e, warp, copy):
    """This example is also the one with life masked before and after a step."""
    return 1 if e.zero_edges else 0


def last_warp_and_zero_edges(e, warp, copy):
    return last_warp(e, warp, copy) * has_zero_edges(e, warp, copy)


def rounds_of(first, step, end):
    return lambda e, warp, copy: len(range(first(e, warp), end(e), step(e)))


def listed(e):
    return e.listed


rows_to_list = rounds_of(lambda e, warp: warp, lambda e: WARPS, lambda e: e.rows + 2)
cells_of_warp = rounds_of(lambda e, warp: warp * WARP // QUADS, lambda e: CELLS, listed)
cells_from_behind = rounds_of(lambda e, warp: (WARPS - 1 - warp) * WARP // QUADS,
                              lambda e: CELLS, listed)
tiles_forward = rounds_of(lambda e, warp: warp // e.unit_groups * TILE,
                          lambda e: WARPS // e.unit_groups * TILE, listed)


def grad_p_tiles(e, warp, copy):
    share, shares = warp // e.p_groups, WARPS // e.p_groups
    return len(range(share * TILE, e.listed, shares * TILE)) if share < shares else 0


def tile_pairs(e, warp, copy):
    return -(-e.listed // (2 * TILE))


def pairs_that_are_full(e, warp, copy):
    return len(range(0, e.listed - TILE, 2 * TILE)) / tile_pairs(e, warp, copy)


def words_with_cells(e, warp, copy):
    """Whether a row has listed cells in its word `copy`; a warp has row warp - 1."""
    if not 1 <= warp <= e.rows:
        return 0
    first = (e.width - e.columns) // 2
    columns = len(set(range(first, first + e.columns)) & set(range(32 * copy, 32 * copy + 32)))
    return 1 - (1 - e.listed / (e.rows * e.columns)) ** columns


def unchanged_pieces(e, warp, copy):
    """Pieces of a row: for the warps that have fewer tiles than others, or for all warps."""
    first = -(-e.listed // TILE) % (WARPS // e.unit_groups) * e.unit_groups
    if warp < first:
        return 0
    return len(range((warp - first) * WARP, e.width * QUADS, (WARPS - first) * WARP))


def has_first_row(e, warp, copy):
    return 1 if warp * WARP // QUADS < e.listed / e.rows else 0


def has_last_row(e, warp, copy):
    first = warp * WARP // QUADS
    return 1 if first < e.listed and first + WARP // QUADS > e.listed * (1 - 1 / e.rows) else 0


def columns_of_warp(e, warp, copy):
    return strided(2 * e.columns * QUADS)(e, warp, copy)


def settled_rows_of_column(e, warp, copy):
    """One half of a column goes down, the other up, each through one row more than it has. The
    first two rows come before the loop and settle none."""
    half = (e.rows + 1) // 2
    pieces = range(warp * WARP, 2 * e.columns * QUADS, THREADS) or [0]
    return sum(e.rows - half - 1 if i >= e.columns * QUADS else half - 1
               for i in pieces) / len(pieces)


def identity_warps(e, warp, copy):
    """One of three groups has the whole identity. Each of two has a half, without a branch."""
    return 1 if warp % e.p_groups == 0 else 0


# As in step_table.py.
ROUNDS = [
    ("has_arrived", None, 1, always(0)),
    ("wait_arrivals", None, 1, always(0)),
    ("bulk_store", None, 1, always(1)),
    ("bulk_load", None, 1, always(1)),
    ("BandCut::most_rows", None, 1, always(0)),  # of a spill's address
    ("Forward::list_cells", "i < band.rows + 2", WARPS, rows_to_list),
    ("Forward::compute", "first += Shared::rows", 1, always(1)),
    ("Forward::compute", "row < here", WARPS // 2 * TILE, tiles_forward),
    ("Forward::perceive_cells", "of_warp < count", CELLS, cells_of_warp),
    ("Forward::send_unchanged", "i < pieces", THREADS, unchanged_pieces),
    ("Forward::finish_cells", "i < count", CELLS, cells_of_warp),
    ("Forward::put_spilled", "i < count", CELLS, always(0)),
    ("Backward::run", "from += Shared::rows", 1, always(1)),
    ("Backward::put_rows", "i < count", CELLS, always(0)),  # of other windows
    ("Backward::run", "!scale.fits(largest)", CELLS, always(0)),  # where a gradient jumps
    ("Backward::fit_scale", "i < count", CELLS, always(0)),
    ("Backward::perceive_rows < Backward::open_window", "i < count", CELLS, always(0)),
    ("Backward::perceive_rows", "i < count", CELLS, cells_from_behind),
    ("in_window", None, 1, always(0)),
    ("write_window", None, 1, always(0)),
    ("Backward::multiply_rows", "first < count", 2 * TILE, tile_pairs),
    ("Backward::compute_grad_p", "first < count", WARPS // 2 * TILE, grad_p_tiles),
    ("Backward::gather", "i < 2 * pieces", THREADS, columns_of_warp),
    ("Backward::gather_column", "i < rows", 1, settled_rows_of_column),
    ("Backward::add_w1", "first < count", TILE, lambda e, warp, copy: -(-e.listed // TILE)),
]
CONDITIONS = [
    ("has_arrived", None, always(0)),
    ("wait_arrivals", None, always(0)),
    (None, "thread == 0", share_of_warps(1)),
    (None, "thread == last_warp", last_warp),
    ("BandCut::most_rows", None, always(0)),
    ("perceive", "if (!rule.circular)", has_zero_edges),
    ("Forward::run", "warp == Traits::warps - 1", last_warp),
    ("Forward::run", "if_keeps_above", last_warp_and_zero_edges),
    ("Forward::live", "if (args.rule.pre_and_post)", has_zero_edges, "of_neighbour"),
    ("Forward::live", "if_writes_life", last_warp),
    ("Forward::list_cells", "i < band.rows + 2", warps_with(rows_to_list)),
    ("Forward::list_cells", "of_word & lane_bit", words_with_cells),
    ("Forward::list_cells", "cells != 0", always(DEATHS)),
    ("Forward::compute", "row < here", warps_with(tiles_forward)),
    ("Forward::compute", "count > Shared::rows", always(0)),
    ("Forward::perceive_cells", "of_warp < count", warps_with(cells_of_warp)),
    ("Forward::perceive_cells", "warp * 8 < count", warps_with(cells_of_warp)),
    ("Forward::send_unchanged", "warp < first_warp", warps_with(unchanged_pieces)),
    ("Forward::send_unchanged", "i < pieces", warps_with(unchanged_pieces)),
    ("Forward::store_state", "args.states != nullptr", always(0), "args.last_state"),
    ("Forward::finish_cells", "i < count", warps_with(cells_of_warp)),
    ("Forward::finish_cells", "if (spill)", always(0), "store4(spilled("),
    ("Forward::put_cell", "row == 0 && band.has_above", has_first_row),
    ("Forward::put_cell", "row == band.rows - 1 && band.has_below", has_last_row),
    ("Forward::put_cell", "was != is", always(ALPHA_CHANGES)),
    ("Forward::send_bits", "if (args.rule.pre_and_post)", has_zero_edges),
    ("Backward::run", "if (from > 0)", always(0)),
    ("Backward::run", "!scale.fits(largest)", always(0)),
    ("Backward::run", "next_scale.sums != scale.sums", always(0)),
    ("GradientScale::next", "is_usable(largest)", lambda e, warp, copy: 1 if copy == 0 else 0),
    ("Backward::multiply_rows", "first + 16 < count", pairs_that_are_full, "multiply_tiles<2>"),
    ("Backward::compute_grad_p", "share >= shares", warps_with(grad_p_tiles)),
    ("Backward::compute_grad_p", "first < count", warps_with(grad_p_tiles)),
    ("Backward::compute_grad_p", "Shared::p_groups == 2 ?", identity_warps,
     "add_scaled(to, factor"),
    ("Backward::gather", "i < 2 * pieces", warps_with(columns_of_warp)),
    ("Backward::perceive_rows", "i < count", warps_with(cells_from_behind)),
    ("Backward::gather_column", "i < rows", warps_with(settled_rows_of_column)),
]
BLOCKS = [
    ("Backward::add_window", None, always(0)),  # sums of several windows
]

# A step is a round of this function's largest loop.
KERNELS = {
    "band_forward_kernel": {"Forward::run": "forward"},
    "band_backward_kernel": {"Backward::run": "back"},
}
TABLES = Tables(KERNELS, PHASES, PHASE_OF, PARTS, HELPERS, ROUNDS, CONDITIONS, BLOCKS, examples_of,
                mean_and_most)


def explanation(architecture):
    narrow, wide = EXAMPLES.values()
    return textwrap.fill(
        f"Rollouts in bands at {architecture}: the mean of a block's eight warps, and the warp "
        f"with most. The block has neighbours above and below and computes {LISTED['forward']} "
        f"cells forward and {LISTED['back']} back. Up to 64 columns these are of the notebook's "
        f"40x40 cells, {narrow['rows']} rows of which {narrow['columns']} columns have life; up to "
        f"128, of a growing preset's 72x72, {wide['rows']} rows and {wide['columns']} columns. "
        "Where the lanes of a warp go different ways, both are counted. Not counted: waiting, "
        "lists that do not fit at once, sums written because the gradient has another scale, and "
        "what comes before the first step or after the last.", 104)
