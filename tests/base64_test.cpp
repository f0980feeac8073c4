// SPDX-License-Identifier: MIT
#include "host/files/base64.hpp"

#include <nca/error.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/temporary_directory.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace {

using Catch::Matchers::ContainsSubstring;
using nca::test::message_of;
using Bytes = std::vector<std::uint8_t>;

Bytes bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

std::string refused(std::string_view text) {
    return message_of<nca::FormatError>([&] { nca::decode_base64(text, "the text"); });
}

}  // namespace

TEST_CASE("base64 agrees with the test vectors of RFC 4648 both ways") {
    const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                           {"f", "Zg=="},
                                                           {"fo", "Zm8="},
                                                           {"foo", "Zm9v"},
                                                           {"foob", "Zm9vYg=="},
                                                           {"fooba", "Zm9vYmE="},
                                                           {"foobar", "Zm9vYmFy"}};
    for (const auto& [plain, encoded] : vectors) {
        CAPTURE(plain);
        REQUIRE(nca::encode_base64(bytes_of(plain)) == encoded);
        REQUIRE(nca::decode_base64(encoded, "x") == bytes_of(plain));
        REQUIRE(nca::base64_size(std::string_view(plain).size()) ==
                std::string_view(encoded).size());
    }
    const Bytes edges = {0xFB, 0xFF, 0xBF, 0x00, 0x10, 0x83};
    REQUIRE(nca::encode_base64(edges) == "+/+/ABCD");
}

TEST_CASE("all bytes come back from base64 at every length") {
    Bytes bytes;
    for (int i = 0; i < 600; ++i) {
        REQUIRE(nca::decode_base64(nca::encode_base64(bytes), "x") == bytes);
        bytes.push_back(static_cast<std::uint8_t>(i * 37 + i / 256));
    }
}

TEST_CASE("what is not base64 is refused") {
    for (const char* text : {"Z", "Zg", "Zg=", "Zm9vY", "Zg===", "="}) {
        CAPTURE(text);
        REQUIRE_THAT(refused(text),
                     ContainsSubstring("the text has") && ContainsSubstring("multiple of 4"));
    }
    REQUIRE_THAT(refused("Zm9-"), ContainsSubstring("has \"-\" as character 3"));
    for (const char* text : {"Zm 9", "Zm9\n", "Z\u00e99", "=Zm9", "Zm=v",
                             "====", "Z===", "Zg==Zg==", "Zm8=Zm8=", "Zm9_", "Zm.9"}) {
        CAPTURE(text);
        REQUIRE_THAT(refused(text),
                     ContainsSubstring("the text has") && ContainsSubstring("as character"));
    }
    REQUIRE_THAT(refused(std::string_view("Zm\0v", 4)), ContainsSubstring("\\u0000"));
    for (const char* text : {"Zh==", "Zm9=", "Z/=="}) {
        CAPTURE(text);
        REQUIRE_THAT(refused(text), ContainsSubstring("bits that belong to no byte"));
    }
}
