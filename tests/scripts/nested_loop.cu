// SPDX-License-Identifier: MIT
// What nested_loop.sass was made from: nvcc -std=c++20 -O3 -arch=sm_90 -lineinfo -cubin, and
// nvdisasm -c -gi of that.

__device__ void add_pieces(float* cells, const float* rows, int thread) {
#pragma unroll 1
    for (int i = thread; i < 720; i += 256) {
        if (rows[i] > 0) cells[i] = rows[i] * 3;
    }
}

__global__ void nested_loop_kernel(float* cells, const float* rows, int steps) {
    const int thread = static_cast<int>(threadIdx.x);
    for (int step = 0; step < steps; ++step) {
        if (thread < 128) atomicAdd(cells + thread, 1.0F);
        __syncthreads();
        add_pieces(cells, rows, thread);
#pragma unroll 2
        for (int i = 0; i < 8; ++i) cells[i * 256 + thread] = rows[i * steps + thread];
        __syncthreads();
    }
}
