// SPDX-License-Identifier: MIT
#include "cuda/bands/band_cut.hpp"

#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

using namespace nca;
using namespace nca::cuda;

namespace {

// Heights of all bands, which are whole and in order.
std::vector<int> heights_of(const BandCut& cut, int height) {
    REQUIRE(cut.first_row[0] == 0);
    REQUIRE(cut.first_row[cut.bands] == height);
    std::vector<int> heights;
    for (int band = 0; band < cut.bands; ++band) heights.push_back(cut.rows(band));
    REQUIRE(*std::min_element(heights.begin(), heights.end()) >= fewest_band_rows);
    return heights;
}

struct Costs {
    double most = std::numeric_limits<double>::infinity();
    double squares = std::numeric_limits<double>::infinity();
    bool operator<(const Costs& other) const {
        return most < other.most || (most == other.most && squares < other.squares);
    }
    bool operator==(const Costs&) const = default;
};

Costs costs_of(const BandCut& cut, const std::vector<double>& row_load) {
    Costs costs = {0, 0};
    for (int band = 0; band < cut.bands; ++band) {
        double cost = 3.0 * cut.rows(band);
        for (int row = cut.first_row[band]; row < cut.first_row[band + 1]; ++row) {
            cost += row_load[static_cast<std::size_t>(row)];
        }
        costs.most = std::max(costs.most, cost);
        costs.squares += double(cut.rows(band)) * cut.rows(band);
    }
    return costs;
}

// The least costs of all cuts. It tries every cut.
Costs least_costs(const std::vector<double>& row_load, int bands, int most_rows,
                  BandCut begun = {}) {
    const int height = static_cast<int>(row_load.size()), first = begun.first_row[begun.bands];
    if (begun.bands == bands) return first == height ? costs_of(begun, row_load) : Costs{};
    Costs least;
    for (int rows = fewest_band_rows; rows <= std::min(most_rows, height - first); ++rows) {
        BandCut longer = begun;
        longer.first_row[++longer.bands] = first + rows;
        least = std::min(least, least_costs(row_load, bands, most_rows, longer));
    }
    return least;
}

}  // namespace

TEST_CASE("bands of a grid of which nothing is known are equal but for a row") {
    for (int height = fewest_band_rows; height <= most_bands * most_band_rows; ++height) {
        INFO(height << " rows");
        const BandCut cut = cut_bands(height, bands_of(height), most_band_rows, {});
        REQUIRE(cut.bands == std::min(8, height / 3));
        const std::vector<int> heights = heights_of(cut, height);
        const auto [fewest, most] = std::minmax_element(heights.begin(), heights.end());
        REQUIRE(*most - *fewest <= 1);
        REQUIRE(cut.most_rows() == *most);
    }
}

TEST_CASE("no cut of all is cheaper, nor nearer to equal heights at its cost") {
    test::Uniform uniform(1);
    for (const int height : {9, 14, 19}) {
        for (const int bands : {1, 2, 3}) {
            for (const int most_rows : {5, 8, 19}) {
                std::vector<double> load(static_cast<std::size_t>(height));
                for (double& cells : load) cells = std::max(0.0F, std::round(uniform(-10, 10)));
                INFO(height << " rows, " << bands << " bands of up to " << most_rows);
                const BandCut cut = cut_bands(height, bands, most_rows, load);
                const Costs least = least_costs(load, bands, most_rows);
                REQUIRE((cut.bands > 0) == std::isfinite(least.most));
                if (cut.bands == 0) continue;
                heights_of(cut, height);
                REQUIRE(cut.most_rows() <= most_rows);
                REQUIRE(costs_of(cut, load) == least);
            }
        }
    }
}

TEST_CASE("rows that live make bands low, as far as the others have room") {
    std::vector<double> load(72);
    std::fill(load.begin() + 24, load.begin() + 48, 40.0);
    const BandCut free = cut_bands(72, 8, most_band_rows, load);
    const std::vector<int> heights = heights_of(free, 72);
    REQUIRE(heights.front() > heights[4]);
    REQUIRE(heights.back() > heights[4]);
    // Rows beyond what a band may have come from the living ones.
    const BandCut tight = cut_bands(72, 8, 10, load);
    REQUIRE(tight.most_rows() <= 10);
    REQUIRE(costs_of(tight, load).most > costs_of(free, load).most);
    REQUIRE(cut_bands(72, 8, 8, load).bands == 0);
    REQUIRE(cut_bands(23, 8, most_band_rows, {}).bands == 0);
}

TEST_CASE("the load of a row is the cells beside what the target shows") {
    // One cell at the right end of the upper row.
    std::vector<float> target(4 * 6 * 4);
    target[5 * 4 + 3] = 0.11F;
    target[13 * 4 + 3] = 0.1F;  // not above the threshold
    REQUIRE(row_load_of(target, 4, 6, Edges::zero) == std::vector<double>{2, 2, 0, 0});
    REQUIRE(row_load_of(target, 4, 6, Edges::circular) == std::vector<double>{3, 3, 0, 3});
}
