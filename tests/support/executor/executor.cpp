// SPDX-License-Identifier: MIT
#include "tests/support/executor/executor.hpp"

#include "tests/support/executor/memory.hpp"

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
constexpr std::size_t stack_bytes = 256 << 10;  // frames are larger with it
#else
constexpr bool address_sanitizer = false;
constexpr std::size_t stack_bytes = 128 << 10;
#endif

std::atomic<Order> the_order = Order::forward;
std::atomic<Interleaving> the_interleaving = Interleaving::by_barrier;
std::atomic<std::uint64_t> the_seed = 0;

// Random numbers, the same on all machines (SplitMix64).
class Chance {
public:
    explicit Chance(std::uint64_t seed) : state_(seed) {}

    // A number in 0 .. count - 1.
    std::size_t below(std::size_t count) {
        state_ += 0x9e3779b97f4a7c15;
        std::uint64_t x = state_;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
        x = (x ^ x >> 27) * 0x94d049bb133111eb;
        return (x ^ x >> 31) % count;
    }
    template <class T>
    void shuffle(std::vector<T>& values) {
        for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(i)]);
    }

private:
    std::uint64_t state_;
};

// A stack as it is described to address sanitizer at each switch.
struct Stack {
    const void* bottom = nullptr;
    std::size_t size = 0;
    void* fake = nullptr;
};

// Stacks with guard pages. A stack that is freed loses the sanitizer's marks: its addresses will be
// other memory.
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

// Call this before each switch.
void leave_stack([[maybe_unused]] Stack& from, [[maybe_unused]] const Stack& to) {
#ifdef NCA_ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(&from.fake, to.bottom, to.size);
#endif
}

// Call this after each switch. Fills in the stack that it came from.
void enter_stack([[maybe_unused]] const Stack& here, [[maybe_unused]] Stack* from) {
#ifdef NCA_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(here.fake, from ? &from->bottom : nullptr,
                                    from ? &from->size : nullptr);
#endif
}

enum class State {
    ready,
    at_warp_barrier,
    at_block_barrier,
    at_cluster_barrier,
    polling,
    finished
};

struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
    bool done;
};

// A bulk store to global memory whose value has been read.
struct BulkStore {
    void* to;
    std::vector<unsigned char> value;
};

// An arrival barrier. Its phase is complete when no arrivals and no bytes are pending.
struct Arrivals {
    unsigned arrivals = 0;  // per phase
    unsigned pending = 0;   // in this phase
    int bytes = 0;          // pending; negative where some came before they were expected
    unsigned parity = 0;    // of this phase

    void complete_if_due() {
        if (pending != 0 || bytes != 0) return;
        parity = 1 - parity;
        pending = arrivals;
    }
};

// An asynchronous store or bulk load that has not arrived yet.
struct Store {
    void* to;
    unsigned char value[16];
    const void* from;  // of a load, whose value is read later; else null
    std::size_t bytes;
    Arrivals* barrier;
};

struct Block;
struct Warp;

struct Lane {
    fiber rest;  // the rest of its run
    State state = State::finished;
    bool exchanges = false;  // at a warp barrier that is a collective
    bool news = false;       // since it was resumed: it has read or changed what others wait for
    unsigned thread = 0;
    Block* block = nullptr;
    Warp* warp = nullptr;
    int in_warp = 0;
    int piece_set = 0;  // which of the warp's two pieces it uses next
    CallSite place{};
    std::vector<Copy> copies;
    std::vector<std::size_t> copy_groups;         // number of copies at the end of each group
    std::vector<Copy> unread_stores;              // bulk stores
    std::vector<BulkStore> stores_to_end;         // bulk stores that have been read
    std::map<const void*, std::uint32_t> polled;  // values that it has read since its last barrier
    const Arrivals* awaited = nullptr;
    Stack stack;

    bool waits() const {
        return state == State::at_warp_barrier || state == State::at_block_barrier ||
               state == State::at_cluster_barrier;
    }
};

// Thrown in the lanes of a block after another lane has thrown, to end them.
struct Cancelled {};

// A block's shared memory with a fence at each end. Address sanitizer has its own fences.
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
    bool holds(const void* begin, std::size_t bytes) const {
        const auto at = reinterpret_cast<std::uintptr_t>(begin);
        const auto first = reinterpret_cast<std::uintptr_t>(data());
        return bytes <= bytes_ && at >= first && at - first <= bytes_ - bytes;
    }
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

std::string text(const CallSite& place) {
    return std::string(place.what) + ", " + place.file + ":" + std::to_string(place.line);
}

std::string text(const Lane& lane) {
    return "thread " + std::to_string(lane.thread) + " at " + text(lane.place);
}

std::string text(const Arrivals& barrier) {
    return std::to_string(barrier.pending) + " arrivals and " + std::to_string(barrier.bytes) +
           " bytes are pending";
}

bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }
bool same(const CallSite& a, const CallSite& b) {
    return a.line == b.line && same(a.what, b.what) && same(a.file, b.file);
}

// The pieces of all lanes of a warp for together().
struct Pieces {
    alignas(16) unsigned char bytes[warpSize * piece_bytes];
    void (*work)(void*) = nullptr;
    int brought = 0;
    bool mixed = false;  // not all lanes have the same work
};

// The values of all lanes of a warp for a collective. There are two sets, because a lane may bring
// its next value before the others have read these; it cannot bring the one after that.
struct Warp {
    int first = 0;  // its first lane in the block
    int lanes = 0;
    int late = 0;  // rounds that it will skip
    int set = 0;   // of values, the current one
    std::uint64_t values[2][warpSize];
    Pieces pieces[2];
};

// A resident block.
struct Block {
    unsigned index = 0;
    std::optional<Arena> arena;
    std::span<const std::unique_ptr<Lane>> lanes;
    std::vector<Warp> warps;
    bool finished = false;
    int late = 0;  // rounds that it will skip

    unsigned rank = 0;                                // its rank in the cluster
    std::span<const std::unique_ptr<Block>> cluster;  // in the order of this run
    std::span<const std::unique_ptr<Lane>> cluster_lanes;
    std::map<const void*, Arrivals> barriers;
    std::vector<Store> stores;  // into its shared memory, in the order of issue
    bool has_fenced = false;    // a thread has called fence_async_proxy
    bool has_loaded = false;    // a thread has called bulk_load
};

// What the memory of an arrival barrier holds. Its state is kept elsewhere; a missing mark shows a
// barrier that was not initialized or has been written over.
constexpr std::uint64_t barrier_mark = 0x6d62617272696572;
constexpr unsigned most_arrivals = (1U << 20) - 1;  // and bytes

bool any_in(std::span<const std::unique_ptr<Lane>> lanes, State state) {
    return std::ranges::any_of(lanes, [=](const auto& lane) { return lane->state == state; });
}

// Whether all are in this state or have finished.
bool all_in(std::span<const std::unique_ptr<Lane>> lanes, State state) {
    return std::ranges::all_of(lanes, [=](const auto& lane) {
        return lane->state == state || lane->state == State::finished;
    });
}

// Each stack takes two of the 65,530 memory maps that Linux allows a process.
constexpr std::uint64_t most_lanes = 64 * 256;

// A lane that polls may read the same value again and still go on, because it waits for less. So
// only this many rounds in which no lane does anything else count as a deadlock.
constexpr int patience = 100;

// In random interleaving one warp in 8 and one block in 16 falls behind, by up to 2^6 rounds.
constexpr int late_warps = 8;
constexpr int late_blocks = 16;
constexpr int most_late_log2 = 6;

// Runs the blocks of one OS thread. Its fibers live as long as that thread. Each fiber runs one
// CUDA thread after the other.
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

    // These are called by the running lane.
    void block_barrier(const CallSite& place) { suspend(State::at_block_barrier, place); }
    void warp_barrier(const CallSite& place, bool exchanges) {
        current_->exchanges = exchanges;
        suspend(State::at_warp_barrier, place);
    }
    Exchange exchange(std::uint64_t value, const CallSite& place) {
        Warp& warp = *current_->warp;
        std::uint64_t* const values = warp.values[warp.set];
        values[current_->in_warp] = value;
        warp_barrier(place, true);
        return {values, current_->in_warp, warp.lanes};
    }
    void together(void* own, std::size_t bytes, void (*work)(void*), const CallSite& place);
    void defer_copy(const Copy& copy) {
        if (early()) {
            std::memcpy(copy.to, copy.from, copy.bytes);
        } else {
            current_->copies.push_back(copy);
        }
    }
    void require_shared(const void* begin, std::size_t bytes, const CallSite& place) const;
    void release_flag(std::uint32_t* flag, std::uint32_t value) {
        current_->news |= *flag != value;
        *flag = value;
    }
    std::uint32_t acquire_flag(const std::uint32_t* flag, const CallSite& place);

    void cluster_barrier(const CallSite& place) { suspend(State::at_cluster_barrier, place); }
    void init_arrivals(void* barrier, unsigned arrivals);
    void expect_bytes(void* barrier, unsigned bytes);
    void wait_arrivals(void* barrier, unsigned parity, const CallSite& place);
    void store_async(void* shared, const void* value, std::size_t bytes, void* barrier,
                     unsigned rank);

    void bulk_load(void* shared, const void* global, std::size_t bytes, void* barrier);
    void bulk_store(void* global, const void* shared, std::size_t bytes);
    void wait_bulk_reads();
    void wait_bulk_stores();
    void fence_async_proxy() { current_->block->has_fenced = true; }

    Lane& current() { return *current_; }
    const Block& block() const { return *current_->block; }
    const Arena& arena() const { return *current_->block->arena; }
    [[noreturn]] void fail(const std::string& what) const { fail(*current_->block, what); }

private:
    void add_lane();
    fiber live(Lane& lane, fiber scheduler);
    void resume(Lane& lane);
    void suspend(State state, const CallSite& place);
    void end_thread();
    [[noreturn]] void fail(const Block& block, const std::string& what) const;

    void require_bulk(const char* what, const void* shared, const void* global,
                      std::size_t bytes) const;
    Arrivals& arrivals(Block& block, void* barrier) const;
    void deliver(const Store& store) const;
    void deliver_late(Block& block, const Arrivals& barrier) const;

    void make_resident(std::size_t slot, std::uint64_t number);
    void run_resident();
    bool run_round();
    bool run_random_round();
    bool is_late(int& rounds, int odds);
    bool let_time_pass();
    bool take_turn(Block& block);
    void run_warp(Block& block, Warp& warp);
    void resume_ready(Lane& lane);
    void pass_barriers(const Block& block);
    void finish(Block& block);
    void check_together(std::span<const std::unique_ptr<Lane>> lanes, bool of_warp) const;
    [[noreturn]] void fail_for_deadlock() const;
    void cancel() noexcept;

    // Whether an asynchronous operation is done at once.
    bool early() {
        return interleaving_ == Interleaving::random ? chance_.below(2) == 0 : reverse_;
    }
    // The index of the i-th of `count` in the order of this run.
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
    Chance chance_{0};
    bool may_be_late_ = true;                     // warps and blocks, in this round
    int threads_ = 0;                             // in each block
    std::vector<std::unique_ptr<Block>> blocks_;  // as many as were resident at once so far
    std::size_t resident_ = 0;                    // how many of blocks_ are resident
    bool progress_ = false;                       // something happened in this turn
    std::vector<BulkStore> stores_to_end_;        // of threads that have finished
};

constinit thread_local Multiprocessor* running = nullptr;

void Multiprocessor::add_lane() {
    Lane& lane = *lanes_.emplace_back(std::make_unique<Lane>());
    StackAllocator allocator;
    const auto stack = allocator.allocate();
    lane.stack.bottom = static_cast<char*>(stack.sp) - stack.size;
    lane.stack.size = stack.size;
    const boost::context::preallocated all_of_it(stack.sp, stack.size, stack);
    // The fiber runs Boost's first few lines at once and returns here.
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
            if (!cancelling_) {
                launch_->thread();
                end_thread();
            }
        } catch (const Cancelled&) {
        } catch (...) {
            thrown_ = std::current_exception();
        }
        lane.copies.clear();
        lane.copy_groups.clear();
        lane.unread_stores.clear();
        lane.stores_to_end.clear();
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
    threadIdx.x = lane.thread;
    if (lane.block) blockIdx.x = lane.block->index;
    leave_stack(scheduler_stack_, lane.stack);
    lane.rest = std::move(lane.rest).resume();
    enter_stack(scheduler_stack_, nullptr);
}

void Multiprocessor::suspend(State state, const CallSite& place) {
    Lane& lane = *current_;
    lane.place = place;
    lane.state = state;
    leave_stack(lane.stack, scheduler_stack_);
    scheduler_ = std::move(scheduler_).resume();
    enter_stack(lane.stack, &scheduler_stack_);
    if (cancelling_) throw Cancelled{};
}

void Multiprocessor::together(void* own, std::size_t bytes, void (*work)(void*),
                              const CallSite& place) {
    Lane& lane = *current_;
    if (lane.warp->lanes != warpSize) fail(text(place) + ": only full warps can do this");
    Pieces& all = lane.warp->pieces[lane.piece_set];
    lane.piece_set = 1 - lane.piece_set;
    unsigned char* const piece = all.bytes + lane.in_warp * bytes;
    std::memcpy(piece, own, bytes);
    if (all.brought == 0) {
        all.work = work;
        all.mixed = false;
    }
    // Then they wait at different places, which check_together finds.
    all.mixed |= all.work != work;
    if (++all.brought == warpSize) {
        all.brought = 0;
        if (!all.mixed) work(all.bytes);
    }
    warp_barrier(place, true);
    std::memcpy(own, piece, bytes);
}

// Checks and keeps the thread's bulk stores.
void Multiprocessor::end_thread() {
    Lane& lane = *current_;
    if (!lane.unread_stores.empty()) {
        fail("thread " + std::to_string(lane.thread) +
             " has finished before its bulk stores have read " +
             "shared memory: it has not called wait_bulk_reads");
    }
    for (BulkStore& store : lane.stores_to_end) stores_to_end_.push_back(std::move(store));
}

void Multiprocessor::require_shared(const void* begin, std::size_t bytes,
                                    const CallSite& place) const {
    if (!arena().holds(begin, bytes)) fail(text(place) + ": outside of shared memory");
    if (reinterpret_cast<std::uintptr_t>(begin) % 16 != 0) {
        fail(text(place) + ": an address that is not a multiple of 16");
    }
}

std::uint32_t Multiprocessor::acquire_flag(const std::uint32_t* flag, const CallSite& place) {
    suspend(State::polling, place);
    const auto [before, first] = current_->polled.try_emplace(flag, *flag);
    current_->news |= first || before->second != *flag;
    return before->second = *flag;
}

void Multiprocessor::init_arrivals(void* barrier, unsigned arrivals) {
    Block& block = *current_->block;
    if (!block.arena->holds(barrier, sizeof barrier_mark)) {
        fail("an arrival barrier outside of shared memory");
    }
    if (arrivals == 0 || arrivals > most_arrivals) {
        fail("an arrival barrier for " + std::to_string(arrivals) + " arrivals");
    }
    const Arrivals fresh{.arrivals = arrivals, .pending = arrivals};
    if (!block.barriers.try_emplace(barrier, fresh).second) {
        fail("an arrival barrier is initialized again");
    }
    std::memcpy(barrier, &barrier_mark, sizeof barrier_mark);
}

void write(std::vector<BulkStore>& stores) {
    for (const BulkStore& store : stores) {
        std::memcpy(store.to, store.value.data(), store.value.size());
    }
    stores.clear();
}

Arrivals& Multiprocessor::arrivals(Block& block, void* barrier) const {
    const auto found = block.barriers.find(barrier);
    if (found == block.barriers.end()) {
        fail("uses an arrival barrier that block " + std::to_string(block.index) +
             " has not initialized");
    }
    if (std::memcmp(barrier, &barrier_mark, sizeof barrier_mark) != 0) {
        fail("an arrival barrier of block " + std::to_string(block.index) +
             " has been written over");
    }
    return found->second;
}

void Multiprocessor::expect_bytes(void* barrier, unsigned bytes) {
    Arrivals& all = arrivals(*current_->block, barrier);
    if (all.pending == 0) fail("more arrivals than the barrier waits for");
    if (bytes > most_arrivals) fail("expects " + std::to_string(bytes) + " bytes");
    all.bytes += static_cast<int>(bytes);
    all.pending -= 1;
    all.complete_if_due();
    current_->news = true;
}

void Multiprocessor::wait_arrivals(void* barrier, unsigned parity, const CallSite& place) {
    if (parity > 1) fail(text(place) + ": parity " + std::to_string(parity));
    Block& block = *current_->block;
    const Arrivals& all = arrivals(block, barrier);
    current_->awaited = &all;
    do {
        suspend(State::polling, place);
        if (all.parity == parity) deliver_late(block, all);
    } while (all.parity == parity);
    current_->awaited = nullptr;
    current_->news = true;
}

void Multiprocessor::store_async(void* shared, const void* value, std::size_t bytes, void* barrier,
                                 unsigned rank) {
    const Block& own = *current_->block;
    if (rank >= own.cluster.size()) {
        fail("stores into block " + std::to_string(rank) + " of a cluster of " +
             std::to_string(own.cluster.size()));
    }
    Block& other = *own.cluster[nth<std::size_t>(rank, own.cluster.size())];
    if (other.finished) {
        fail("stores into shared memory that is gone: block " + std::to_string(rank) +
             " of the cluster has ended");
    }
    if (!own.arena->holds(shared, bytes)) fail("stores outside of shared memory");
    if (reinterpret_cast<std::uintptr_t>(shared) % bytes != 0) {
        fail("a store that is not aligned to its size");
    }
    const auto there = [&](void* here) {
        const std::ptrdiff_t offset =
            static_cast<char*>(here) - static_cast<char*>(own.arena->data());
        return static_cast<char*>(other.arena->data()) + offset;
    };
    if (!own.arena->holds(barrier, sizeof barrier_mark)) {
        fail("an arrival barrier outside of shared memory");
    }
    Store store{there(shared), {}, nullptr, bytes, &arrivals(other, there(barrier))};
    std::memcpy(store.value, value, bytes);
    if (early()) {
        deliver(store);
    } else {
        other.stores.push_back(store);
    }
    current_->news = true;
}

void Multiprocessor::require_bulk(const char* what, const void* shared, const void* global,
                                  std::size_t bytes) const {
    const auto aligned = [](const void* at) {
        return reinterpret_cast<std::uintptr_t>(at) % 16 == 0;
    };
    const std::string name = what;
    trap_before(90, what);
    if (bytes == 0 || bytes % 16 != 0) {
        fail(name + " of " + std::to_string(bytes) + " bytes, which is not a multiple of 16");
    }
    if (!arena().holds(shared, bytes)) fail(name + " outside of shared memory");
    if (arena().holds(global, 1)) fail(name + ": shared memory in the place of global memory");
    if (!aligned(shared) || !aligned(global)) {
        fail(name + ": an address that is not a multiple of 16");
    }
}

void Multiprocessor::bulk_load(void* shared, const void* global, std::size_t bytes, void* barrier) {
    Block& block = *current_->block;
    require_bulk("bulk_load", shared, global, bytes);
    if (bytes > most_arrivals) fail("more bytes than an arrival barrier can count");
    if (!block.arena->holds(barrier, sizeof barrier_mark)) {
        fail("an arrival barrier outside of shared memory");
    }
    const Store store{shared, {}, global, bytes, &arrivals(block, barrier)};
    if (early()) {
        deliver(store);
    } else {
        block.stores.push_back(store);
    }
    block.has_loaded = true;
    current_->news = true;
}

void Multiprocessor::bulk_store(void* global, const void* shared, std::size_t bytes) {
    const Block& block = *current_->block;
    require_bulk("bulk_store", shared, global, bytes);
    // Data that bulk_load brought needs no fence.
    if (!block.has_fenced && !block.has_loaded) {
        fail("bulk_store of what no thread of the block has fenced with fence_async_proxy");
    }
    const bool done = early();
    if (done) std::memcpy(global, shared, bytes);
    current_->unread_stores.push_back({global, shared, bytes, done});
}

void Multiprocessor::wait_bulk_reads() {
    Lane& lane = *current_;
    for (const Copy& store : lane.unread_stores) {
        if (store.done) continue;
        const auto* const from = static_cast<const unsigned char*>(store.from);
        lane.stores_to_end.push_back({store.to, {from, from + store.bytes}});
    }
    lane.unread_stores.clear();
}

void Multiprocessor::wait_bulk_stores() {
    wait_bulk_reads();
    write(current_->stores_to_end);
}

void Multiprocessor::deliver(const Store& store) const {
    std::memcpy(store.to, store.from ? store.from : store.value, store.bytes);
    store.barrier->bytes -= static_cast<int>(store.bytes);
    if (store.barrier->bytes < -static_cast<int>(most_arrivals)) {
        fail("more bytes than an arrival barrier can count");
    }
    store.barrier->complete_if_due();
}

// Delivers the stores that report to the barrier as late as possible: only when those under way can
// complete the phase, and only as many as that takes. The last store comes first.
void Multiprocessor::deliver_late(Block& block, const Arrivals& barrier) const {
    std::vector<Store>& stores = block.stores;
    std::size_t under_way = 0;
    for (const Store& store : stores) under_way += store.barrier == &barrier ? store.bytes : 0;
    if (barrier.pending != 0 || barrier.bytes > static_cast<int>(under_way)) return;
    const unsigned parity = barrier.parity;
    for (std::size_t i = stores.size(); i-- > 0 && barrier.parity == parity;) {
        if (stores[i].barrier != &barrier) continue;
        deliver(stores[i]);
        stores.erase(stores.begin() + static_cast<std::ptrdiff_t>(i));
    }
}

void Multiprocessor::fail(const Block& block, const std::string& what) const {
    throw std::logic_error("kernel " + launch_->kernel + ", block " + std::to_string(block.index) +
                           ": " + what);
}

void Multiprocessor::run(const Launch& launch) {
    launch_ = &launch;
    reverse_ = order() == Order::reverse;
    interleaving_ = the_interleaving;
    chance_ = Chance(the_seed);
    blockDim = launch.threads;
    gridDim = launch.blocks;
    threads_ = static_cast<int>(launch.threads);
    const std::uint64_t blocks = launch.blocks;
    const std::uint64_t together = launch.cooperative ? blocks : launch.cluster_blocks;
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
        for (std::uint64_t i = 0; i < together; ++i) make_resident(i, first + i);
        run_resident();
    }
}

// Makes the block with this number resident, counted in the order of this run.
void Multiprocessor::make_resident(std::size_t slot, std::uint64_t number) {
    const std::size_t size = launch_->cluster_blocks;
    const std::uint64_t rank = nth<std::uint64_t>(number % size, size);

    Block& block = *blocks_[slot];
    block.index = static_cast<unsigned>(
        nth<std::uint64_t>(number / size, launch_->blocks / size) * size + rank);
    block.rank = static_cast<unsigned>(rank);
    const std::size_t first = slot / size * size;
    block.cluster = std::span(blocks_).subspan(first, size);
    block.cluster_lanes = std::span(lanes_).subspan(first * threads_, size * threads_);
    block.barriers.clear();
    block.stores.clear();
    block.has_fenced = block.has_loaded = false;
    block.arena.emplace(launch_->shared_bytes);
    block.lanes = std::span(lanes_).subspan(slot * threads_, threads_);
    block.warps.resize((threads_ + warpSize - 1) / warpSize);
    for (Warp& warp : block.warps) {
        warp.late = 0;
        warp.pieces[0].brought = warp.pieces[1].brought = 0;
    }
    block.late = 0;
    block.finished = false;
    for (int i = 0; i < threads_; ++i) {
        Lane& lane = *block.lanes[i];
        lane.state = State::ready;
        lane.thread = static_cast<unsigned>(i);
        lane.block = &block;
        lane.warp = &block.warps[i / warpSize];
        lane.warp->first = i / warpSize * warpSize;
        lane.warp->lanes = std::min(warpSize, threads_ - lane.warp->first);
        lane.in_warp = i % warpSize;
        lane.piece_set = 0;
        lane.polled.clear();
        lane.awaited = nullptr;
    }
}

// Runs the resident blocks to their ends.
void Multiprocessor::run_resident() {
    const auto finished = [](const auto& block) { return block->finished; };
    const std::span<const std::unique_ptr<Block>> blocks = std::span(blocks_).first(resident_);
    try {
        for (int idle = 0; !std::ranges::all_of(blocks, finished);) {
            // After a round without progress nobody is made late any more: the loop has to end.
            may_be_late_ = idle == 0;
            const bool random = interleaving_ == Interleaving::random;
            idle = (random ? run_random_round() : run_round()) ? 0 : idle + 1;
            if (idle > 0 && let_time_pass()) idle = 1;
            if (idle == patience) fail_for_deadlock();
        }
        write(stores_to_end_);
    } catch (...) {
        cancel();
        throw;
    }
}

// Gives each block a turn, in the order of this run. False where nothing happened.
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

// Gives most blocks a turn, in random order. False where nothing happened.
bool Multiprocessor::run_random_round() {
    std::vector<Block*> blocks;
    for (std::size_t i = 0; i < resident_; ++i) blocks.push_back(blocks_[i].get());
    chance_.shuffle(blocks);
    bool progress = false;
    for (Block* const block : blocks) {
        if (!block->finished && !is_late(block->late, late_blocks)) progress |= take_turn(*block);
    }
    return progress;
}

// Whether a warp or a block skips this round, because it has rounds left to be late. One that does
// not may fall behind from the next round on.
bool Multiprocessor::is_late(int& rounds, int odds) {
    if (rounds > 0) {
        --rounds;
        return true;
    }
    if (may_be_late_ && chance_.below(odds) == 0) rounds = 1 << chance_.below(most_late_log2 + 1);
    return false;
}

// After a round without progress: skips as many rounds as it takes until one warp or block is late
// no longer. False where nobody is late.
bool Multiprocessor::let_time_pass() {
    int least = 0;
    const auto each = [&](auto work) {
        for (std::size_t i = 0; i < resident_; ++i) {
            Block& block = *blocks_[i];
            if (block.finished) continue;
            work(block.late);
            for (Warp& warp : block.warps) work(warp.late);
        }
    };
    each([&](int late) {
        if (late > 0 && (least == 0 || late < least)) least = late;
    });
    each([&](int& late) { late = std::max(late - least, 0); });
    return least > 0;
}

// Runs each thread of the block until it waits at a barrier, has polled once or has finished. False
// where they only polled.
bool Multiprocessor::take_turn(Block& block) {
    if (block.finished) return false;
    progress_ = false;
    const int warps = static_cast<int>(block.warps.size());
    if (interleaving_ == Interleaving::random) {
        std::vector<Warp*> in_turn;
        for (Warp& warp : block.warps) in_turn.push_back(&warp);
        chance_.shuffle(in_turn);
        for (Warp* const warp : in_turn) {
            if (!is_late(warp->late, late_warps)) run_warp(block, *warp);
        }
    } else {
        for (int i = 0; i < warps; ++i) run_warp(block, block.warps[nth(i, warps)]);
    }
    check_together(block.lanes, false);
    if (all_in(block.lanes, State::finished)) finish(block);
    pass_barriers(block);
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
        check_together(lanes, true);
        if (any_in(lanes, State::polling)) return;
        const auto finished = std::ranges::find(lanes, State::finished, &Lane::state);
        if ((*at_barrier)->exchanges && finished != lanes.end()) {
            fail(block, text(**at_barrier) + " waits for thread " +
                            std::to_string((*finished)->thread) + ", which has finished");
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

// Lets threads go on where all of the block, or of its cluster, that have not finished wait at a
// barrier.
void Multiprocessor::pass_barriers(const Block& block) {
    const auto pass = [](std::span<const std::unique_ptr<Lane>> lanes) {
        for (const auto& lane : lanes) {
            if (lane->state != State::finished) lane->state = State::ready;
        }
    };
    if (all_in(block.lanes, State::at_block_barrier)) pass(block.lanes);
    if (all_in(block.cluster_lanes, State::at_cluster_barrier)) {
        check_together(block.cluster_lanes, false);
        pass(block.cluster_lanes);
    }
}

void Multiprocessor::finish(Block& block) {
    block.finished = true;
    if (!block.arena->fences_intact()) {
        fail(block, "wrote beyond its " + std::to_string(block.arena->bytes()) +
                        " bytes of shared memory");
    }
    if (!block.stores.empty()) {
        fail(block, "has finished while " + std::to_string(block.stores.size()) +
                        " stores or bulk loads into its shared memory are under way");
    }
    for (const auto& [at, barrier] : block.barriers) {
        if (barrier.bytes != 0) fail(block, "has finished while " + text(barrier));
    }
    block.arena.reset();
}

// All threads that wait must wait at the same barrier. The threads of a warp in which a lane polls
// may wait at a barrier of their warp meanwhile.
void Multiprocessor::check_together(std::span<const std::unique_ptr<Lane>> lanes,
                                    bool of_warp) const {
    const Lane* one = nullptr;
    for (const auto& lane : lanes) {
        if (!lane->waits() || (!of_warp && lane->state == State::at_warp_barrier)) continue;
        if (!one) one = lane.get();
        if (same(lane->place, one->place)) continue;
        const bool elsewhere = lane->block != one->block;
        fail(*one->block,
             "threads wait at different barriers: " + text(*one) + "; " +
                 (elsewhere ? "block " + std::to_string(lane->block->index) + ", " : "") +
                 text(*lane));
    }
}

void Multiprocessor::fail_for_deadlock() const {
    for (std::size_t i = 0; i < resident_; ++i) {
        const auto lanes = blocks_[i]->lanes;
        const auto polling = std::ranges::find(lanes, State::polling, &Lane::state);
        if (polling == lanes.end()) continue;
        const Arrivals* const awaited = (*polling)->awaited;
        fail(*blocks_[i], text(**polling) + " waits for what no thread can bring about any more" +
                              (awaited ? "; " + text(*awaited) : ""));
    }
    throw std::logic_error("kernel " + launch_->kernel + ": no thread can go on");
}

// Ends all unfinished threads.
void Multiprocessor::cancel() noexcept {
    cancelling_ = true;
    for (std::size_t i = 0; i < resident_ * threads_; ++i) {
        if (lanes_[i]->state != State::finished) resume(*lanes_[i]);
    }
    cancelling_ = false;
    thrown_ = nullptr;
    stores_to_end_.clear();
}

Multiprocessor& inside_kernel(const char* what) {
    if (!running) throw std::logic_error(std::string(what) + " outside of a kernel");
    return *running;
}

void require_full(const Multiprocessor& block, unsigned mask, const CallSite& place) {
    if (mask != ~0U) block.fail(text(place) + ": only masks of a full warp can be run");
}

}  // namespace

void set_order(Order order) { the_order = order; }
Order order() { return the_order; }
void set_schedule_seed(std::uint64_t seed) { the_seed = seed; }
void set_interleaving(Interleaving interleaving) { the_interleaving = interleaving; }

void* shared_arena() {
    Multiprocessor& block = inside_kernel("shared_arena");
    if (block.arena().bytes() == 0) block.fail("has no shared memory");
    return block.arena().data();
}

void defer_copy(void* shared, const void* global) {
    constexpr std::size_t bytes = 16;
    Multiprocessor& block = inside_kernel("defer_copy");
    const auto aligned = [](const void* at) {
        return reinterpret_cast<std::uintptr_t>(at) % bytes == 0;
    };
    if (!aligned(shared) || !aligned(global)) block.fail("a copy that is not aligned to its size");
    block.defer_copy({shared, global, bytes, false});
}

namespace {

void finish_first_copies(Lane& lane, std::size_t count) {
    auto& copies = lane.copies;
    for (std::size_t i = 0; i < count; ++i) {
        std::memcpy(copies[i].to, copies[i].from, copies[i].bytes);
    }
    copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(count));
}

}  // namespace

void finish_copies() {
    Lane& lane = inside_kernel("finish_copies").current();
    finish_first_copies(lane, lane.copies.size());
    lane.copy_groups.clear();
}

void end_copy_group() {
    Lane& lane = inside_kernel("end_copy_group").current();
    lane.copy_groups.push_back(lane.copies.size());
}

void finish_older_copies() {
    Lane& lane = inside_kernel("finish_older_copies").current();
    auto& groups = lane.copy_groups;
    if (groups.size() < 2) return;
    const std::size_t finished = groups[groups.size() - 2];
    finish_first_copies(lane, finished);
    groups = {groups.back() - finished};
}

void block_barrier(const CallSite& place) { inside_kernel(place.what).block_barrier(place); }

void warp_barrier(unsigned mask, const CallSite& place) {
    Multiprocessor& block = inside_kernel(place.what);
    require_full(block, mask, place);
    block.warp_barrier(place, false);
}

Exchange exchange(unsigned mask, std::uint64_t value, const CallSite& place) {
    Multiprocessor& block = inside_kernel(place.what);
    require_full(block, mask, place);
    return block.exchange(value, place);
}

void together(void* own, std::size_t bytes, void (*work)(void*), const CallSite& place) {
    inside_kernel(place.what).together(own, bytes, work, place);
}

void require_shared(const void* begin, std::size_t bytes, const CallSite& place) {
    inside_kernel(place.what).require_shared(begin, bytes, place);
}

void release_flag(std::uint32_t* flag, std::uint32_t value) {
    inside_kernel("release_flag").release_flag(flag, value);
}

std::uint32_t acquire_flag(const std::uint32_t* flag, const CallSite& place) {
    return inside_kernel(place.what).acquire_flag(flag, place);
}

void trap_before(int code_since, const char* what) {
    if (code() >= code_since) return;
    throw std::logic_error(std::string(what) + ": a trap in code for compute capability " +
                           std::to_string(code()));
}

unsigned cluster_rank() {
    trap_before(90, "cluster_rank");
    return inside_kernel("cluster_rank").block().rank;
}
unsigned cluster_blocks() {
    return static_cast<unsigned>(inside_kernel("cluster_blocks").block().cluster.size());
}
void cluster_barrier(const CallSite& place) {
    trap_before(90, place.what);
    inside_kernel(place.what).cluster_barrier(place);
}

void init_arrivals(void* barrier, unsigned arrivals) {
    inside_kernel("init_arrivals").init_arrivals(barrier, arrivals);
}
void expect_bytes(void* barrier, unsigned bytes) {
    inside_kernel("expect_bytes").expect_bytes(barrier, bytes);
}
void wait_arrivals(void* barrier, unsigned parity, const CallSite& place) {
    inside_kernel(place.what).wait_arrivals(barrier, parity, place);
}
void store_async(void* shared, const void* value, std::size_t bytes, void* barrier, unsigned rank) {
    inside_kernel("store_async").store_async(shared, value, bytes, barrier, rank);
}

void bulk_load(void* shared, const void* global, std::size_t bytes, void* barrier) {
    inside_kernel("bulk_load").bulk_load(shared, global, bytes, barrier);
}
void bulk_store(void* global, const void* shared, std::size_t bytes) {
    inside_kernel("bulk_store").bulk_store(global, shared, bytes);
}
void wait_bulk_reads() {
    trap_before(90, "wait_bulk_reads");
    inside_kernel("wait_bulk_reads").wait_bulk_reads();
}
void wait_bulk_stores() {
    trap_before(90, "wait_bulk_stores");
    inside_kernel("wait_bulk_stores").wait_bulk_stores();
}
void fence_async_proxy() {
    trap_before(90, "fence_async_proxy");
    inside_kernel("fence_async_proxy").fence_async_proxy();
}

void refuse_source_lane(int source, const CallSite& place) {
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
