// SPDX-License-Identifier: MIT
#include "host/tool/safe_text.hpp"
#include "host/core/throw_error.hpp"

#include "tests/support/catch.hpp"
#include "tests/support/process.hpp"

#include <string>
#include <utility>
#include <vector>

using namespace nca::tool;

TEST_CASE("what a terminal would obey is replaced, and the rest stays") {
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"lizard.png", "lizard.png"},
        {"é 日本 🦎 ß", "é 日本 🦎 ß"},
        {"a\x1b[31mb\x7f\r\n", "a?[31mb???"},
        {std::string("a\0b", 3), "a?b"},
        {"a\xc2\x9b"
         "31mb",
         "a?31mb"},  // U+009B, one character for ESC [
        {"a\x9b"
         "31mb",
         "a?31mb"},  // the same as a byte of Latin-1
        {"\xc2\x80\xc2\x9f\xc2\xa0", "??\xc2\xa0"},
        {"fish\u202egnp.exe", "fish?gnp.exe"},
        {"\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069", "?????????"},
        {"\u2027\u202f\u2065\u206a\u200d", "\u2027\u202f\u2065\u206a\u200d"},
        {"\xe9t\xe9", "?t?"},               // Latin-1
        {"\xc0\x9b", "??"},                 // too long a form of U+001B
        {"\xe0\x82\x9b", "???"},            // too long a form of U+009B
        {"\xed\xa0\x80", "???"},            // half of a pair of UTF-16
        {"\xf4\x90\x80\x80", "????"},       // above U+10FFFF
        {"\xf0\x9f\xa6", "???"},            // cut off
        {"\xf8\x88\x80\x80\x80", "?????"},  // not UTF-8 any more
    };
    for (const auto& [text, expected] : cases) {
        INFO(text);
        REQUIRE(without_controls(text) == expected);
        REQUIRE(without_controls(without_controls(text)) == expected);
    }
    for (std::uint32_t code = 0x80; code < 0xA0; ++code) {
        REQUIRE(without_controls(std::string{char(0xC2), char(code)}) == "?");
        REQUIRE(without_controls(std::string{char(code)}) == "?");
    }
}

TEST_CASE("a quoted word is the same word after a shell has read it") {
    const std::string words[] = {"lizard.png",
                                 "two words",
                                 "",
                                 "it's",
                                 "$HOME `id` \\ \"",
                                 "-x=1",
                                 "é 🦎",
                                 "*",
                                 "~",
                                 "\xe9t\xe9",
                                 "a\tb\nc",
                                 "\xc2\x9b"
                                 "31m's \\",
                                 "\u202e",
                                 "#",
                                 "!!",
                                 "\x7f"};
    for (const std::string& word : words) {
        const std::string quoted = shell_quoted(word);
        INFO(quoted);
        REQUIRE(without_controls(quoted) == quoted);
        const nca::test::Outcome outcome =
            nca::test::Process({"/bin/bash", "-c", "printf %s " + quoted}).wait();
        REQUIRE(outcome.code == 0);
        REQUIRE(outcome.out == word);
    }
    REQUIRE(shell_quoted("out/lizard-1_a.png") == "out/lizard-1_a.png");
    REQUIRE(shell_quoted("été") == "été");
}

TEST_CASE("a long text keeps its begin and its end, in less than 400 bytes") {
    const std::string begin = "cannot read ";
    const std::string end = ": there is no such file";
    REQUIRE(nca::shortened(begin + end) == begin + end);
    REQUIRE(nca::shortened(std::string(399, 'x')) == std::string(399, 'x'));
    for (const std::string& part : {std::string("x"), std::string("é"), std::string("日"),
                                    std::string("🦎"), std::string("\x80")}) {
        for (const std::size_t parts : {400, 1000, 1001, 1002, 1003, 300000}) {
            std::string text = begin;
            for (std::size_t i = 0; i < parts; ++i) text += part;
            const std::string result = nca::shortened(text + end);
            REQUIRE(result.size() < 400);
            REQUIRE(result.size() > 380);
            REQUIRE(result.starts_with(begin));
            REQUIRE(result.ends_with(end));
            // No character is cut in two.
            if (part != "\x80") REQUIRE(without_controls(result) == result);
        }
    }
}
