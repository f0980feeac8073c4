// SPDX-License-Identifier: MIT
// A TensorFlow graph as json. The weights that are found are finite and of the right number.
#include "host/files/json_fields.hpp"
#include "host/files/model_file.hpp"
#include "host/import/tensorflow_graph.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace nca;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto found = fuzz::unless_refused([&] {
        const nlohmann::json json = parse_json(text, "input", 24);
        return find_weights(constants_of_graph(json, "input"), "input", OtherTensors::ignored);
    });
    if (!found) return 0;
    require_finite(found->weights);
    for (const std::string& note : found->notes) fuzz::check_message(note);
    return 0;
}
