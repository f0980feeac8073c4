// SPDX-License-Identifier: MIT
#pragma once

// Start cells in JSON: a list of [column, row], left out where there are none.

#include <limits>
#include <span>
#include <string>
#include <vector>

#include "host/core/grid.hpp"
#include "host/files/json_fields.hpp"

namespace nca {

inline constexpr auto start_cells_field = "start_cells";

inline void put_start_cells(nlohmann::ordered_json& json, std::span<const Place> cells) {
    for (const Place& cell : cells) json[start_cells_field].push_back({cell.x, cell.y});
}

// Does not know the grid: the caller checks that they are in it.
inline std::vector<Place> take_start_cells(JsonFields& fields) {
    std::vector<Place> cells;
    if (!fields.has(start_cells_field)) return cells;
    const auto& list = fields.take(start_cells_field);
    if (!list.is_array() || list.size() > most_start_cells) {
        fields.fail(start_cells_field, std::string("of another kind"),
                    fmt::format("an array of at most {} cells", most_start_cells));
    }
    const auto number = [&](const nlohmann::json& value) {
        constexpr auto largest = std::uint64_t(std::numeric_limits<int>::max());
        if (!value.is_number_unsigned() || value.get<std::uint64_t>() > largest) {
            fields.fail(start_cells_field, value, "whole numbers, a column and a row of each cell");
        }
        return value.get<int>();
    };
    for (const auto& cell : list) {
        if (!cell.is_array() || cell.size() != 2) {
            fields.fail(start_cells_field, cell, "a column and a row of each cell");
        }
        cells.push_back({number(cell[1]), number(cell[0])});
    }
    return cells;
}

}  // namespace nca
