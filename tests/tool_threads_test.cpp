// SPDX-License-Identifier: MIT
// nca where the system makes fewer threads than --threads asks for.
#include "tests/support/catch.hpp"
#include "tests/support/tool.hpp"

#include <string>

using namespace nca::test;

namespace {

// Address space for a few threads of 8 MB each, and the same for those of OMP_STACKSIZE.
[[maybe_unused]] const Words limits = {
    "ulimit -s 8192 && ulimit -v 300000",
    "ulimit -s 8192 && ulimit -v 3000000 && export OMP_STACKSIZE=256M"};

[[maybe_unused]] Outcome limited_tool(const std::string& limit, const Words& words) {
    return Process(Words{"/bin/sh", "-c", limit + R"( && exec "$@")", "sh"} + tool_command(words))
        .wait();
}

}  // namespace

TEST_CASE("more threads than can be made is one line and exit code 1") {
#ifdef __SANITIZE_ADDRESS__
    WARN("skipped: the address sanitizer needs more address space than any limit leaves");
#else
    const Workshop shop;
    const auto before = shop.contents();
    const std::string limit = GENERATE(from_range(limits));
    CAPTURE(limit);
    const auto train = [&](const std::string& threads) {
        return limited_tool(limit, {"train", shop.target, "-o", shop / "new.safetensors", "--size",
                                    "8", "--padding", "2", "--steps", "2:5", "--iterations", "1",
                                    "--device", "cpu", "--threads", threads, "--quiet"});
    };
    const Outcome refused = train("64");
    require_message(refused, {"cannot compute on 64 threads", "take fewer threads"});
    REQUIRE(refused.code == 1);
    REQUIRE(shop.contents() == before);
    const Outcome grow = limited_tool(
        limit, {"grow", shop.model, "-o", shop / "new.png", "--device", "cpu", "--threads", "64"});
    REQUIRE(contains(grow.err, "\nnca: cannot compute on 64 threads"));
    REQUIRE(grow.code == 1);
    REQUIRE(shop.contents() == before);
    const Outcome taken = train("4");
    INFO(taken.err);
    REQUIRE(taken.code == 0);
#endif
}
