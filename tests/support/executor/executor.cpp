// SPDX-License-Identifier: MIT
#include "tests/support/executor/executor.hpp"

#include <boost/context/fiber.hpp>
#include <boost/context/preallocated.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define NCA_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NCA_ADDRESS_SANITIZER 1
#endif
#endif
#ifdef NCA_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace nca::executor {
namespace {

using boost::context::fiber;

#ifdef NCA_ADDRESS_SANITIZER
constexpr bool address_sanitizer = true;
constexpr std::size_t stack_bytes = 256 << 10;  // its frames are larger
#else
constexpr bool address_sanitizer = false;
constexpr std::size_t stack_bytes = 128 << 10;
#endif

std::atomic<Order> the_order = Order::forward;
std::atomic<Interleaving> the_interleaving = Interleaving::by_barrier;

// A stack, as address sanitizer has to be told of it at each switch.
struct Stack {
    const void* bottom = nullptr;
    std::size_t size = 0;
    void* fake = nullptr;
};

// Guarded stacks. The sanitizer's marks on one go with it: its addresses will be other memory.
class StackAllocator {
public:
    boost::context::stack_context allocate() { return allocator_.allocate(); }
    void deallocate(boost::context::stack_context& stack) {
#ifdef NCA_ADDRESS_SANITIZER
        __asan_unpoison_memory_region(static_cast<char*>(stack.sp) - stack.size, stack.size);
#endif
        allocator_.deallocate(stack);
    }

private:
    boost::context::protected_fixedsize_stack allocator_{stack_bytes};
};

// To be called before each switch.
void leave_stack([[maybe_unused]] Stack& from, [[maybe_unused]] const Stack& to) {
#ifdef NCA_ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(&from.fake, to.bottom, to.size);
#endif
}

// To be called after each switch; fills in where it came from.
void enter_stack([[maybe_unused]] const Stack& here, [[maybe_unused]] Stack* from) {
#ifdef NCA_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(here.fake, from ? &from->bottom : nullptr,
                                    from ? &from->size : nullptr);
#endif
}

enum class State { ready, at_warp_barrier, at_block_barrier, polling, finished };

struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
};

struct Block;
struct Warp;

struct Lane {
    fiber rest;  // where it goes on
    State state = State::finished;
    bool exchanges = false;  // at a warp barrier that is a collective
    bool news = false;       // since it was resumed: it has read or changed what others wait for
    uint3 thread{};
    Block* block = nullptr;
    Warp* warp = nullptr;
    int in_warp = 0;
    int byte_set = 0;  // of the warp's two, for its next exchange of bytes
    Place place{};
    std::vector<Copy> copies;
    std::map<const void*, std::uint32_t> polled;  // what it has read since its last barrier
    Stack stack;

    bool waits() const {
        return state == State::at_warp_barrier || state == State::at_block_barrier;
    }
};

// Thrown inside the lanes of a block that another lane's exception ends.
struct Cancelled {};

// A block's shared memory, fenced in. Address sanitizer fences every allocation.
class Arena {
public:
    explicit Arena(std::size_t bytes) : bytes_(bytes) {
        void* memory = nullptr;
        if (posix_memalign(&memory, alignment, fence + bytes + fence) != 0) throw std::bad_alloc();
        memory_.reset(static_cast<unsigned char*>(memory));
        std::memset(memory_.get(), fence_byte, fence);
        std::memset(memory_.get() + fence, 0xff, bytes);
        std::memset(memory_.get() + fence + bytes, fence_byte, fence);
    }

    void* data() const { return memory_.get() + fence; }
    std::size_t bytes() const { return bytes_; }
    bool fences_intact() const {
        const auto intact = [](const unsigned char* at) {
            return std::all_of(at, at + fence, [](unsigned char b) { return b == fence_byte; });
        };
        return intact(memory_.get()) && intact(memory_.get() + fence + bytes_);
    }

private:
    struct Free {
        void operator()(unsigned char* memory) const { std::free(memory); }
    };
    static constexpr std::size_t alignment = 128;
    static constexpr std::size_t fence = address_sanitizer ? 0 : 1024;
    static constexpr unsigned char fence_byte = 0x5a;

    std::unique_ptr<unsigned char[], Free> memory_;
    std::size_t bytes_;
};

std::string text(const uint3& v) {
    return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) +
           ")";
}

std::string text(const Place& place) {
    return std::string(place.what) + ", " + place.file + ":" + std::to_string(place.line);
}

std::string text(const Lane& lane) {
    return "thread " + text(lane.thread) + " at " + text(lane.place);
}

bool same(const Place& a, const Place& b) {
    return a.line == b.line && std::strcmp(a.what, b.what) == 0 &&
           (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

// What the lanes of a warp bring to a collective. Lanes that go on may bring their next values
// before others have read these, hence two sets; they cannot bring the values after that.
struct Warp {
    int first = 0;  // of its lanes in the block
    int lanes = 0;
    int set = 0;  // of values
    std::uint64_t values[2][warpSize];
    alignas(16) unsigned char bytes[2][warpSize][exchanged_bytes];
};

// A block that is resident.
struct Block {
    uint3 index{};
    std::optional<Arena> arena;
    std::span<const std::unique_ptr<Lane>> lanes;
    std::vector<Warp> warps;
    bool finished = false;
};

bool any_in(std::span<const std::unique_ptr<Lane>> lanes, State state) {
    return std::ranges::any_of(lanes, [=](const auto& lane) { return lane->state == state; });
}

bool all_finished(std::span<const std::unique_ptr<Lane>> lanes) {
    return std::ranges::all_of(lanes,
                               [](const auto& lane) { return lane->state == State::finished; });
}

uint3 position(std::uint64_t i, const dim3& extent) {
    const std::uint64_t rest = i / extent.x;
    return {unsigned(i % extent.x), unsigned(rest % extent.y), unsigned(rest / extent.y)};
}

// Two maps of the process for each stack, of the 65,530 that Linux allows.
constexpr std::uint64_t most_lanes = 64 * 256;

// A kernel that polls may read what it has read before, because it asks for less; so many rounds
// in which all lanes did no more than that are a deadlock.
constexpr int patience = 100;

// Runs the blocks of one OS thread. Its fibers live as long as that thread, and run one CUDA
// thread after the other.
class Multiprocessor {
public:
    Multiprocessor() = default;
    ~Multiprocessor() {
        leaving_ = true;
        for (const auto& lane : lanes_) resume(*lane);
    }
    Multiprocessor(const Multiprocessor&) = delete;
    Multiprocessor& operator=(const Multiprocessor&) = delete;

    void run(const Launch& launch);

    // For the lane that runs.
    void block_barrier(const Place& place) { suspend(State::at_block_barrier, place); }
    void warp_barrier(const Place& place, bool exchanges) {
        current_->exchanges = exchanges;
        suspend(State::at_warp_barrier, place);
    }
    Exchange exchange(std::uint64_t value, const Place& place) {
        Warp& warp = *current_->warp;
        std::uint64_t* const values = warp.values[warp.set];
        values[current_->in_warp] = value;
        warp_barrier(place, true);
        return {values, current_->in_warp, warp.lanes};
    }
    ByteExchange exchange_bytes(const void* own, std::size_t bytes, const Place& place);
    void release_flag(std::uint32_t* flag, std::uint32_t value) {
        current_->news |= *flag != value;
        *flag = value;
    }
    std::uint32_t acquire_flag(const std::uint32_t* flag, const Place& place);

    Lane& current() { return *current_; }
    const Arena& arena() const { return *current_->block->arena; }
    [[noreturn]] void fail(const std::string& what) const { fail(*current_->block, what); }

private:
    void add_lane();
    fiber live(Lane& lane, fiber scheduler);
    void resume(Lane& lane);
    void suspend(State state, const Place& place);
    [[noreturn]] void fail(const Block& block, const std::string& what) const;

    void make_resident(std::size_t slot, const uint3& index);
    void run_resident();
    bool run_round();
    bool take_turn(Block& block);
    void run_warp(Block& block, Warp& warp);
    void resume_ready(Lane& lane);
    void pass_block_barrier(Block& block);
    void finish(Block& block);
    void check_together(const Block& block, std::span<const std::unique_ptr<Lane>> lanes) const;
    [[noreturn]] void fail_for_deadlock() const;
    void cancel() noexcept;

    // The i-th of so many in the order of this run.
    template <class Integer>
    Integer nth(Integer i, Integer count) const {
        return reverse_ ? count - 1 - i : i;
    }

    std::vector<std::unique_ptr<Lane>> lanes_;
    fiber scheduler_;
    Stack scheduler_stack_;
    Lane* current_ = nullptr;
    bool cancelling_ = false;
    bool leaving_ = false;
    std::exception_ptr thrown_;

    const Launch* launch_ = nullptr;
    bool reverse_ = false;
    Interleaving interleaving_ = Interleaving::by_barrier;
    int threads_ = 0;                             // of a block
    std::vector<std::unique_ptr<Block>> blocks_;  // as many as were ever resident
    std::size_t resident_ = 0;                    // the first so many of them
    bool progress_ = false;                       // in this turn
};

constinit thread_local Multiprocessor* running = nullptr;

void Multiprocessor::add_lane() {
    Lane& lane = *lanes_.emplace_back(std::make_unique<Lane>());
    StackAllocator allocator;
    const auto stack = allocator.allocate();
    lane.stack.bottom = static_cast<char*>(stack.sp) - stack.size;
    lane.stack.size = stack.size;
    const boost::context::preallocated all_of_it(stack.sp, stack.size, stack);
    // The fiber runs Boost's first few lines at once, and returns without a word.
    leave_stack(scheduler_stack_, lane.stack);
    lane.rest = fiber(std::allocator_arg, all_of_it, allocator, [this, &lane](fiber&& scheduler) {
        return live(lane, std::move(scheduler));
    });
    enter_stack(lane.stack, &scheduler_stack_);
    leave_stack(lane.stack, scheduler_stack_);
    enter_stack(scheduler_stack_, nullptr);
}

fiber Multiprocessor::live(Lane& lane, fiber scheduler) {
    enter_stack(lane.stack, &scheduler_stack_);
    scheduler_ = std::move(scheduler);
    while (!leaving_) {
        try {
            if (!cancelling_) launch_->thread();
        } catch (const Cancelled&) {
        } catch (...) {
            thrown_ = std::current_exception();
        }
        lane.copies.clear();
        lane.state = State::finished;
        leave_stack(lane.stack, scheduler_stack_);
        scheduler_ = std::move(scheduler_).resume();
        enter_stack(lane.stack, &scheduler_stack_);
    }
    leave_stack(lane.stack, scheduler_stack_);
    return std::move(scheduler_);
}

void Multiprocessor::resume(Lane& lane) {
    current_ = &lane;
    threadIdx = lane.thread;
    if (lane.block) blockIdx = lane.block->index;
    leave_stack(scheduler_stack_, lane.stack);
    lane.rest = std::move(lane.rest).resume();
    enter_stack(scheduler_stack_, nullptr);
}

void Multiprocessor::suspend(State state, const Place& place) {
    Lane& lane = *current_;
    lane.place = place;
    lane.state = state;
    leave_stack(lane.stack, scheduler_stack_);
    scheduler_ = std::move(scheduler_).resume();
    enter_stack(lane.stack, &scheduler_stack_);
    if (cancelling_) throw Cancelled{};
}

ByteExchange Multiprocessor::exchange_bytes(const void* own, std::size_t bytes,
                                            const Place& place) {
    Lane& lane = *current_;
    if (lane.warp->lanes != warpSize) fail(text(place) + ": only full warps can do this");
    if (bytes > exchanged_bytes) fail(text(place) + ": " + std::to_string(bytes) + " bytes");
    auto* const set = lane.warp->bytes[lane.byte_set];
    lane.byte_set = 1 - lane.byte_set;
    std::memcpy(set[lane.in_warp], own, bytes);
    warp_barrier(place, true);
    return {set, lane.in_warp};
}

std::uint32_t Multiprocessor::acquire_flag(const std::uint32_t* flag, const Place& place) {
    suspend(State::polling, place);
    const auto [before, first] = current_->polled.try_emplace(flag, *flag);
    current_->news |= first || before->second != *flag;
    return before->second = *flag;
}

void Multiprocessor::fail(const Block& block, const std::string& what) const {
    throw std::logic_error("kernel " + launch_->kernel + ", block " + text(block.index) + ": " +
                           what);
}

void Multiprocessor::run(const Launch& launch) {
    launch_ = &launch;
    reverse_ = order() == Order::reverse;
    interleaving_ = interleaving();
    blockDim = launch.block;
    gridDim = launch.grid;
    threads_ = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    const std::uint64_t blocks = std::uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    const std::uint64_t together = launch.cooperative ? blocks : 1;
    if (together * threads_ > most_lanes) {
        throw std::logic_error("kernel " + launch.kernel + ": " + std::to_string(together) +
                               " blocks of " + std::to_string(threads_) +
                               " threads at once; the executor can run " +
                               std::to_string(most_lanes) + " threads at once");
    }
    while (lanes_.size() < together * threads_) add_lane();
    while (blocks_.size() < together) blocks_.push_back(std::make_unique<Block>());
    resident_ = together;
    for (std::uint64_t first = 0; first < blocks; first += together) {
        for (std::uint64_t i = 0; i < together; ++i) {
            make_resident(i, position(nth(first + i, blocks), launch.grid));
        }
        run_resident();
    }
}

void Multiprocessor::make_resident(std::size_t slot, const uint3& index) {
    Block& block = *blocks_[slot];
    block.index = index;
    block.arena.emplace(launch_->shared_bytes);
    block.lanes = std::span(lanes_).subspan(slot * threads_, threads_);
    block.warps.resize((threads_ + warpSize - 1) / warpSize);
    block.finished = false;
    for (int i = 0; i < threads_; ++i) {
        Lane& lane = *block.lanes[i];
        lane.state = State::ready;
        lane.thread = position(i, launch_->block);
        lane.block = &block;
        lane.warp = &block.warps[i / warpSize];
        lane.warp->first = i / warpSize * warpSize;
        lane.warp->lanes = std::min(warpSize, threads_ - lane.warp->first);
        lane.in_warp = i % warpSize;
        lane.byte_set = 0;
        lane.polled.clear();
    }
}

// Runs the blocks that are resident to their ends.
void Multiprocessor::run_resident() {
    const auto finished = [](const auto& block) { return block->finished; };
    const std::span<const std::unique_ptr<Block>> blocks = std::span(blocks_).first(resident_);
    try {
        for (int idle = 0; !std::ranges::all_of(blocks, finished);) {
            idle = run_round() ? 0 : idle + 1;
            if (idle == patience) fail_for_deadlock();
        }
    } catch (...) {
        cancel();
        throw;
    }
}

// A turn for each block. Blocks lie in the order of this run. False where nothing has happened.
bool Multiprocessor::run_round() {
    bool progress = false;
    const auto give_turn = [&](Block& block, bool again) {
        while (take_turn(block)) {
            progress = true;
            if (!again) break;
        }
    };
    const bool first_is_late = interleaving_ == Interleaving::one_block_late;
    for (std::size_t i = first_is_late; i < resident_; ++i) {
        give_turn(*blocks_[i], interleaving_ == Interleaving::as_far_as_possible);
    }
    if (first_is_late && !progress) give_turn(*blocks_[0], false);
    return progress;
}

// Runs the block until all its threads wait at a barrier or poll, each of them once. False where
// that was all they did.
bool Multiprocessor::take_turn(Block& block) {
    if (block.finished) return false;
    progress_ = false;
    const int warps = static_cast<int>(block.warps.size());
    for (int i = 0; i < warps; ++i) run_warp(block, block.warps[nth(i, warps)]);
    check_together(block, block.lanes);
    if (all_finished(block.lanes)) {
        finish(block);
    } else {
        pass_block_barrier(block);
    }
    return progress_;
}

void Multiprocessor::run_warp(Block& block, Warp& warp) {
    const auto lanes = block.lanes.subspan(warp.first, warp.lanes);
    const auto nth_lane = [&](int i) -> Lane& { return *lanes[nth(i, warp.lanes)]; };
    for (int i = 0; i < warp.lanes; ++i) {
        if (nth_lane(i).state == State::polling) resume_ready(nth_lane(i));
    }
    for (;;) {
        for (int i = 0; i < warp.lanes; ++i) {
            if (nth_lane(i).state == State::ready) resume_ready(nth_lane(i));
        }
        const auto at_barrier = std::ranges::find(lanes, State::at_warp_barrier, &Lane::state);
        if (at_barrier == lanes.end()) return;
        check_together(block, lanes);
        if (any_in(lanes, State::polling)) return;
        const auto finished = std::ranges::find(lanes, State::finished, &Lane::state);
        if ((*at_barrier)->exchanges && finished != lanes.end()) {
            fail(block, text(**at_barrier) + " waits for thread " + text((*finished)->thread) +
                            ", which has finished");
        }
        for (const auto& lane : lanes) {
            if (lane->state != State::finished) lane->state = State::ready;
        }
        warp.set = 1 - warp.set;
    }
}

void Multiprocessor::resume_ready(Lane& lane) {
    const bool polled = lane.state == State::polling;
    lane.news = false;
    resume(lane);
    if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
    if (lane.state != State::polling) lane.polled.clear();
    if (!polled || lane.state != State::polling || lane.news) progress_ = true;
}

// Where all threads that have not finished wait at one.
void Multiprocessor::pass_block_barrier(Block& block) {
    const bool all = std::ranges::all_of(block.lanes, [](const auto& lane) {
        return lane->state == State::at_block_barrier || lane->state == State::finished;
    });
    if (!all) return;
    for (const auto& lane : block.lanes) {
        if (lane->state != State::finished) lane->state = State::ready;
    }
}

void Multiprocessor::finish(Block& block) {
    block.finished = true;
    if (!block.arena->fences_intact()) {
        fail(block, "wrote beyond its " + std::to_string(block.arena->bytes()) +
                        " bytes of shared memory");
    }
    block.arena.reset();
}

// All threads that wait must wait at the same barrier.
void Multiprocessor::check_together(const Block& block,
                                    std::span<const std::unique_ptr<Lane>> lanes) const {
    const Lane* one = nullptr;
    for (const auto& lane : lanes) {
        if (!lane->waits()) continue;
        if (!one) one = lane.get();
        if (!same(lane->place, one->place)) {
            fail(block, "threads wait at different barriers: " + text(*one) + "; " + text(*lane));
        }
    }
}

void Multiprocessor::fail_for_deadlock() const {
    for (std::size_t i = 0; i < resident_; ++i) {
        const auto lanes = blocks_[i]->lanes;
        const auto polling = std::ranges::find(lanes, State::polling, &Lane::state);
        if (polling == lanes.end()) continue;
        fail(*blocks_[i], text(**polling) + " waits for what no thread can bring about any more");
    }
    throw std::logic_error("kernel " + launch_->kernel + ": no thread can go on");
}

// Ends the threads that have not finished.
void Multiprocessor::cancel() noexcept {
    cancelling_ = true;
    for (std::size_t i = 0; i < resident_ * threads_; ++i) {
        if (lanes_[i]->state != State::finished) resume(*lanes_[i]);
    }
    cancelling_ = false;
    thrown_ = nullptr;
}

Multiprocessor& inside_kernel(const char* what) {
    if (!running) throw std::logic_error(std::string(what) + " outside of a kernel");
    return *running;
}

void require_full(const Multiprocessor& block, unsigned mask, const Place& place) {
    if (mask != ~0U) block.fail(text(place) + ": only masks of a full warp can be run");
}

}  // namespace

void set_order(Order order) { the_order = order; }
Order order() { return the_order; }
void set_interleaving(Interleaving interleaving) { the_interleaving = interleaving; }
Interleaving interleaving() { return the_interleaving; }

void* shared_arena() {
    Multiprocessor& block = inside_kernel("shared_arena");
    if (block.arena().bytes() == 0) block.fail("has no shared memory");
    return block.arena().data();
}

void defer_copy(void* shared, const void* global, std::size_t bytes) {
    Multiprocessor& block = inside_kernel("defer_copy");
    const auto aligned = [bytes](const void* at) {
        return reinterpret_cast<std::uintptr_t>(at) % bytes == 0;
    };
    if (bytes != 4 && bytes != 8 && bytes != 16) block.fail("copies that are not 4, 8, 16 bytes");
    if (!aligned(shared) || !aligned(global)) block.fail("a copy that is not aligned to its size");
    if (the_order == Order::reverse) {
        std::memcpy(shared, global, bytes);
    } else {
        block.current().copies.push_back({shared, global, bytes});
    }
}

void finish_copies() {
    std::vector<Copy>& copies = inside_kernel("finish_copies").current().copies;
    for (const Copy& copy : copies) std::memcpy(copy.to, copy.from, copy.bytes);
    copies.clear();
}

void block_barrier(const Place& place) { inside_kernel(place.what).block_barrier(place); }

void warp_barrier(unsigned mask, const Place& place) {
    Multiprocessor& block = inside_kernel(place.what);
    require_full(block, mask, place);
    block.warp_barrier(place, false);
}

Exchange exchange(unsigned mask, std::uint64_t value, const Place& place) {
    Multiprocessor& block = inside_kernel(place.what);
    require_full(block, mask, place);
    return block.exchange(value, place);
}

ByteExchange exchange_bytes(const void* own, std::size_t bytes, const Place& place) {
    return inside_kernel(place.what).exchange_bytes(own, bytes, place);
}

void release_flag(std::uint32_t* flag, std::uint32_t value) {
    inside_kernel("release_flag").release_flag(flag, value);
}

std::uint32_t acquire_flag(const std::uint32_t* flag, const Place& place) {
    return inside_kernel(place.what).acquire_flag(flag, place);
}

void refuse_source_lane(int source, const Place& place) {
    inside_kernel(place.what)
        .fail(text(place) + " reads lane " + std::to_string(source) + ", which the warp lacks");
}

void run(const Launch& launch) {
    thread_local Multiprocessor multiprocessor;
    if (running) throw std::logic_error("a kernel waits for other kernels");
    struct Running {
        ~Running() { running = nullptr; }
    } const until_the_end;
    running = &multiprocessor;
    multiprocessor.run(launch);
}

}  // namespace nca::executor
