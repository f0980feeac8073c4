// SPDX-License-Identifier: MIT
#include "tests/support/executor/executor.hpp"

#include <boost/context/fiber.hpp>
#include <boost/context/preallocated.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
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

enum class State { ready, at_warp_barrier, at_block_barrier, finished };

struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
};

struct Lane {
    fiber rest;  // where it goes on
    State state = State::finished;
    bool exchanges = false;  // at a warp barrier that is a collective
    uint3 thread{};
    int in_warp = 0;
    Place place{};
    std::vector<Copy> copies;
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
    void block_barrier(const Place& place) {
        current_->place = place;
        suspend(State::at_block_barrier);
    }
    void warp_barrier(const Place& place, bool exchanges) {
        current_->place = place;
        current_->exchanges = exchanges;
        suspend(State::at_warp_barrier);
    }
    Exchange exchange(std::uint64_t value, const Place& place) {
        // Lanes that go on may bring their next values before others have read these, hence two
        // sets; they cannot bring the values after that.
        std::uint64_t* const values = exchanged_[exchange_];
        values[current_->in_warp] = value;
        warp_barrier(place, true);
        return {values, current_->in_warp, warp_lanes_};
    }
    Lane& current() { return *current_; }
    const Arena& arena() const { return *arena_; }
    [[noreturn]] void fail(const std::string& what) const {
        throw std::logic_error("kernel " + launch_->kernel + ", block " + text(blockIdx) + ": " +
                               what);
    }

private:
    void add_lane();
    fiber live(Lane& lane, fiber scheduler);
    void resume(Lane& lane);
    void suspend(State state);

    void run_block(const uint3& block);
    void run_warp(int first, int count);
    bool pass_block_barrier();
    void check_together(int first, int count) const;
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
    const Arena* arena_ = nullptr;
    bool reverse_ = false;
    int threads_ = 0;

    std::uint64_t exchanged_[2][warpSize];
    int exchange_ = 0;
    int warp_lanes_ = 0;
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
    leave_stack(scheduler_stack_, lane.stack);
    lane.rest = std::move(lane.rest).resume();
    enter_stack(scheduler_stack_, nullptr);
}

void Multiprocessor::suspend(State state) {
    Lane& lane = *current_;
    lane.state = state;
    leave_stack(lane.stack, scheduler_stack_);
    scheduler_ = std::move(scheduler_).resume();
    enter_stack(lane.stack, &scheduler_stack_);
    if (cancelling_) throw Cancelled{};
}

void Multiprocessor::run(const Launch& launch) {
    launch_ = &launch;
    reverse_ = order() == Order::reverse;
    blockDim = launch.block;
    gridDim = launch.grid;
    threads_ = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    while (static_cast<int>(lanes_.size()) < threads_) add_lane();
    for (int i = 0; i < threads_; ++i) {
        const unsigned rest = unsigned(i) / launch.block.x;
        lanes_[i]->thread = {unsigned(i) % launch.block.x, rest % launch.block.y,
                             rest / launch.block.y};
        lanes_[i]->in_warp = i % warpSize;
    }
    const std::uint64_t blocks = std::uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    for (std::uint64_t i = 0; i < blocks; ++i) {
        const std::uint64_t block = nth(i, blocks);
        const std::uint64_t rest = block / launch.grid.x;
        run_block({unsigned(block % launch.grid.x), unsigned(rest % launch.grid.y),
                   unsigned(rest / launch.grid.y)});
    }
}

void Multiprocessor::run_block(const uint3& block) {
    blockIdx = block;
    const Arena arena(launch_->shared_bytes);
    arena_ = &arena;
    for (int i = 0; i < threads_; ++i) lanes_[i]->state = State::ready;
    const int warps = (threads_ + warpSize - 1) / warpSize;
    try {
        do {
            for (int i = 0; i < warps; ++i) {
                const int first = nth(i, warps) * warpSize;
                run_warp(first, std::min(warpSize, threads_ - first));
            }
        } while (pass_block_barrier());
    } catch (...) {
        cancel();
        throw;
    }
    if (!arena.fences_intact()) {
        fail("wrote beyond its " + std::to_string(arena.bytes()) + " bytes of shared memory");
    }
}

void Multiprocessor::run_warp(int first, int count) {
    warp_lanes_ = count;
    for (;;) {
        for (int i = 0; i < count; ++i) {
            Lane& lane = *lanes_[first + nth(i, count)];
            if (lane.state != State::ready) continue;
            resume(lane);
            if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
        }
        const Lane* at_barrier = nullptr;
        const Lane* finished = nullptr;
        for (int i = first; i < first + count; ++i) {
            if (lanes_[i]->state == State::at_warp_barrier) at_barrier = lanes_[i].get();
            if (lanes_[i]->state == State::finished) finished = lanes_[i].get();
        }
        if (!at_barrier) return;
        check_together(first, count);
        if (at_barrier->exchanges && finished) {
            fail(text(*at_barrier) + " waits for thread " + text(finished->thread) +
                 ", which has finished");
        }
        for (int i = first; i < first + count; ++i) {
            if (lanes_[i]->state != State::finished) lanes_[i]->state = State::ready;
        }
        exchange_ = 1 - exchange_;
    }
}

// False where all threads have finished.
bool Multiprocessor::pass_block_barrier() {
    check_together(0, threads_);
    bool any = false;
    for (int i = 0; i < threads_; ++i) {
        if (lanes_[i]->state == State::finished) continue;
        lanes_[i]->state = State::ready;
        any = true;
    }
    return any;
}

// All threads that wait must wait at the same barrier.
void Multiprocessor::check_together(int first, int count) const {
    const Lane* one = nullptr;
    for (int i = first; i < first + count; ++i) {
        const Lane& lane = *lanes_[i];
        if (!lane.waits()) continue;
        if (!one) one = &lane;
        if (!same(lane.place, one->place)) {
            fail("threads wait at different barriers: " + text(*one) + "; " + text(lane));
        }
    }
}

// Ends the threads that have not finished.
void Multiprocessor::cancel() noexcept {
    cancelling_ = true;
    for (int i = 0; i < threads_; ++i) {
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
