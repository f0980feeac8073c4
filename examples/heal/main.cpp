// SPDX-License-Identifier: MIT
#include <nca/nca.hpp>

#include <cstdio>

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: heal MODEL NEW_PICTURE.png\n");
        return 2;
    }
    try {
        const nca::Model model = nca::Model::load(argv[1]);
        nca::Simulator simulator(model, {.height = 72, .width = 72});
        simulator.plant_seed();
        simulator.step(100);
        simulator.erase_circle(30, 30, 8);
        simulator.step(100);
        nca::save_png(argv[2], nca::enlarge(simulator.picture(), 8));
    } catch (const nca::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
