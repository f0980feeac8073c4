# SPDX-License-Identifier: MIT
"""How often a warp runs each instruction of a kernel's main loop, estimated from its machine code.

Reads what `nvdisasm -c -gi` prints of a kernel that was compiled with -lineinfo: every instruction,
and its source line with the lines where it was inlined. Knows nothing about any kernel: the caller
says how many rounds a loop takes and how likely a condition holds.

  graph    instructions are cut into blocks; loops are the natural ones, by their back edges
  branch   the two sides of a branch meet again at some block. A side that is not this block is
           guarded, and is counted with the share of its condition. Where both sides are guarded,
           both are counted: the lanes of a warp go different ways.
  loop     a block in it is counted once a round
  unrolled where a loop's counter goes up by several rounds at once, the loop is counted that many
           times less often. The copies of its body before and behind it, for rounds that are left
           over, are not counted, because every round is counted in the loop.
"""
import collections
import re


class Instruction(collections.namedtuple("Instruction", "predicate opcode operands frames")):
    """frames: ((file, line), ..) from the innermost function to the kernel."""

    @property
    def name(self):
        return self.opcode.split(".")[0]

    @property
    def target(self):
        found = re.search(r"`\((\.L_x_\d+)\)", self.operands)
        return found[1] if found else None


class Listing:
    """A kernel's instructions, and the index of each label."""

    def __init__(self):
        self.instructions = []
        self.labels = {}


def parse_listing(lines):
    """{mangled name: Listing}"""
    listings, listing, frames, frames_read = {}, None, (), []
    for line in lines:
        if found := re.match(r"\.text\.(\S+):$", line):
            listing = listings[found[1]] = Listing()
            frames, frames_read = (), []
        elif listing is None:
            continue
        elif found := re.match(r'\s*//## File "([^"]+)", line (\d+)', line):
            frames_read.append((found[1], int(found[2])))
        elif found := re.match(r"(\.L_x_\d+):", line):
            listing.labels[found[1]] = len(listing.instructions)
        elif found := re.match(
                r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", line):
            if frames_read:  # none: as the instruction before
                frames, frames_read = tuple(frames_read), []
            listing.instructions.append(Instruction(found[1], found[2], found[3], frames))
    return listings


def successors(listing):
    """[indices that may run next] of each instruction; None for those that never run.

    Leaves out ways to a trap, and the slow path of a branch whose lanes have gone different ways.
    """
    instructions, labels = listing.instructions, listing.labels
    following = [None] * len(instructions)
    meeting = [frozenset()] * len(instructions)  # (barrier, index where it lets lanes go on)
    work = [(0, frozenset())]
    while work:
        index, barriers = work.pop()
        if index >= len(instructions):
            continue
        if following[index] is not None and barriers <= meeting[index]:
            continue
        barriers = meeting[index] = barriers | meeting[index]
        instruction = instructions[index]
        name, operands = instruction.name, instruction.operands
        after = [index + 1]
        if name == "BSSY":
            barrier = operands.split(",")[0]
            barriers = frozenset(b for b in barriers if b[0] != barrier)
            barriers |= {(barrier, labels[instruction.target])}
        elif name == "BSYNC":
            after = [there for barrier, there in barriers if barrier == operands] or after
        elif name == "BRA" and ".DIV" not in instruction.opcode:
            always = instruction.predicate is None and operands.startswith("`")
            after = [labels[instruction.target]] + ([] if always else after)
        elif name in ("EXIT", "BPT") and instruction.predicate is None:
            after = []
        elif name == "CALL":  # of a function that is not counted, or a jump within this one
            after += [labels[instruction.target]] if instruction.target in labels else []
        elif name in ("BRX", "JMX", "RET"):
            raise ValueError(f"{instruction.opcode} {operands}: where it leads is not known")
        after = [i for i in after if i < len(instructions) and instructions[i].name != "BPT"]
        following[index] = sorted(set(after) | set(following[index] or ()))
        work += [(i, barriers) for i in after]
    return following


class Graph:
    """Blocks of instructions, numbered in the order of the listing."""

    def __init__(self, listing):
        self.listing = listing
        following = successors(listing)
        starts = {0}
        for index, after in enumerate(following):
            if after is not None and (after != [index + 1] or
                                      listing.instructions[index].name == "EXIT"):
                starts |= {index + 1, *after}
        starts = sorted(start for start in starts
                        if start < len(following) and following[start] is not None)
        number = {start: block for block, start in enumerate(starts)}
        self.ranges, self.after, self.before = [], [], [[] for _ in starts]
        for start in starts:
            end = start + 1
            while end < len(following) and end not in number and following[end] is not None:
                end += 1
            self.ranges.append(range(start, end))
            self.after.append([number[i] for i in following[end - 1]])
        for block, after in enumerate(self.after):
            for other in after:
                self.before[other].append(block)
        self.order = reversed_postorder(0, self.after)
        self.dominators = dominators(self.order, self.before)
        self.loops = self.find_loops()

    def instructions(self, block):
        return self.listing.instructions[self.ranges[block].start:self.ranges[block].stop]

    def last(self, block):
        return self.listing.instructions[self.ranges[block].stop - 1]

    def find_loops(self):
        """{header: its loop}"""
        loops = {}
        for block in self.order:
            for header in self.after[block]:
                if not dominates(self.dominators, header, block):
                    continue
                loop = loops.setdefault(header, Loop(header))
                loop.latches.append(block)
                work = [block]
                while work:
                    inside = work.pop()
                    if inside not in loop.blocks:
                        loop.blocks.add(inside)
                        work += self.before[inside]
        return loops

    def frames_of(self, loop):
        """Where the source has the loop: what its branch back belongs to."""
        return self.last(max(loop.latches)).frames


class Loop:
    def __init__(self, header):
        self.header = header
        self.blocks = {header}
        self.latches = []


def reverse(after):
    before = {block: [] for block in after}
    for block, others in after.items():
        for other in others:
            before[other].append(block)
    return before


def reversed_postorder(root, after):
    order, seen, work = [], {root}, [(root, iter(after[root]))]
    while work:
        block, rest = work[-1]
        step = next((other for other in rest if other not in seen), None)
        if step is None:
            order.append(block)
            work.pop()
        else:
            seen.add(step)
            work.append((step, iter(after[step])))
    return order[::-1]


def dominators(order, before):
    """{block: the nearest other block on every way to it}; for the first block itself.

    Cooper, Harvey and Kennedy, "A simple, fast dominance algorithm", 2001.
    """
    rank = {block: i for i, block in enumerate(order)}
    nearest = {order[0]: order[0]}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            common = None
            for other in before[block]:
                if other not in nearest:
                    continue
                if common is None:
                    common = other
                    continue
                while common != other:
                    if rank[common] > rank[other]:
                        common = nearest[common]
                    else:
                        other = nearest[other]
            if nearest.get(block) != common:
                nearest[block] = common
                changed = True
    return nearest


def dominates(nearest, above, block):
    while block != above and nearest[block] != block:
        block = nearest[block]
    return block == above


class Region:
    """What is counted: a round of a loop or a whole kernel, as a graph without back edges."""

    def __init__(self, graph, loop=None):
        self.graph = graph
        inside = loop.blocks if loop else set(graph.order)
        self.root = loop.header if loop else 0
        self.loops = [inner for inner in graph.loops.values()
                      if inner is not loop and inner.blocks <= inside]
        end = len(graph.after)  # one more block, behind all that lead out
        back = {(latch, inner.header) for inner in graph.loops.values() for latch in inner.latches}
        self.after = {block: [other for other in graph.after[block]
                              if other in inside and (block, other) not in back]
                      for block in graph.order if block in inside}
        def ways_out(left):
            out = [other for block in left.blocks for other in graph.after[block]
                   if other in inside - left.blocks and (block, other) not in back]
            around = [other for other in self.loops if other.blocks > left.blocks]
            if out or not around:
                return out
            return ways_out(min(around, key=lambda other: len(other.blocks)))

        for inner in self.loops:  # loops that are left elsewhere than at their end
            for latch in inner.latches:
                self.after[latch] = self.after[latch] or ways_out(inner)
        for block in self.after:
            if block in loop.latches if loop else graph.last(block).name == "EXIT":
                self.after[block].append(end)
        self.after[end] = []
        # Blocks that lead to a trap and to no end are left out.
        leading = set(reversed_postorder(end, reverse(self.after)))
        self.empty = self.root not in leading
        self.after = {block: [other for other in after if other in leading]
                      for block, after in self.after.items() if block in leading}
        if self.empty:
            return
        self.before = reverse(self.after)
        self.order = reversed_postorder(self.root, self.after)
        self.dominators = dominators(self.order, self.before)
        self.meetings = dominators(reversed_postorder(end, self.before), self.after)
        self.end = end

    def blocks(self):
        return [block for block in self.order if block != self.end]

    def guarded(self, block):
        """The sides of a branch that are not the block where all of them meet again."""
        meeting = self.meetings.get(block)
        return [other for other in self.after[block] if other != meeting]

    def shares(self, share_of_branch):
        """{block: how likely a warp comes to it in a round of all loops around it}

        share_of_branch(block, side) is how likely that guarded side of a block's branch is taken.
        """
        share = {self.root: 1.0}
        for block in self.order[1:]:
            above = self.dominators[block]
            if dominates(self.meetings, block, above):
                share[block] = share[above]
                continue
            ways = 0.0
            for other in self.before[block]:
                guarded = len(self.after[other]) > 1 and block in self.guarded(other)
                ways += share[other] * (share_of_branch(other, block) if guarded else 1)
            share[block] = min(share[above], ways)
        return share


def counters(instructions):
    """[({registers of a loop's counter}, what it goes up by, or down)]"""
    copies = {(i.operands.split(", ")[0], i.operands.split(", ")[-1]) for i in instructions
              if re.match(r"MOV$|UMOV$|IMAD\.MOV", i.opcode)}
    found = []
    for instruction in instructions:
        if not re.match(r"VIADD$|U?IADD3$", instruction.opcode):
            continue
        addition = re.match(
            r"(U?R\d+), (?:PT, PT, )?(U?R\d+)(?:\.reuse)?, (-?0x[0-9a-f]+)(, U?RZ)?$",
            instruction.operands)
        if addition and (addition[1] == addition[2] or (addition[2], addition[1]) in copies):
            added = int(addition[3], 16)
            added = abs(added - (1 << 32 if added >> 31 > 0 else 0))
            found.append(({addition[1], addition[2]}, added))
    return found


def rounds_at_once(graph, loop, step):
    """How many of the source's rounds a round of the loop makes: what the counter in the loop's end
    condition goes up by, divided by the source's step. 1 where no counter is found."""
    inside = [i for block in sorted(loop.blocks) for i in graph.instructions(block)]
    inner = set().union(*(other.blocks for other in graph.loops.values()
                          if other.blocks < loop.blocks))
    additions = counters([i for block in loop.blocks - inner for i in graph.instructions(block)])
    for block in loop.blocks:
        branch = graph.last(block)
        condition = branch.predicate or branch.operands.split(",")[0]  # BRA.U UP0, ..
        if loop.blocks.issuperset(graph.after[block]):
            continue
        ends = inside.index(branch)
        for compare in reversed(inside[:ends]):
            if "SETP" in compare.name and compare.operands.startswith(condition.lstrip("!") + ","):
                break
        else:
            continue
        compared = set(re.findall(r"\bU?R\d+\b", compare.operands))
        # The largest, because single rounds within an unrolled one add less. No compiler unrolls
        # more than 16 rounds.
        return max((added // step for counter, added in additions
                    if counter & compared and added % step == 0 and added <= 16 * step), default=1)
    return 1
