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

// The same for a rule that is known. Of the options only input_order may be given: where neither it
// nor filters among the tensors say the order of the inputs, it is by channel. Throws
// InvalidArgument where there are filters and the rule has others.
Model model_of_tensors(const std::vector<ForeignTensor>& tensors, const Rule& rule,
                       LoadOptions options, const std::string& source);

}  // namespace nca
