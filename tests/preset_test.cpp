// SPDX-License-Identifier: MIT
// Presets, their validation, and the target as training sees it.
#include "tests/support/catch.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/training.hpp"

#include <nca/error.hpp>
#include <nca/trainer.hpp>

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

using namespace nca;
using Catch::Matchers::ContainsSubstring;
using test::message_of;

namespace {

const float not_a_number = std::numeric_limits<float>::quiet_NaN();
const float infinity = std::numeric_limits<float>::infinity();

void require_what_both_presets_share(const TrainingConfig& config) {
    REQUIRE(config.learning_rate == 2e-3F);
    REQUIRE(config.beta1 == 0.9F);
    REQUIRE(config.beta2 == 0.999F);
    REQUIRE(config.batch == 8);
    REQUIRE(config.fewest_steps == 64);
    REQUIRE(config.most_steps == 96);
    REQUIRE(config.target_size == 40);
    REQUIRE(config.seed == 0);
    REQUIRE(config.rule.fire_rate == 0.5F);
    REQUIRE(config.rule.step_size == 1);
    REQUIRE(config.rule.filters[0] == Filter{0, 0, 0, 0, 1, 0, 0, 0, 0});
    REQUIRE_NOTHROW(config.validate());
}

// An image of one colour, with straight alpha.
Image plain(int height, int width, std::array<std::uint8_t, 4> colour) {
    Image image{height, width, {}};
    for (int i = 0; i < height * width; ++i) {
        image.pixels.insert(image.pixels.end(), colour.begin(), colour.end());
    }
    return image;
}

std::vector<float> target_cell(const std::vector<float>& target, int grid, int y, int x) {
    const auto cell = target.begin() + (std::ptrdiff_t(y) * grid + x) * visible_channels;
    return {cell, cell + visible_channels};
}

// Every cell of the box is opaque, every other one zero.
void require_opaque_box(const std::vector<float>& target, int grid, int top, int left, int height,
                        int width) {
    REQUIRE(target.size() == std::size_t(grid) * grid * visible_channels);
    for (int y = 0; y < grid; ++y) {
        for (int x = 0; x < grid; ++x) {
            INFO("cell " << y << ", " << x);
            const bool in_box = y >= top && y < top + height && x >= left && x < left + width;
            REQUIRE(target_cell(target, grid, y, x) ==
                    (in_box ? std::vector<float>{1, 0, 1, 1} : std::vector<float>(4)));
        }
    }
}

}  // namespace

TEST_CASE("the notebook preset has the notebook's values") {
    const TrainingConfig config = preset("notebook");
    require_what_both_presets_share(config);
    REQUIRE(config.preset == "notebook");
    REQUIRE(config.padding == 0);
    REQUIRE(config.grid() == 40);
    REQUIRE_FALSE(config.output_bias);
    REQUIRE(config.initialisation == Initialisation::pytorch);
    REQUIRE(config.schedule == Schedule::exponential);
    REQUIRE_FALSE(config.normalise_gradients);
    REQUIRE(config.rule.edges == Edges::circular);
    REQUIRE(config.rule.life == Life::post);
    REQUIRE(config.rule.start_cell == StartCell::alpha);
    REQUIRE_FALSE(config.rule.premultiplied);
    REQUIRE(config.rule.filters[1] == Filter{-1, 0, 1, -2, 0, 2, -1, 0, 1});
    REQUIRE(config.rule.filters[2] == Filter{-1, -2, -1, 0, 0, 0, 1, 2, 1});
}

TEST_CASE("the growing preset has the values of the paper's first experiment") {
    const TrainingConfig config = preset("growing");
    require_what_both_presets_share(config);
    REQUIRE(config.preset == "growing");
    REQUIRE(config.padding == 16);
    REQUIRE(config.grid() == 72);
    REQUIRE(config.output_bias);
    REQUIRE(config.initialisation == Initialisation::glorot);
    REQUIRE(config.schedule == Schedule::drop);
    REQUIRE(config.normalise_gradients);
    REQUIRE(config.rule.edges == Edges::zero);
    REQUIRE(config.rule.life == Life::pre_and_post);
    REQUIRE(config.rule.start_cell == StartCell::alpha_and_hidden);
    REQUIRE(config.rule.premultiplied);
    REQUIRE(config.rule.filters[1] ==
            Filter{-0.125F, 0, 0.125F, -0.25F, 0, 0.25F, -0.125F, 0, 0.125F});
    REQUIRE(config.rule.filters[2] ==
            Filter{-0.125F, -0.25F, -0.125F, 0, 0, 0, 0.125F, 0.25F, 0.125F});
}

TEST_CASE("the persistent and regenerating presets add a pool and damage to growing") {
    for (const std::string name : {"persistent", "regenerating"}) {
        TrainingConfig config = preset(name);
        REQUIRE(config.preset == name);
        REQUIRE(config.pool == 1024);
        REQUIRE(config.damaged == (name == "regenerating" ? 3 : 0));
        REQUIRE(config.damage_centre == 0.5F);
        REQUIRE(config.smallest_damage == 0.1F);
        REQUIRE(config.largest_damage == 0.4F);
        config.preset = "growing";
        config.pool = config.damaged = 0;
        REQUIRE(config == preset("growing"));
    }
    REQUIRE(preset("growing").pool == 0);
    REQUIRE(preset("notebook").pool == 0);
}

TEST_CASE("other presets are refused by name, with those that there are") {
    for (const std::string name : {"lizard", "", "Growing", "growing "}) {
        const std::string message = message_of<InvalidArgument>([&] { preset(name); });
        REQUIRE_THAT(message, ContainsSubstring('"' + name + '"') && ContainsSubstring("growing") &&
                                  ContainsSubstring("notebook"));
    }
}

namespace {

// Different ones, in an 11 x 10 corner.
std::vector<Place> places(int count) {
    std::vector<Place> cells;
    for (int i = 0; i < count; ++i) cells.push_back({i / 10, i % 10});
    return cells;
}

}  // namespace

TEST_CASE("a configuration's bad field is refused by name") {
    using Change = std::function<void(TrainingConfig&)>;
    const std::pair<Change, std::string> bad[] = {
        {[](auto& c) { c.batch = 0; }, "batch is 0"},
        {[](auto& c) { c.batch = -3; }, "batch is -3"},
        {[](auto& c) { c.batch = 4097; }, "batch is 4097"},
        {[](auto& c) { c.fewest_steps = 0; }, "smallest number of steps is 0"},
        {[](auto& c) { c.most_steps = c.fewest_steps; }, "range of steps is 64"},
        {[](auto& c) { c.fewest_steps = 96, c.most_steps = 64; }, "range of steps is 64"},
        {[](auto& c) { c.most_steps = 100001; }, "range of steps is 100001"},
        {[](auto& c) { c.latest_loss_step = 96; }, "smallest step of the loss is 0: expected 1 to"},
        {[](auto& c) { c.earliest_loss_step = 65, c.latest_loss_step = 96; },
         "smallest step of the loss is 65: expected 1 to 64"},
        {[](auto& c) { c.earliest_loss_step = 64; }, "end of the steps of the loss is 0"},
        {[](auto& c) { c.earliest_loss_step = 64, c.latest_loss_step = 64; },
         "end of the steps of the loss is 64: expected 65 to 96"},
        {[](auto& c) { c.earliest_loss_step = 64, c.latest_loss_step = 97; },
         "end of the steps of the loss is 97: expected 65 to 96"},
        {[](auto& c) { c.warmup = -1; }, "warmup is -1"},
        {[](auto& c) { c.pool = 7; }, "pool is 7: expected 0, or at least the batch, which is 8"},
        {[](auto& c) { c.pool = -1; }, "pool is -1"},
        {[](auto& c) { c.pool = 65537; }, "pool is 65537"},
        {[](auto& c) { c.pool = 99, c.target_size = 4000, c.padding = 49; }, "side is 4098"},
        {[](auto& c) { c.damaged = 1; }, "damage is 1: expected 0, as there is no pool"},
        {[](auto& c) { c.pool = 99, c.damaged = -1; }, "damage is -1"},
        {[](auto& c) { c.pool = 99, c.damaged = 8; }, "less than the batch, which is 8"},
        {[](auto& c) { c.damage_centre = 1.5F; }, "damage's centre is 1.5"},
        {[](auto& c) { c.damage_centre = not_a_number; }, "damage's centre is nan"},
        {[](auto& c) { c.smallest_damage = -0.1F; }, "smallest radius of damage is -0.1"},
        {[](auto& c) { c.smallest_damage = 0.5F; }, "smallest radius of damage is 0.5"},
        {[](auto& c) { c.largest_damage = not_a_number; }, "largest radius of damage is nan"},
        {[](auto& c) { c.largest_damage = 5; }, "largest radius of damage is 5"},
        {[](auto& c) { c.target_size = 7; }, "size is 7"},
        {[](auto& c) { c.target_size = -1; }, "size is -1"},
        {[](auto& c) { c.target_size = 4097; }, "size is 4097"},
        {[](auto& c) { c.padding = -1; }, "padding is -1"},
        {[](auto& c) { c.padding = 4097; }, "padding is 4097"},
        {[](auto& c) { c.learning_rate = 0; }, "learning rate is 0"},
        {[](auto& c) { c.learning_rate = -1; }, "learning rate is -1"},
        {[](auto& c) { c.learning_rate = not_a_number; }, "learning rate is nan"},
        {[](auto& c) { c.learning_rate = infinity; }, "learning rate is inf"},
        {[](auto& c) { c.beta1 = 1; }, "beta1 is 1"},
        {[](auto& c) { c.beta1 = not_a_number; }, "beta1 is nan"},
        {[](auto& c) { c.beta2 = -0.5F; }, "beta2 is -0.5"},
        {[](auto& c) { c.beta2 = 1; }, "beta2 is 1"},
        {[](auto& c) { c.initialisation = Initialisation(2); }, "initialisation is 2"},
        {[](auto& c) { c.schedule = Schedule(-1); }, "schedule is -1"},
        {[](auto& c) { c.rule.fire_rate = 2; }, "fire_rate is 2"},
        {[](auto& c) { c.rule.step_size = not_a_number; }, "step_size is nan"},
        {[](auto& c) { c.rule.filters[2][8] = infinity; }, "filter has the value inf"},
        {[](auto& c) { c.rule.edges = Edges(7); }, "edges is 7"},
        {[](auto& c) {
             c.start_cells = {{5, 6}, {72, 3}};
         },
         "the start cell in column 3 and row 72 is outside the grid of 72x72 cells"},
        {[](auto& c) {
             c.start_cells = {{3, -1}};
         },
         "column -1 and row 3 is outside"},
        {[](auto& c) {
             c.start_cells = {{3, 4}, {5, 6}, {3, 4}};
         },
         "the start cell in column 4 and row 3 is given twice"},
        {[](auto& c) { c.start_cells = places(65); }, "65 start cells: expected at most 64"},
    };
    for (const auto& [change, expected] : bad) {
        TrainingConfig config = preset("growing");
        change(config);
        REQUIRE_THAT(message_of<InvalidArgument>([&] { config.validate(); }),
                     ContainsSubstring(expected));
        REQUIRE_THROWS_AS(make_target(test::small_picture(), config), InvalidArgument);
        REQUIRE_THROWS_AS(Trainer(test::small_picture(), config, Device::cpu(1)), InvalidArgument);
    }
    const Change good[] = {
        [](auto& c) { c.batch = 1; },
        [](auto& c) { c.fewest_steps = 1, c.most_steps = 2; },
        [](auto& c) { c.most_steps = 100000; },
        [](auto& c) { c.earliest_loss_step = 1, c.latest_loss_step = 2; },
        [](auto& c) { c.earliest_loss_step = 64, c.latest_loss_step = 96; },
        [](auto& c) { c.target_size = 8, c.padding = 0; },
        [](auto& c) { c.beta1 = 0, c.beta2 = 0; },
        [](auto& c) { c.rule.fire_rate = 0; },
        [](auto& c) { c.rule.fire_rate = 1; },
        [](auto& c) {
            c.start_cells = {{0, 0}, {0, 39}, {39, 39}};
        },
        [](auto& c) { c.start_cells = places(64); },
    };
    for (const auto& change : good) {
        TrainingConfig config = preset("notebook");
        change(config);
        REQUIRE_NOTHROW(config.validate());
    }
}

TEST_CASE("the target is a 40 x 40 picture in the middle of 72 x 72 dead cells") {
    const TrainingConfig config = preset("growing");
    require_opaque_box(make_target(plain(40, 40, {255, 0, 255, 255}), config), 72, 16, 16, 40, 40);
    require_opaque_box(make_target(plain(128, 128, {255, 0, 255, 255}), config), 72, 16, 16, 40,
                       40);
}

TEST_CASE("a target that is not square keeps its aspect, in the middle") {
    TrainingConfig config = preset("growing");
    const auto opaque = [](int height, int width) {
        return plain(height, width, {255, 0, 255, 255});
    };
    require_opaque_box(make_target(opaque(10, 20), config), 72, 26, 16, 20, 40);
    require_opaque_box(make_target(opaque(80, 20), config), 72, 16, 31, 40, 10);
    // A side that rounds to nothing is one cell.
    require_opaque_box(make_target(opaque(1, 200), config), 72, 35, 16, 1, 40);
}

TEST_CASE("an odd rest around the target goes to the bottom and the right") {
    TrainingConfig config = preset("growing");
    config.target_size = 9;
    config.padding = 3;
    // 5 x 8 pixels become 6 x 9 cells, 9 * 5 / 8 being 5.6; 15 - 6 leaves 4 above and 5 below.
    require_opaque_box(make_target(plain(5, 8, {255, 0, 255, 255}), config), 15, 4, 3, 6, 9);
    config.padding = 0;
    require_opaque_box(make_target(plain(9, 4, {255, 0, 255, 255}), config), 9, 0, 2, 9, 4);
}

TEST_CASE("target colours are premultiplied exactly where the rule says so") {
    TrainingConfig config = preset("notebook");
    const Image image = plain(40, 40, {255, 51, 0, 102});
    const auto straight = target_cell(make_target(image, config), 40, 20, 20);
    REQUIRE(straight == std::vector<float>{1, 51.0F / 255, 0, 102.0F / 255});
    config.rule.premultiplied = true;
    const auto premultiplied = target_cell(make_target(image, config), 40, 20, 20);
    REQUIRE(premultiplied ==
            std::vector<float>{102.0F / 255, 51.0F / 255 * (102.0F / 255), 0, 102.0F / 255});
}

TEST_CASE("a target of the right size is its pixels, each in its place") {
    TrainingConfig config = preset("notebook");
    config.target_size = 8;
    config.padding = 1;
    const Image image = test::small_picture();
    const auto target = make_target(image, config);
    for (int y = 0; y < 8; ++y) {
        for (int x = 0; x < 8; ++x) {
            const auto cell = target_cell(target, 10, y + 1, x + 1);
            REQUIRE(cell[3] == float(image.pixel(y, x)[3]) / 255);
            for (int c = 0; c < 3 && cell[3] > 0; ++c) {
                REQUIRE(cell[c] == float(image.pixel(y, x)[c]) / 255);
            }
        }
    }
}

TEST_CASE("a target is enlarged by squares where the factor is whole, and smoothly elsewhere") {
    TrainingConfig config = preset("notebook");
    config.rule.premultiplied = false;
    config.padding = 1;
    const Image image = test::small_picture(6, 8);
    for (const int size : {8, 16, 24, 20, 39, 41}) {
        CAPTURE(size);
        config.target_size = size;
        const Image expected = size % 8 == 0 ? enlarge(image, size / 8)
                                             : resize(image, int(std::lround(size * 0.75)), size);
        const auto target = make_target(image, config);
        const int grid = size + 2;
        const int top = (grid - expected.height) / 2;
        for (int y = 0; y < grid; ++y) {
            for (int x = 0; x < grid; ++x) {
                const bool inside = y >= top && y < top + expected.height && x >= 1 && x <= size;
                const auto cell = target_cell(target, grid, y, x);
                const float alpha = inside ? float(expected.pixel(y - top, x - 1)[3]) / 255 : 0.0F;
                REQUIRE(cell[3] == alpha);
                if (alpha == 0) continue;
                for (std::size_t c = 0; c < 3; ++c) {
                    REQUIRE(cell[c] == float(expected.pixel(y - top, x - 1)[c]) / 255);
                }
            }
        }
    }
}

TEST_CASE("an image without pixels is no target") {
    REQUIRE_THROWS_AS(make_target(Image{}, preset("growing")), InvalidArgument);
    Image broken{8, 8, std::vector<std::uint8_t>(8 * 8 * 4 - 1)};
    REQUIRE_THROWS_AS(make_target(broken, preset("growing")), InvalidArgument);
}

TEST_CASE("a target of which nothing visible is left once it is scaled is refused") {
    Image image{400, 400, std::vector<std::uint8_t>(std::size_t{400} * 400 * 4)};
    image.pixel(200, 200)[3] = 255;
    REQUIRE_THROWS_AS(make_target(image, preset("growing")), FormatError);
    for (std::uint8_t& value : image.pixels) value = 20;  // alpha 0.08: nothing there lives
    REQUIRE_THROWS_AS(make_target(image, preset("notebook")), FormatError);
    for (std::uint8_t& value : image.pixels) value = 30;
    REQUIRE_NOTHROW(make_target(image, preset("notebook")));
}
