// SPDX-License-Identifier: MIT
#pragma once

// Replaces cuBLAS's header of this name on the executor. It has the few functions that this project
// calls, with CUDA 13's signatures and values. They are plain loops in kernels, which are queued
// like all others. Sums are in float32, in the order of their terms. Matrices are column-major:
// element (row, column) of A is A[row + column * lda].

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>

enum cublasStatus_t {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_NOT_INITIALIZED = 1,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_EXECUTION_FAILED = 13,
    CUBLAS_STATUS_NOT_SUPPORTED = 15
};
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum cublasMath_t { CUBLAS_DEFAULT_MATH = 0, CUBLAS_TF32_TENSOR_OP_MATH = 3 };

struct cublasContext {
    cudaStream_t stream = nullptr;
    cublasMath_t mode = CUBLAS_DEFAULT_MATH;
};
using cublasHandle_t = cublasContext*;

namespace nca::executor {

// A matrix that may be transposed.
struct BlasMatrix {
    const float* values;
    int leading;
    bool transposed;
    bool tf32;  // its elements are rounded to 10 fraction bits

    float operator()(int row, int column) const {
        if (transposed) std::swap(row, column);
        const float value = values[row + std::ptrdiff_t(column) * leading];
        if (!tf32 || !std::isfinite(value)) return value;
        return std::bit_cast<float>((std::bit_cast<std::uint32_t>(value) + 0x1000U) & ~0x1fffU);
    }
};

// c = alpha a b + beta c, where c is m x n and the sum has k terms. Where beta is zero, the old c
// is not read.
struct BlasProduct {
    float* c;
    int leading;
    BlasMatrix a;
    BlasMatrix b;
    int m;
    int n;
    int k;
    float alpha;
    float beta;
};

inline void blas_product_kernel(BlasProduct product) {
    const auto& [c, leading, a, b, m, n, k, alpha, beta] = product;
    const int count = m * n, stride = static_cast<int>(gridDim.x * blockDim.x);
    for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < count; i += stride) {
        const int row = i % m, column = i / m;
        float sum = 0;
        for (int j = 0; j < k; ++j) sum += a(row, j) * b(j, column);
        float& to = c[row + std::ptrdiff_t(column) * leading];
        to = alpha * sum + (beta == 0 ? 0 : beta * to);
    }
}

inline cublasStatus_t launch_blas(cublasHandle_t handle, const BlasProduct& product) {
    if (product.m == 0 || product.n == 0) return CUBLAS_STATUS_SUCCESS;
    cudaLaunchConfig_t config = {};
    config.blockDim = dim3(64);
    config.gridDim = dim3(2);
    config.stream = handle->stream;
    const cudaError_t error = cudaLaunchKernelEx(&config, blas_product_kernel, product);
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

inline bool is_operation(cublasOperation_t operation) {
    return operation == CUBLAS_OP_N || operation == CUBLAS_OP_T;
}

}  // namespace nca::executor

inline const char* cublasGetStatusString(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS:
            return "success";
        case CUBLAS_STATUS_NOT_INITIALIZED:
            return "the library was not initialized";
        case CUBLAS_STATUS_INVALID_VALUE:
            return "an invalid value was given";
        case CUBLAS_STATUS_EXECUTION_FAILED:
            return "the function failed to launch on the GPU";
        case CUBLAS_STATUS_NOT_SUPPORTED:
            return "the functionality is not supported";
    }
    return "unknown";
}

inline cublasStatus_t cublasCreate(cublasHandle_t* handle) {
    if (handle == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = new cublasContext;
    return CUBLAS_STATUS_SUCCESS;
}

inline cublasStatus_t cublasDestroy(cublasHandle_t handle) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

inline cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

inline cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, std::size_t) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    const bool aligned = reinterpret_cast<std::uintptr_t>(workspace) % 256 == 0;
    return aligned ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

inline cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->mode = mode;
    return CUBLAS_STATUS_SUCCESS;
}

// C = alpha op(A) op(B) + beta C, with op(A) m x k, op(B) k x n and C m x n.
inline cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t transa,
                                  cublasOperation_t transb, int m, int n, int k, const float* alpha,
                                  const float* A, int lda, const float* B, int ldb,
                                  const float* beta, float* C, int ldc) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    const bool transposed_a = transa != CUBLAS_OP_N, transposed_b = transb != CUBLAS_OP_N;
    if (m < 0 || n < 0 || k < 0 || !nca::executor::is_operation(transa) ||
        !nca::executor::is_operation(transb) || lda < std::max(1, transposed_a ? k : m) ||
        ldb < std::max(1, transposed_b ? n : k) || ldc < std::max(1, m) || alpha == nullptr ||
        beta == nullptr) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const bool tf32 = handle->mode == CUBLAS_TF32_TENSOR_OP_MATH;
    return nca::executor::launch_blas(handle, {C,
                                               ldc,
                                               {A, lda, transposed_a, tf32},
                                               {B, ldb, transposed_b, tf32},
                                               m,
                                               n,
                                               k,
                                               *alpha,
                                               *beta});
}

// y = alpha op(A) x + beta y, with A m x n.
inline cublasStatus_t cublasSgemv(cublasHandle_t handle, cublasOperation_t trans, int m, int n,
                                  const float* alpha, const float* A, int lda, const float* x,
                                  int incx, const float* beta, float* y, int incy) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (m < 0 || n < 0 || !nca::executor::is_operation(trans) || lda < std::max(1, m) ||
        incx == 0 || incy == 0 || alpha == nullptr || beta == nullptr) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    // A negative distance counts from the end.
    if (incx < 0 || incy < 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool transposed = trans != CUBLAS_OP_N;
    // y^T = alpha x^T op(A)^T + beta y^T: a vector is a matrix of one row, with incx from column to
    // column.
    return nca::executor::launch_blas(handle, {y,
                                               incy,
                                               {x, incx, false, false},
                                               {A, lda, !transposed, false},
                                               1,
                                               transposed ? n : m,
                                               transposed ? m : n,
                                               *alpha,
                                               *beta});
}
