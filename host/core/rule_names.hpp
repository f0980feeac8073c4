// SPDX-License-Identifier: MIT
#pragma once

namespace nca {

// The names of a rule's choices, in files and on the command line, in the order of the enumerators.
inline constexpr const char* edges_names[] = {"circular", "zero"};
inline constexpr const char* life_names[] = {"post", "pre_and_post"};
inline constexpr const char* start_cell_names[] = {"alpha", "alpha_and_hidden"};
inline constexpr const char* input_order_names[] = {"channel", "filter"};

// The rules that a file without one may have: nca/model.hpp, LoadOptions.
inline constexpr const char* rule_names[] = {"notebook", "growing", "demo"};

}  // namespace nca
