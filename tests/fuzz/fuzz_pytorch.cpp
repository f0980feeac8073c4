// SPDX-License-Identifier: MIT
// A file of PyTorch: a zip archive, or one from before version 1.6. Small tensors are read.
#include "host/files/file_kind.hpp"
#include "host/import/pytorch_file.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace nca;

namespace {

std::size_t read(std::span<const std::uint8_t> bytes) {
    const bool old =
        file_kind(bytes.first(std::min(bytes.size(), kind_bytes))) == FileKind::old_pytorch;
    std::size_t count = 0;
    for (const ForeignTensor& tensor :
         old ? open_old_pytorch_file(bytes, "input") : open_pytorch_file(bytes, "input")) {
        std::size_t size = 1;
        for (const std::int64_t side : tensor.shape) {
            if (__builtin_mul_overflow(size, std::size_t(side), &size) || size > 10'000) size = 0;
        }
        if (size == 0 || tensor.type == NumberType::other) continue;
        fuzz::require(tensor.read().size() == size, "expected as many values as the shape says");
        count += size;
    }
    return count;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::unless_refused([&] { return read({data, size}); });
    return 0;
}
