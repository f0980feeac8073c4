// SPDX-License-Identifier: MIT
// A command line: the words after `nca`, one per line.
#include "host/tool/arguments/arguments.hpp"
#include "tests/fuzz/fuzz.hpp"

#include <string>

using namespace nca;

namespace {

std::vector<std::string> words_of(std::string_view text) {
    std::vector<std::string> words = {"nca"};
    for (;;) {
        const std::size_t end = text.find_first_of(std::string_view("\0\n", 2));
        words.emplace_back(text.substr(0, end));
        if (end == std::string_view::npos) return words;
        text.remove_prefix(end + 1);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto words = words_of({reinterpret_cast<const char*>(data), size});
    std::vector<const char*> argv;
    for (const std::string& word : words) argv.push_back(word.c_str());
    argv.push_back(nullptr);
    // The message has words as they were given; the tool replaces control characters in it.
    const auto arguments = fuzz::unless_refused(
        [&] { return tool::parse_arguments(int(words.size()), argv.data()); }, fuzz::check_size);
    if (!arguments) return 0;
    if (const auto* train = std::get_if<tool::TrainArguments>(&*arguments)) {
        if (train->resume.empty()) train->config.validate();
    }
    return 0;
}
