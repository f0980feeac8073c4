// SPDX-License-Identifier: MIT
// Stands in for the reader of PyTorch's files in builds without NCA_BUILD_IMAGES, which have no
// libzip.
#include "host/import/pytorch_file.hpp"

#include "host/core/throw_error.hpp"

#include <nca/error.hpp>

namespace nca {
namespace {

[[noreturn]] void refuse(const std::string& file) {
    throw_error<NotCompiled>(
        "{} is a PyTorch file, which this build cannot read: convert it to safetensors with the "
        "tool "
        "(nca convert), or in Python load it with torch and take Model.from_torch",
        file);
}

}  // namespace

std::vector<ForeignTensor> open_pytorch_file(const std::filesystem::path& path) {
    refuse(path.string());
}

std::vector<ForeignTensor> open_pytorch_file(std::span<const std::uint8_t>,
                                             const std::string& file) {
    refuse(file);
}

std::vector<ForeignTensor> open_old_pytorch_file(std::span<const std::uint8_t>,
                                                 const std::string& file) {
    refuse(file);
}

}  // namespace nca
