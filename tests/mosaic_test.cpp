// SPDX-License-Identifier: MIT
#include "host/tool/mosaic.hpp"
#include "tests/support/catch.hpp"

#include <vector>

using nca::GridSize;
using nca::Image;
using nca::tool::Layout;

TEST_CASE("a mosaic is nearly square and has no empty row") {
    const std::vector<std::pair<int, int>> expected = {{1, 1}, {2, 1}, {2, 2}, {2, 2}, {3, 2},
                                                       {3, 2}, {3, 3}, {3, 3}, {3, 3}, {4, 3}};
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const Layout layout = nca::tool::nearly_square(i + 1);
        REQUIRE(layout.columns == expected[i].first);
        REQUIRE(layout.rows == expected[i].second);
    }
    const Layout many = nca::tool::nearly_square(1000);
    REQUIRE(many.columns == 32);
    REQUIRE(many.rows == 32);
}

TEST_CASE("a mosaic has its pictures row by row and background everywhere else") {
    const int count = GENERATE(1, 2, 3, 5);
    const std::uint8_t background = GENERATE(0, 255);
    const int height = 3, width = 50;  // a gap of 2
    std::vector<Image> pictures;
    for (int i = 0; i < count; ++i) {
        Image& picture =
            pictures.emplace_back(Image{.height = height, .width = width, .pixels = {}});
        for (int byte = 0; byte < height * width * 4; ++byte) {
            picture.pixels.push_back(static_cast<std::uint8_t>(1 + (byte * 7 + i * 31) % 250));
        }
    }
    const Layout layout = nca::tool::nearly_square(pictures.size());
    const Image whole = nca::tool::mosaic(pictures, layout, background);
    const GridSize size = nca::tool::mosaic_size(layout, {height, width});
    REQUIRE(whole.height == size.height);
    REQUIRE(whole.width == size.width);
    REQUIRE(size.height == layout.rows * height + (layout.rows - 1) * 2);
    REQUIRE(size.width == layout.columns * width + (layout.columns - 1) * 2);
    REQUIRE(whole.pixels.size() == std::size_t(size.height) * size.width * 4);
    for (int y = 0; y < whole.height; ++y) {
        for (int x = 0; x < whole.width; ++x) {
            const int row = y % (height + 2), column = x % (width + 2);
            const int index = y / (height + 2) * layout.columns + x / (width + 2);
            const bool inside = row < height && column < width && index < count;
            for (int c = 0; c < 4; ++c) {
                const int expected =
                    inside ? pictures[std::size_t(index)].pixel(row, column)[c] : background;
                REQUIRE(int{whole.pixel(y, x)[c]} == expected);
            }
        }
    }
}
