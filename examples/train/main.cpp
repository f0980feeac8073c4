// SPDX-License-Identifier: MIT
// Trains an automaton on a picture that is drawn in memory, a heart, and saves the automaton and an
// animation of its growth. Ctrl-C ends the training early and saves both.
#include <nca/nca.hpp>

#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <string_view>
#include <vector>

namespace {

volatile std::sig_atomic_t stopped = 0;

// 0 where the text is not a number.
int number(std::string_view text) {
    int value = 0;
    const char* last = text.data() + text.size();
    const auto [end, error] = std::from_chars(text.data(), last, value);
    return error == std::errc() && end == last ? value : 0;
}

// Large; the trainer scales it to the size in cells, which makes its edge smooth.
nca::Image draw_heart() {
    constexpr int side = 240;  // pixels
    nca::Image image{side, side, std::vector<std::uint8_t>(4 * side * side)};
    for (int y = 0; y < side; ++y)
        for (int x = 0; x < side; ++x) {
            const double right = 2.4 * x / side - 1.2, up = 1.3 - 2.4 * y / side;
            const double depth =
                right * right * up * up * up - std::pow(right * right + up * up - 1, 3);
            if (depth < 0) continue;  // outside: transparent
            const double shine = std::exp(-4 * std::hypot(right + 0.45, up - 0.45));
            std::uint8_t* pixel = image.pixel(y, x);
            pixel[0] = 225 + 30 * shine;
            pixel[1] = pixel[2] = 30 + 200 * shine;
            pixel[3] = 255;
        }
    return image;
}

void save(const nca::Trainer& trainer, const char* model_path, const char* picture_path) {
    const nca::Model model = trainer.model();
    model.save(model_path);
    const int side = trainer.config().grid();
    nca::Simulator simulator(model, {.height = side, .width = side});
    simulator.plant_seed(side / 2, side / 2);
    std::vector<nca::Image> frames;
    for (int frame = 0; frame <= 48; ++frame) {
        frames.push_back(nca::enlarge(nca::on_white(simulator.picture()), 8));
        simulator.step(2);
    }
    nca::save_webp(picture_path, frames, 4);
}

}  // namespace

int main(int argc, char** argv) {
    const int iterations = argc == 4 ? number(argv[3]) : 1000;
    if (argc < 3 || argc > 4 || iterations < 1) {
        std::fprintf(stderr, "usage: train NEW_MODEL.safetensors NEW_PICTURE.webp [ITERATIONS]\n");
        return 2;
    }
    std::signal(SIGINT, [](int) { stopped = 1; });
    std::signal(SIGPIPE, SIG_IGN);  // Ctrl-C ends `train ... | tee log` too, but not the training
    try {
        nca::TrainingConfig config = nca::preset("growing");
        config.target_size = 20;  // cells
        config.padding = 8;
        nca::Trainer trainer(draw_heart(), config);
        trainer.set_target_name("heart");
        save(trainer, argv[1], argv[2]);  // a path that cannot be written fails now
        while (trainer.iteration() < iterations && !stopped) {
            for (const nca::IterationReport& report :
                 trainer.iterate(int(iterations - trainer.iteration()))) {
                if (report.iteration % 50 == 0 || report.iteration + 1 == iterations)
                    std::printf("iteration %d: loss %.5f\n", int(report.iteration), report.loss);
                if (!report.recovery.empty()) std::printf("%s\n", report.recovery.c_str());
            }
            std::fflush(stdout);
        }
        save(trainer, argv[1], argv[2]);
        std::printf("%d iterations: saved %s and %s\n", int(trainer.iteration()), argv[1], argv[2]);
    } catch (const nca::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
