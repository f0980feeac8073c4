// SPDX-License-Identifier: MIT
// A model's file. What is read is written and read again, and must be the same.
#include "host/files/model_file.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace nca;

namespace {

Model parse(std::span<const std::uint8_t> bytes) {
    return take_model(SafetensorsReader(bytes, "input"));
}

std::vector<std::uint8_t> encode(const Model& model) {
    SafetensorsFile file;
    put_model(model, file);
    return encode_safetensors(file);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto model = fuzz::unless_refused([&] { return parse(fuzz::with_zeros({data, size})); });
    if (!model) return 0;
    const auto bytes = encode(*model);
    const Model again = parse(bytes);
    fuzz::require(again.rule == model->rule, "expected the same rule");
    fuzz::require(again.weights == model->weights, "expected the same weights");
    // The loss may be NaN, so histories are compared as text.
    fuzz::require(encode(again) == bytes, "expected the same history");
    return 0;
}
