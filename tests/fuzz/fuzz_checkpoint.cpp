// SPDX-License-Identifier: MIT
// A checkpoint. What is read is written and read again, and must be the same.
#include "host/training/checkpoint.hpp"
#include "tests/fuzz/folder.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace nca;

namespace {

bool equal(const Parameters& a, const Parameters& b) {
    return a.weights == b.weights && a.first_moments == b.first_moments &&
           a.second_moments == b.second_moments && a.updates == b.updates;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto bytes = fuzz::with_zeros({data, size});
    const auto checkpoint =
        fuzz::unless_refused([&] { return take_checkpoint(SafetensorsReader(bytes, "input")); });
    if (!checkpoint) return 0;
    static const auto path = fuzz::folder() / "output";
    save_checkpoint(path, *checkpoint, {});
    const Checkpoint again = load_checkpoint(path);
    fuzz::require(first_difference(again.config, checkpoint->config).empty(),
                  "expected the same configuration");
    fuzz::require(again.target_name == checkpoint->target_name &&
                      again.target_hash == checkpoint->target_hash,
                  "expected the same target");
    fuzz::require(again.target == checkpoint->target &&
                      again.wanted_iterations == checkpoint->wanted_iterations,
                  "expected the same target and iterations");
    fuzz::require(again.init == checkpoint->init, "expected the same first weights");
    fuzz::require(again.progress == checkpoint->progress, "expected the same progress");
    fuzz::require(equal(again.current, checkpoint->current), "expected the same parameters");
    fuzz::require(equal(again.anchor, checkpoint->anchor), "expected the same anchor");
    fuzz::require(again.good == checkpoint->good, "expected the same good weights");
    // Hidden channels may be NaN, so pools are compared as they are written.
    const auto written = test::read_bytes(path);
    save_checkpoint(path, again, {});
    fuzz::require(test::read_bytes(path) == written, "expected the same pool");
    return 0;
}
