// SPDX-License-Identifier: MIT
// The pickle of a PyTorch file. Every tensor that it describes lies in its storage.
#include "host/import/pickle.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace nca;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::span<const std::uint8_t> rest(data, size);
    const auto pickle = fuzz::unless_refused([&] { return read_pickle(rest, "input"); });
    if (!pickle) return 0;
    for (const PickledTensor& tensor : pickle->tensors) {
        const auto storage = pickle->storages.find(tensor.storage);
        fuzz::require(storage != pickle->storages.end(), "expected a known storage");
        fuzz::require(tensor.shape.size() == tensor.strides.size(), "expected a stride a side");
        bool empty = false;
        std::uint64_t last = tensor.offset;
        for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
            fuzz::require(tensor.shape[i] >= 0 && tensor.strides[i] >= 0, "expected sides from 0");
            empty |= tensor.shape[i] == 0;
            if (!empty)
                last += std::uint64_t(tensor.shape[i] - 1) * std::uint64_t(tensor.strides[i]);
        }
        fuzz::require(empty || last < storage->second.size, "expected it inside its storage");
        fuzz::require(storage->second.size < std::uint64_t{1} << 60, "expected a size in bytes");
    }
    return 0;
}
