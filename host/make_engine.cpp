// SPDX-License-Identifier: MIT
#include <nca/engine.hpp>

#include "cuda/engine/cuda_engine.hpp"
#include "host/cpu/cpu_engine.hpp"

namespace nca {

std::unique_ptr<Engine> make_engine(const Device& device) {
    switch (device.kind) {
        case Device::Kind::cuda:
            return cuda::make_cuda_engine(device);
        case Device::Kind::automatic:
            if (cuda::is_usable(device.index)) return cuda::make_cuda_engine(device);
            break;
        case Device::Kind::cpu:
            break;
    }
    return cpu::make_cpu_engine(device.threads);
}

}  // namespace nca
