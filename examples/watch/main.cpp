// SPDX-License-Identifier: MIT
// Writes an automaton's life to standard output, one PPM picture after the other. It grows; then a
// circle is cut out from time to time, and heals.
#include <unistd.h>
#include <nca/nca.hpp>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

namespace {

constexpr int side = 72;         // of the grid, in cells
constexpr int cut_every = 150;   // frames; each is one step
constexpr double distance = 12;  // of a cut from the middle, in cells
constexpr double radius = 8;

// 0 where the text is not a number.
int number(std::string_view text) {
    int value = 0;
    const char* last = text.data() + text.size();
    const auto [end, error] = std::from_chars(text.data(), last, value);
    return error == std::errc() && end == last ? value : 0;
}

// Whether it could be written. A PPM has a header, then red, green and blue of each pixel.
bool write_ppm(const nca::Image& picture) {
    std::vector<std::uint8_t> rgb(picture.pixels.size() / 4 * 3);
    for (std::size_t i = 0; i < rgb.size() / 3; ++i)
        std::memcpy(&rgb[3 * i], &picture.pixels[4 * i], 3);
    std::printf("P6\n%d %d\n255\n", picture.width, picture.height);
    return std::fwrite(rgb.data(), 1, rgb.size(), stdout) == rgb.size() && std::fflush(stdout) == 0;
}

}  // namespace

int main(int argc, char** argv) {
    const int frames = argc == 3 ? number(argv[2]) : 600;
    if (argc < 2 || argc > 3 || frames < 1 || isatty(STDOUT_FILENO)) {
        std::fprintf(stderr, "usage: watch MODEL [FRAMES] | ffplay -\n");
        return 2;
    }
    std::signal(SIGPIPE, SIG_IGN);  // a write into a closed pipe then fails with EPIPE
    try {
        nca::Simulator simulator(nca::Model::load(argv[1]), {.height = side, .width = side});
        simulator.plant_seed();
        for (int frame = 0; frame < frames; ++frame) {
            if (frame > 0 && frame % cut_every == 0) {
                const double angle = frame;  // in radians: a new direction each time
                simulator.erase_circle(side / 2 + distance * std::sin(angle),
                                       side / 2 + distance * std::cos(angle), radius);
            }
            if (!write_ppm(nca::enlarge(nca::on_white(simulator.picture()), 8))) {
                if (errno == EPIPE) return 0;  // whoever watched has seen enough
                std::fprintf(stderr, "cannot write to standard output: %s\n", std::strerror(errno));
                return 1;
            }
            simulator.step();
        }
    } catch (const nca::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
