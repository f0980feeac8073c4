// SPDX-License-Identifier: MIT
#include <nca/rule.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "host/core/throw_error.hpp"

namespace nca {
namespace {

void check_known(int value, int count, const char* name) {
    if (value < 0 || value >= count) {
        throw_error<InvalidArgument>("{} is {}, expected one of its {} enumerators", name, value,
                                     count);
    }
}

// At multiples of 90 degrees rounding makes a sine or cosine near 1e-16 of 0: that becomes 0.
double without_rounding_error(double value) { return std::abs(value) < 1e-15 ? 0.0 : value; }

}  // namespace

void Rule::validate() const {
    for (const Filter& filter : filters) {
        for (const float value : filter) {
            if (!std::isfinite(value)) {
                throw_error<InvalidArgument>("a filter has the value {}, expected finite numbers",
                                             value);
            }
        }
    }
    check_known(int(edges), 2, "edges");
    check_known(int(life), 2, "life");
    check_known(int(start_cell), 2, "start_cell");
    if (!(fire_rate >= 0 && fire_rate <= 1)) {
        throw_error<InvalidArgument>("fire_rate is {}, expected 0..1", fire_rate);
    }
    if (!std::isfinite(step_size)) {
        throw_error<InvalidArgument>("step_size is {}, expected a finite number", step_size);
    }
}

std::array<float, channels> Rule::start_values() const {
    std::array<float, channels> values = {};
    values[alpha_channel] = 1;
    if (start_cell == StartCell::alpha_and_hidden) {
        std::fill(values.begin() + visible_channels, values.end(), 1.0F);
    }
    return values;
}

Rule Rule::rotated(double degrees) const {
    if (!std::isfinite(degrees)) {
        throw_error<InvalidArgument>("the angle is {} degrees, expected a finite number", degrees);
    }
    const double angle = std::fmod(degrees, 360.0) * std::numbers::pi / 180.0;
    const double cosine = without_rounding_error(std::cos(angle));
    const double sine = without_rounding_error(std::sin(angle));
    Rule rule = *this;
    for (std::size_t i = 0; i < rule.filters[1].size(); ++i) {
        const double x = filters[1][i];
        const double y = filters[2][i];
        rule.filters[1][i] = float(cosine * x - sine * y);
        rule.filters[2][i] = float(sine * x + cosine * y);
    }
    return rule;
}

Rule notebook_rule() {
    Rule rule;
    rule.filters = {{
        {0, 0, 0, 0, 1, 0, 0, 0, 0},
        {-1, 0, 1, -2, 0, 2, -1, 0, 1},
        {-1, -2, -1, 0, 0, 0, 1, 2, 1},
    }};
    rule.edges = Edges::circular;
    rule.life = Life::post;
    rule.start_cell = StartCell::alpha;
    rule.premultiplied = false;
    return rule;
}

Rule distill_demo_rule() {
    Rule rule;
    rule.edges = Edges::circular;
    return rule;
}

}  // namespace nca
