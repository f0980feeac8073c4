// SPDX-License-Identifier: MIT
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/device/check.hpp"

namespace nca::bench {

// Seconds of the fastest of several runs of what `work` queues on the stream, by the device's
// clock.
template <class Work>
double fastest_seconds(Work work, cudaStream_t stream = nullptr) {
    using cuda::check;
    cudaEvent_t begin = nullptr, end = nullptr;
    check(cudaEventCreateWithFlags(&begin, cudaEventDefault), "making an event");
    check(cudaEventCreateWithFlags(&end, cudaEventDefault), "making an event");
    float fastest = 0;
    for (int run = 0; run < 10; ++run) {
        check(cudaEventRecord(begin, stream), "timing");
        work();
        check(cudaEventRecord(end, stream), "timing");
        check(cudaEventSynchronize(end), "timing");
        float milliseconds = 0;
        check(cudaEventElapsedTime(&milliseconds, begin, end), "timing");
        fastest = run == 0 ? milliseconds : std::min(fastest, milliseconds);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return fastest * 1e-3;
}

}  // namespace nca::bench
