// SPDX-License-Identifier: MIT
#pragma once

// Strict reading of JSON from files. A field that is missing, unknown, double, of the wrong type or
// out of range gives a FormatError that names the file and the field.

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "host/core/throw_error.hpp"

namespace nca {

// A text as it comes back from a file: bytes that are not UTF-8 become U+FFFD.
inline std::string as_in_file(std::string_view text) {
    const auto written =
        nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    return nlohmann::json::parse(written).get<std::string>();
}

// Text from a file for a message: in quotes, escaped, and cut where that is long.
inline std::string printable(std::string_view text) {
    constexpr std::size_t most_bytes = 60;
    constexpr std::size_t most_characters = 80;  // an escaped byte has six
    std::size_t bytes = std::min(text.size(), most_bytes);
    for (;;) {
        const auto escaped = nlohmann::json(text.substr(0, bytes))
                                 .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
        if (escaped.size() <= most_characters)
            return bytes < text.size() ? escaped + "..." : escaped;
        bytes /= 2;
    }
}

// Checks JSON without keeping it: how deep it is nested, and that no object names a field twice.
// nlohmann's parser can check as well while it makes the values, but then it takes a time that is
// quadratic in the number of objects.
class JsonCheck final : public nlohmann::json_sax<nlohmann::json> {
public:
    JsonCheck(const std::string& where, int max_depth)
        : where_(where), max_depth_(std::size_t(max_depth)) {}

    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool number_float(number_float_t, const string_t&) override { return true; }
    bool string(string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }

    bool start_object(std::size_t) override { return open(); }
    bool end_object() override { return close(); }
    bool start_array(std::size_t) override { return open(); }
    bool end_array() override { return close(); }

    bool key(string_t& name) override {
        if (!names_.back().insert(name).second) {
            throw_error<FormatError>("{} has {} twice, expected it once; the file is damaged",
                                     where_, printable(name));
        }
        return true;
    }

    bool parse_error(std::size_t byte, const std::string&,
                     const nlohmann::json::exception& error) override {
        if (dynamic_cast<const nlohmann::json::out_of_range*>(&error) != nullptr) {
            throw_error<FormatError>("{} has a number out of range; the file is damaged", where_);
        }
        throw_error<FormatError>("{} is not JSON (byte {}); the file is damaged or of another kind",
                                 where_, byte);
    }

private:
    bool open() {
        if (names_.size() >= max_depth_) {
            throw_error<FormatError>("{} is nested deeper than {} levels; the file is damaged",
                                     where_, max_depth_);
        }
        names_.emplace_back();
        return true;
    }
    bool close() {
        names_.pop_back();
        return true;
    }

    const std::string& where_;
    std::size_t max_depth_;
    std::vector<std::set<std::string>> names_;  // of each object and array that is open
};

// Parses JSON. Refuses nesting deeper than max_depth and objects that name a field twice. Messages
// begin with `where` ("lizard.safetensors: header").
inline nlohmann::json parse_json(std::string_view text, const std::string& where, int max_depth) {
    JsonCheck check(where, max_depth);
    nlohmann::json::sax_parse(text.begin(), text.end(), &check);
    return nlohmann::json::parse(text.begin(), text.end());
}

// The fields of one JSON object. finish() refuses fields that were not read.
class JsonFields {
public:
    JsonFields(std::string_view text, const std::string& where)
        : JsonFields(parse_json(text, where, 4), where) {}
    // An object inside of a larger text. A template, because texts convert to JSON.
    template <std::same_as<nlohmann::json> Json>
    JsonFields(Json object, std::string where)
        : where_(std::move(where)), object_(std::move(object)) {
        if (!object_.is_object()) {
            throw_error<FormatError>("{} is {}, expected an object", where_, object_.type_name());
        }
    }

    // Throws the FormatError for a field. got: JSON or words.
    [[noreturn]] void fail(const std::string& name, const std::string& got,
                           const std::string& expected) const {
        throw_error<FormatError>("{}: field \"{}\" is {}, expected {}", where_, name, got,
                                 expected);
    }
    [[noreturn]] void fail(const std::string& name, const nlohmann::json& got,
                           const std::string& expected) const {
        fail(name, shown(got), expected);
    }

    bool has(const std::string& name) const { return object_.contains(name); }

    const nlohmann::json& take(const std::string& name) {
        taken_.insert(name);
        const auto field = object_.find(name);
        if (field == object_.end()) fail(name, std::string("missing"), "it in the file");
        return *field;
    }
    std::string text(const std::string& name) {
        const auto& value = take(name);
        if (!value.is_string()) fail(name, value, "a text");
        return value.get<std::string>();
    }
    bool boolean(const std::string& name) {
        const auto& value = take(name);
        if (!value.is_boolean()) fail(name, value, "true or false");
        return value.get<bool>();
    }
    double number(const std::string& name) {
        const auto& value = take(name);
        if (!value.is_number()) fail(name, value, "a number");
        return value.get<double>();
    }
    // Rounded to the nearest float; a number that no float can hold is refused.
    float single(const std::string& name) { return to_single(name, take(name)); }
    float to_single(const std::string& name, const nlohmann::json& value) const {
        constexpr double largest = std::numeric_limits<float>::max();
        if (!value.is_number()) fail(name, value, "a number");
        const auto number = value.get<double>();
        if (!(number >= -largest && number <= largest)) fail(name, value, "a 32-bit float");
        return float(number);
    }
    std::int64_t integer(const std::string& name, std::int64_t smallest, std::int64_t largest) {
        const auto& value = take(name);
        // An unsigned number above the largest int64 is out of every range.
        const bool fits =
            value.is_number_integer() &&
            !(value.is_number_unsigned() &&
              value.get<std::uint64_t>() > std::uint64_t(std::numeric_limits<std::int64_t>::max()));
        if (!fits || value.get<std::int64_t>() < smallest || value.get<std::int64_t>() > largest) {
            fail(name, value, fmt::format("an integer in {}..{}", smallest, largest));
        }
        return value.get<std::int64_t>();
    }
    // The index of the text among the names.
    template <std::size_t count>
    std::size_t choice(const std::string& name, const char* const (&names)[count]) {
        const auto& value = take(name);
        std::string expected;
        for (std::size_t i = 0; i < count; ++i) {
            if (value == names[i]) return i;
            expected += fmt::format("{}\"{}\"", i == 0 ? "" : " or ", names[i]);
        }
        fail(name, value, expected);
    }

    void finish() const {
        for (const auto& field : object_.items()) {
            if (!taken_.contains(field.key())) {
                throw_error<FormatError>(
                    "{} has the unknown field {}; a newer version of the program may have written "
                    "the file",
                    where_, printable(field.key()));
            }
        }
    }

private:
    static std::string shown(const nlohmann::json& value) {
        if (value.is_string()) return printable(value.get_ref<const std::string&>());
        if (value.is_structured()) return std::string("an ") + value.type_name();
        return value.dump();
    }

    std::string where_;
    nlohmann::json object_;
    std::set<std::string> taken_;
};

}  // namespace nca
