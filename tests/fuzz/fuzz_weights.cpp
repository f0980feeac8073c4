// SPDX-License-Identifier: MIT
// A safetensors file of another program. The input is as that of fuzz_model (fuzz.hpp). What was
// found is written as a model and read again, and must be the same.
#include "host/files/model_file.hpp"
#include "host/import/found_weights.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace nca;

namespace {

FoundWeights find(std::span<const std::uint8_t> bytes) {
    const SafetensorsReader file(bytes, "input");
    return find_weights(tensors_of(file), "input", OtherTensors::refused);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto found = fuzz::unless_refused([&] { return find(fuzz::with_zeros({data, size})); });
    if (!found) return 0;
    Model model;
    model.weights = found->weights;
    if (found->filters) model.rule.filters = *found->filters;
    for (const std::string& note : found->notes) fuzz::check_message(note);
    SafetensorsFile file;
    put_model(model, file);
    const auto bytes = encode_safetensors(file);
    const Model again = take_model(SafetensorsReader(bytes, "output"));
    fuzz::require(again.weights == model.weights, "expected the same weights");
    fuzz::require(again.rule == model.rule, "expected the same rule");
    return 0;
}
