// SPDX-License-Identifier: MIT
#pragma once

#include "host/import/found_weights.hpp"

#include <nca/model.hpp>

#include <string>
#include <vector>

namespace nca {

// What Model::load makes of the tensors of a file that another program wrote, for tensors from
// anywhere. `source` stands for where they are from in messages. Throws what Model::load throws for
// such a file.
Model model_of_tensors(const std::vector<ForeignTensor>& tensors, const LoadOptions& options,
                       const std::string& source);

}  // namespace nca
