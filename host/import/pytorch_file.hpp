// SPDX-License-Identifier: MIT
#pragma once

#include "host/import/found_weights.hpp"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace nca {

// The tensors of a file of PyTorch's torch.save since version 1.6: a zip archive with a pickle that
// describes them, and an entry of values for each storage. The archive stays open as long as one of
// the tensors is there. Throws FormatError where it is damaged, another kind of archive, or the
// pickle is refused (pickle.hpp), and IoError where it cannot be read.
std::vector<ForeignTensor> open_pytorch_file(const std::filesystem::path& path);
// The same for bytes in memory, which have to stay there. `file` stands for the file in messages.
std::vector<ForeignTensor> open_pytorch_file(std::span<const std::uint8_t> bytes,
                                             const std::string& file);

// The same for a file of torch.save before version 1.6: one pickle after the other, then the values
// of each storage. The bytes have to stay there as long as one of the tensors.
std::vector<ForeignTensor> open_old_pytorch_file(std::span<const std::uint8_t> bytes,
                                                 const std::string& file);

}  // namespace nca
