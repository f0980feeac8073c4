// SPDX-License-Identifier: MIT
#include "benchmarks/side_by_side.hpp"

#include "benchmarks/preset_training.hpp"

#include <atomic>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace nca::bench {

Timing time_side_by_side(int automata, int count, const std::function<Trainer()>& make) {
    std::barrier together(automata + 1);
    std::atomic<std::size_t> iterations = 0;
    std::vector<std::exception_ptr> errors(static_cast<std::size_t>(automata));
    std::vector<std::thread> threads;
    for (std::exception_ptr& error : errors) {
        threads.emplace_back([&] {
            try {
                Trainer trainer = make();
                trainer.iterate(plenty);  // to warm up
                for (int round = 0; round < count; ++round) {
                    together.arrive_and_wait();
                    iterations += trainer.iterate(plenty).size();
                    together.arrive_and_wait();
                }
            } catch (...) {
                error = std::current_exception();
                together.arrive_and_drop();
            }
        });
    }
    std::vector<double> times;
    for (int round = 0; round < count; ++round) {
        together.arrive_and_wait();
        const auto start = std::chrono::steady_clock::now();
        together.arrive_and_wait();
        const std::chrono::duration<double, std::milli> time =
            std::chrono::steady_clock::now() - start;
        times.push_back(time.count() / double(iterations.exchange(0)));
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& error : errors) {
        if (error) std::rethrow_exception(error);
    }
    return timing_of(times);
}

}  // namespace nca::bench
