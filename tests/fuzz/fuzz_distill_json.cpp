// SPDX-License-Identifier: MIT
// A json file of the Distill article's web demo. What is read is written and read again, and its
// weights must be as near as the format promises (nca/model.hpp).
#include "host/files/distill_json.hpp"
#include "tests/fuzz/fuzz.hpp"

#include <cmath>
#include <limits>

using namespace nca;

namespace {

float largest_magnitude(std::span<const float> values) {
    float largest = 0;
    for (const float value : values) largest = std::max(largest, std::abs(value));
    return largest;
}

bool near(std::span<const float> got, std::span<const float> expected) {
    const double tolerance =
        largest_magnitude(expected) / 255.0 + std::numeric_limits<float>::denorm_min();
    return std::ranges::equal(got, expected,
                              [=](double a, double b) { return std::abs(a - b) <= tolerance; });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto model = fuzz::unless_refused([&] { return parse_distill_json(text, "input"); });
    if (!model) return 0;
    const Model again = parse_distill_json(encode_distill_json(model->weights), "output");
    for (const ParameterTensor& tensor : parameter_tensors(true)) {
        fuzz::require(near(again.weights.all().subspan(tensor.offset, tensor.size),
                           model->weights.all().subspan(tensor.offset, tensor.size)),
                      "expected nearly the same weights");
    }
    return 0;
}
