// SPDX-License-Identifier: MIT
// A log that a resumed training goes on with: its first iteration in 8 bytes, little-endian, and
// the old file. A resume over the new file must change nothing.
#include "host/tool/training_log.hpp"
#include "tests/fuzz/folder.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace nca;

namespace {

// The log as it is after a resume without an iteration; nothing where the old file is refused.
std::optional<std::vector<std::uint8_t>> resumed(const std::filesystem::path& path,
                                                 std::int64_t first_iteration) {
    return fuzz::unless_refused([&] {
        tool::TrainingLog(path, first_iteration, "cpu").sync();
        return test::read_bytes(path);
    });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const auto path = fuzz::folder() / "log.csv";
    std::int64_t first_iteration = 0;
    if (size < sizeof(first_iteration)) return 0;
    std::memcpy(&first_iteration, data, sizeof(first_iteration));
    test::write_bytes(path, {data + sizeof(first_iteration), size - sizeof(first_iteration)});
    const auto log = resumed(path, first_iteration);
    if (log) fuzz::require(resumed(path, first_iteration) == log, "expected the same log");
    return 0;
}
