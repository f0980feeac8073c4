// SPDX-License-Identifier: MIT
// Steps an automaton and catches an exception across the library's edge, as a user's program would.
#include <nca/nca.hpp>

#include <cstdio>
#include <exception>

namespace {

// A model of zeros changes nothing: the start cell must still be there, and nothing else.
bool start_cell_stays() {
    const nca::Model model;
    nca::Simulator simulator(model, {.device = nca::Device::cpu(1), .height = 5, .width = 7});
    simulator.plant_seed(2, 3);
    simulator.step(3);
    const nca::Image picture = simulator.picture();
    if (picture.height != 5 || picture.width != 7) return false;
    for (int y = 0; y < picture.height; ++y)
        for (int x = 0; x < picture.width; ++x) {
            const bool is_start = y == 2 && x == 3;
            if (picture.pixel(y, x)[nca::alpha_channel] != (is_start ? 255 : 0)) return false;
        }
    return true;
}

// Each by its own type: what the library hides must not hide the exceptions.
bool no_rows_is_an_invalid_argument() {
    try {
        nca::Simulator(nca::Model(), {.device = nca::Device::cpu(1), .height = 0, .width = 7});
    } catch (const nca::InvalidArgument&) {
        return true;
    }
    return false;
}

bool missing_file_is_an_io_error() {
    try {
        nca::Model::load("no such file.safetensors");
    } catch (const nca::IoError&) {
        return true;
    }
    return false;
}

}  // namespace

int main() try {
    const bool stays = start_cell_stays();
    const bool caught = missing_file_is_an_io_error();
    const bool refused = no_rows_is_an_invalid_argument();
    std::printf(
        "start cell stays: %s\nmissing file is an IoError: %s\nno rows is an InvalidArgument: %s\n",
        stays ? "yes" : "NO", caught ? "yes" : "NO", refused ? "yes" : "NO");
    return stays && caught && refused ? 0 : 1;
} catch (const std::exception& error) {
    std::fprintf(stderr, "consumer: %s\n", error.what());
    return 1;
}
