// SPDX-License-Identifier: MIT
#include <nca/error.hpp>
#include <nca/state.hpp>

#include "support/catch.hpp"

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace {

// Two grids of 3 x 5 cells.
struct Grids {
    std::vector<float> values = std::vector<float>(std::size_t{2} * 3 * 5 * nca::channels);

    nca::ConstStateView view() const { return {values.data(), 2, 3, 5, nca::MemorySpace::host}; }
    nca::StateCheck check() const { return nca::check_state(view()); }
    float& alpha(std::size_t cell) { return values[cell * nca::channels + nca::alpha_channel]; }
};

}  // namespace

TEST_CASE("a state's living cells are those with an alpha above the threshold") {
    Grids grids;
    REQUIRE(grids.check().living == 0);
    for (float& value : grids.values) value = 5;
    for (std::size_t cell = 0; cell < 30; ++cell) grids.alpha(cell) = nca::living_threshold;
    REQUIRE(grids.check().living == 0);
    for (std::size_t cell = 0; cell < 30; ++cell) {
        grids.alpha(cell) = std::nextafter(nca::living_threshold, 1.0F);
        REQUIRE(grids.check().living == std::int64_t(cell) + 1);
    }
    grids.alpha(7) = -1;
    grids.alpha(29) = std::numeric_limits<float>::quiet_NaN();
    REQUIRE(grids.check().living == 28);
}

TEST_CASE("the largest magnitude of a state is that of any of its values") {
    Grids grids;
    REQUIRE(grids.check().largest == 0);
    grids.values.front() = std::numeric_limits<float>::quiet_NaN();
    grids.values[100] = 7;
    REQUIRE(grids.check().largest == 7);
    grids.values.back() = -8.5F;
    REQUIRE(grids.check().largest == 8.5F);
    grids.values[50] = -std::numeric_limits<float>::infinity();
    REQUIRE(grids.check().largest == std::numeric_limits<float>::infinity());
}

TEST_CASE("one value that is not finite makes a state not finite, wherever it is") {
    using Limits = std::numeric_limits<float>;
    Grids grids;
    for (float& value : grids.values) {
        for (const float bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()}) {
            value = bad;
            REQUIRE_FALSE(grids.check().finite);
        }
        for (const float good : {Limits::max(), Limits::lowest(), Limits::denorm_min(), 0.0F}) {
            value = good;
            REQUIRE(grids.check().finite);
        }
    }
}

TEST_CASE("a state that is not in host memory is not looked at") {
    const Grids grids;
    nca::ConstStateView view = grids.view();
    view.space = nca::MemorySpace::device;
    REQUIRE_THROWS_AS(nca::check_state(view), nca::InvalidArgument);
    view = grids.view();
    view.data = nullptr;
    REQUIRE_THROWS_AS(nca::check_state(view), nca::InvalidArgument);
}
