// SPDX-License-Identifier: MIT
#include "host/files/safetensors.hpp"
#include "host/files/json_fields.hpp"

#include <nca/error.hpp>
#include <nca/model.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/costs.hpp"
#include "tests/support/safetensors.hpp"
#include "tests/support/temporary_directory.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Catch::Matchers::ContainsSubstring;
using nca::FormatError;
using nca::SafetensorsFile;
using nca::SafetensorsReader;
using nca::test::message_of;
using nca::test::read_bytes;
using nca::test::require_cheap;
using nca::test::TemporaryDirectory;
using nca::test::write_bytes;
using Bytes = std::vector<std::uint8_t>;

// A file of this header and so many zero bytes of data; its length field may lie.
Bytes file_of(std::string_view header, std::size_t data_size, std::uint64_t claimed_size) {
    Bytes bytes(8 + header.size() + data_size);
    std::memcpy(bytes.data(), &claimed_size, 8);
    std::memcpy(bytes.data() + 8, header.data(), header.size());
    return bytes;
}
Bytes file_of(std::string_view header, std::size_t data_size = 0) {
    return file_of(header, data_size, header.size());
}

// The message with which the bytes are refused.
std::string refused(const Bytes& bytes) {
    return message_of<FormatError>([&] { nca::test::parse_safetensors(bytes, "x.safetensors"); });
}

// Not operator+, about which g++ 12 warns without reason.
std::string joined(std::initializer_list<std::string_view> parts) {
    std::string text;
    for (const std::string_view part : parts) text.append(part);
    return text;
}

// The message for a file of 8 bytes of data and one tensor "a" of this JSON.
std::string refused_tensor(std::string_view tensor) {
    return refused(file_of(joined({"{\"a\":", tensor, "}"}), 8));
}

// A JSON text of about a mebibyte, not more: its begin, so many parts as fit, its end.
std::string long_json(const std::string& begin, const std::function<std::string(int)>& part,
                      const std::string& end) {
    std::string text = begin;
    for (int i = 0;; ++i) {
        const std::string next = joined({i == 0 ? "" : ",", part(i)});
        if (text.size() + next.size() + end.size() > (1U << 20)) return text + end;
        text += next;
    }
}

SafetensorsFile example() {
    return {.metadata = {{"format", "pt"}, {"nca.rule", "{\"quoted\": \"\\u00e9\"}\n"}},
            .tensors = {{"adam.m.net.0.bias", {2, 1, 1}, {1.5F, -0.0F}},
                        {"scalar", {}, {3.0F}},
                        {"empty", {0, 5}, {}},
                        {"a \"name\"", {2, 2}, {1, 2, 3, 4}}}};
}

}  // namespace

TEST_CASE("tensors and metadata come back as they were written") {
    const TemporaryDirectory folder;
    SafetensorsFile file = example();
    constexpr float infinity = std::numeric_limits<float>::infinity();
    file.tensors[3].values = {1e-45F, infinity, std::nanf("1"), 4};
    nca::write_safetensors(folder / "file.safetensors", file);
    const Bytes bytes = read_bytes(folder / "file.safetensors");
    const SafetensorsReader from_file(folder / "file.safetensors");
    const SafetensorsReader from_memory(bytes, "file");
    for (const SafetensorsReader* back : {&from_file, &from_memory}) {
        REQUIRE(back->metadata() == file.metadata);
        REQUIRE(back->tensors().size() == file.tensors.size());
        for (const auto& tensor : file.tensors) {
            const auto* found = back->find(tensor.name);
            CAPTURE(tensor.name);
            REQUIRE(found != nullptr);
            REQUIRE(found->shape == tensor.shape);
            REQUIRE(found->size() == tensor.values.size());
            std::vector<float> values(found->size());
            back->read(values, *found);
            // Bit for bit, so that NaN counts as equal to itself and -0 as other than 0.
            REQUIRE((values.empty() ||
                     std::memcmp(values.data(), tensor.values.data(), values.size() * 4) == 0));
        }
        REQUIRE(back->find("missing") == nullptr);
        std::vector<float> part(2);
        back->read(part, *back->find("a \"name\""), 1);
        REQUIRE((part[0] == infinity && std::isnan(part[1])));
    }
}

TEST_CASE("equal contents give equal bytes and the data is aligned to 8 bytes") {
    SafetensorsFile file = example();
    for (int length = 0; length < 9; ++length) {
        file.metadata["pad"] = std::string(std::size_t(length), 'x');
        const Bytes bytes = nca::encode_safetensors(file);
        REQUIRE(bytes == nca::encode_safetensors(file));
        std::uint64_t header_size = 0;
        std::memcpy(&header_size, bytes.data(), 8);
        REQUIRE(header_size % 8 == 0);
        REQUIRE(bytes.size() == 8 + header_size + 7 * 4);
        REQUIRE(bytes[8] == '{');
    }
}

TEST_CASE("a file is these bytes") {
    const SafetensorsFile file = {.metadata = {{"k", "v"}}, .tensors = {{"t", {1}, {1.0F}}}};
    std::string header =
        R"({"__metadata__":{"k":"v"},"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    Bytes expected = file_of(header, 4);
    expected[expected.size() - 2] = 0x80;  // 1.0F is 0x3f800000
    expected[expected.size() - 1] = 0x3f;
    REQUIRE(nca::encode_safetensors(file) == expected);
}

TEST_CASE("a file without tensors is valid") {
    REQUIRE(nca::test::parse_safetensors(file_of("{}"), "x").tensors.empty());
    const Bytes bytes = nca::encode_safetensors({});
    REQUIRE(nca::test::parse_safetensors(bytes, "x").tensors.empty());
}

TEST_CASE("a header that is not padded is read too") {
    const Bytes bytes = file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
    REQUIRE(nca::test::parse_safetensors(bytes, "x").tensors.at(0).values ==
            std::vector<float>{0, 0});
}

TEST_CASE("text that is not UTF-8 is written with replacement characters") {
    const SafetensorsFile file = {.metadata = {{"target", "\xe9t\xe9.png"}}, .tensors = {}};
    const SafetensorsFile back = nca::test::parse_safetensors(nca::encode_safetensors(file), "x");
    REQUIRE(back.metadata.at("target") == "\xef\xbf\xbdt\xef\xbf\xbd.png");
}

TEST_CASE("every truncation of a file is refused") {
    const Bytes bytes = nca::encode_safetensors(example());
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        CAPTURE(size);
        REQUIRE_THAT(refused(Bytes(bytes.begin(), bytes.begin() + std::ptrdiff_t(size))),
                     ContainsSubstring("x.safetensors"));
    }
}

TEST_CASE("bytes after the last tensor are refused") {
    Bytes bytes = nca::encode_safetensors(example());
    bytes.push_back(0);
    REQUIRE_THAT(refused(bytes), ContainsSubstring("29 bytes of data, expected 28"));
}

TEST_CASE("no single damaged byte of the header crashes the reader") {
    const Bytes bytes = nca::encode_safetensors(example());
    const std::size_t header_end = bytes.size() - 28;
    int refusals = 0;
    for (std::size_t i = 0; i < header_end; ++i) {
        for (const int damage : {0x01, 0x10, 0x80, 0xff}) {
            Bytes damaged = bytes;
            damaged[i] = std::uint8_t(damaged[i] ^ damage);
            // Some damage only renames a tensor; all other must be a FormatError.
            if (!refused(damaged).empty()) ++refusals;
        }
    }
    REQUIRE(refusals > int(header_end));
}

TEST_CASE("header lengths beyond the file are refused without an allocation") {
    for (const std::uint64_t size : {std::uint64_t{1} << 63, ~std::uint64_t{0}, std::uint64_t{3},
                                     std::uint64_t{0x7fffffffffffffff}}) {
        CAPTURE(size);
        REQUIRE_THAT(refused(file_of("{}", 0, size)),
                     ContainsSubstring(size == 3 ? "is cut off: its header has 3 bytes, and only 2"
                                                 : "the file is damaged or of another kind"));
    }
}

TEST_CASE("a file that does not begin as safetensors is of an unknown kind") {
    REQUIRE_THAT(refused(file_of("no header", 0, ~std::uint64_t{0})),
                 ContainsSubstring("of an unknown kind") && !ContainsSubstring("bytes"));
}

TEST_CASE("headers that are not JSON objects are refused") {
    REQUIRE_THAT(refused({}), ContainsSubstring("is empty"));
    REQUIRE_THAT(refused(Bytes(7, 0)), ContainsSubstring("7 bytes"));
    REQUIRE_THAT(refused(Bytes(8, 0)), ContainsSubstring("not JSON"));
    REQUIRE_THAT(refused(file_of("hello, world")), ContainsSubstring("not JSON"));
    REQUIRE_THAT(refused(file_of("{\"a\":")), ContainsSubstring("not JSON"));
    REQUIRE_THAT(refused(file_of("{} {}")), ContainsSubstring("not JSON"));
    REQUIRE_THAT(refused(file_of("[]")), ContainsSubstring("is array, expected an object"));
    REQUIRE_THAT(refused(file_of("7")), ContainsSubstring("is number, expected an object"));
    REQUIRE_THAT(refused(file_of("{\"\xff\":{}}")), ContainsSubstring("not JSON"));
    REQUIRE_THAT(refused(file_of("{\"a\":1e999}")), ContainsSubstring("out of range"));
}

TEST_CASE("deeply nested JSON is refused") {
    REQUIRE_THAT(refused(file_of(std::string(1000000, '['))), ContainsSubstring("nested deeper"));
    std::string objects;
    for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
    REQUIRE_THAT(refused(file_of(objects)), ContainsSubstring("nested deeper"));
}

TEST_CASE("a tensor that is named twice is refused") {
    REQUIRE_THAT(refused(file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                 R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                                 8)),
                 ContainsSubstring("\"a\" twice"));
}

TEST_CASE("metadata other than texts is refused") {
    REQUIRE_THAT(refused(file_of(R"({"__metadata__":[]})")),
                 ContainsSubstring("__metadata__ is array"));
    REQUIRE_THAT(refused(file_of(R"({"__metadata__":{"k":1}})")),
                 ContainsSubstring("\"k\" is number"));
}

TEST_CASE("tensors of other floating-point types are read as float32, and no others") {
    struct Case {
        const char* dtype;
        Bytes data;
    };
    const Case cases[] = {{"F16", {0x00, 0x3c, 0x00, 0xc0}},
                          {"BF16", {0x80, 0x3f, 0x00, 0xc0}},
                          {"F32", {0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0}},
                          {"F64", {0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0}}};
    for (const auto& [dtype, data] : cases) {
        CAPTURE(dtype);
        Bytes bytes = file_of(fmt::format(
            R"({{"a":{{"dtype":"{}","shape":[2],"data_offsets":[0,{}]}}}})", dtype, data.size()));
        bytes.insert(bytes.end(), data.begin(), data.end());
        const nca::SafetensorsReader reader(bytes, "x");
        std::vector<float> values(reader.tensors()[0].size());
        reader.read(values, reader.tensors()[0]);
        REQUIRE(values == std::vector<float>{1, -2});
        float last = 0;
        reader.read({&last, 1}, reader.tensors()[0], 1);
        REQUIRE(last == -2);
    }
    const Bytes integers = file_of(R"({"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", 8);
    const nca::SafetensorsReader reader(integers, "x");
    float value = 0;
    REQUIRE_THAT(message_of<FormatError>([&] {
                     reader.read({&value, 1}, reader.tensors()[0]);
                 }),
                 ContainsSubstring("values of no floating-point type"));
}

TEST_CASE("tensors that are not whole are refused by name") {
    REQUIRE_THAT(refused_tensor("[]"), ContainsSubstring("tensor \"a\" is array"));
    REQUIRE_THAT(refused_tensor("{}"), ContainsSubstring("dtype none, which is not known"));
    REQUIRE_THAT(refused_tensor(R"({"dtype":"F4","shape":[4],"data_offsets":[0,8]})"),
                 ContainsSubstring("dtype \"F4\", which is not known; save it as float32"));
    REQUIRE_THAT(refused_tensor(R"({"dtype":7,"shape":[2],"data_offsets":[0,8]})"),
                 ContainsSubstring("dtype none"));
    REQUIRE_THAT(refused_tensor(R"({"dtype":"F32","data_offsets":[0,8]})"),
                 ContainsSubstring("shape"));
    REQUIRE_THAT(refused_tensor(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"),
                 ContainsSubstring("shape is missing or not an array"));
    REQUIRE_THAT(refused_tensor(R"({"dtype":"F32","shape":[2]})"),
                 ContainsSubstring("data_offsets"));
    REQUIRE_THAT(refused_tensor(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})"),
                 ContainsSubstring("3 data_offsets, expected 2"));
    REQUIRE_THAT(refused_tensor(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"z":0})"),
                 ContainsSubstring("unknown field \"z\""));
}

TEST_CASE("shapes that are not small integers are refused") {
    for (const char* shape : {"[-2]", "[2.0]", "[\"2\"]", "[null]", "[[2]]", "[1e30]"}) {
        CAPTURE(shape);
        REQUIRE_THAT(refused_tensor(joined(
                         {R"({"dtype":"F32","shape":)", shape, R"(,"data_offsets":[0,8]})"})),
                     ContainsSubstring("shape") || ContainsSubstring("nested"));
    }
    for (const char* shape :
         {"[4294967296,4294967296]", "[9223372036854775808]", "[18446744073709551615]",
          "[4611686018427387904]", "[4294967296,1073741824]", "[65536,65536,65536,65536]"}) {
        CAPTURE(shape);
        REQUIRE_THAT(
            refused_tensor(
                joined({R"({"dtype":"F32","shape":)", shape, R"(,"data_offsets":[0,8]})"})),
            ContainsSubstring("more than 2^64 bytes") || ContainsSubstring("data_offsets [0, 8]"));
    }
}

TEST_CASE("offsets that do not cover the data exactly once are refused") {
    const auto tensor = [](const char* name, int size, const char* offsets) {
        return joined({"\"", name, R"(":{"dtype":"F32","shape":[)", std::to_string(size),
                       R"(],"data_offsets":)", offsets, "}"});
    };
    const auto refused_pair = [&](const std::string& a, const std::string& b) {
        return refused(file_of(joined({"{", a, ",", b, "}"}), 16));
    };
    const std::string good = tensor("a", 2, "[0,8]");
    REQUIRE(refused_pair(good, tensor("b", 2, "[8,16]")).empty());
    REQUIRE(refused_pair(tensor("b", 2, "[8,16]"), good).empty());
    REQUIRE_THAT(refused_pair(good, tensor("b", 3, "[4,16]")),
                 ContainsSubstring("overlaps another"));
    REQUIRE_THAT(refused_pair(good, tensor("b", 2, "[0,8]")),
                 ContainsSubstring("overlaps another"));
    REQUIRE_THAT(refused_pair(good, tensor("b", 1, "[12,16]")), ContainsSubstring("leaves a hole"));
    REQUIRE_THAT(refused_pair(good, tensor("b", 1, "[10,14]")), ContainsSubstring("leaves a hole"));
    REQUIRE_THAT(refused_pair(good, tensor("b", 1, "[8,12]")),
                 ContainsSubstring("16 bytes of data"));
    REQUIRE_THAT(refused_pair(good, tensor("b", 3, "[8,20]")), ContainsSubstring("past the end"));
    REQUIRE_THAT(refused_pair(good, tensor("b", 2, "[8,12]")),
                 ContainsSubstring("expected 8 bytes"));
    REQUIRE_THAT(refused_pair(good, tensor("b", 2, "[16,8]")),
                 ContainsSubstring("expected 8 bytes"));
    REQUIRE_THAT(refused_pair(good, tensor("b", 0, "[16,8]")),
                 ContainsSubstring("expected 0 bytes"));
    REQUIRE_THAT(refused_pair(good, tensor("b", 2, "[18446744073709551608,0]")),
                 ContainsSubstring("expected 8 bytes"));
    REQUIRE_THAT(refused_pair(good, tensor("b", 2, "[-8,0]")), ContainsSubstring("not an integer"));
    REQUIRE_THAT(refused_pair(good, tensor("b", 2, "[8.0,16]")),
                 ContainsSubstring("not an integer"));
}

TEST_CASE("names out of a file are escaped and cut in messages") {
    const std::string message =
        refused(file_of(joined({"{\"\\u001b[2J", std::string(1000, 'n'), "\":[]}"})));
    REQUIRE_THAT(message, ContainsSubstring("\\u001b[2Jnnn") && ContainsSubstring("..."));
    REQUIRE(message.find('\x1b') == std::string::npos);
    REQUIRE(message.size() < 300);
}

TEST_CASE("tensors that contradict themselves are not written") {
    const auto encode = [](const SafetensorsFile& file) {
        return message_of<nca::InvalidArgument>([&] { nca::encode_safetensors(file); });
    };
    REQUIRE_THAT(encode({.metadata = {}, .tensors = {{"a", {2}, {1}}}}),
                 ContainsSubstring("\"a\" has 1 values, expected 2"));
    REQUIRE_THAT(encode({.metadata = {}, .tensors = {{"a", {-1}, {1}}}}),
                 ContainsSubstring("shape [-1]"));
    REQUIRE_THAT(encode({.metadata = {}, .tensors = {{"a", {1}, {1}}, {"a", {1}, {1}}}}),
                 ContainsSubstring("two tensors"));
    REQUIRE_THAT(encode({.metadata = {}, .tensors = {{"__metadata__", {1}, {1}}}}),
                 ContainsSubstring("two tensors"));
}

TEST_CASE("a header of a mebibyte is read or refused at once, whatever it holds") {
    const auto name = [](int i) { return joined({"\"", std::to_string(i), "\":"}); };
    const auto text = [](const char* part) { return [=](int) { return std::string(part); }; };
    const std::string headers[] = {
        long_json(
            "{", [&](int i) { return name(i) + "{}"; }, "}"),
        long_json("{\"a\":[", text("{}"), "]}"),
        long_json("{\"a\":[", text("[]"), "]}"),
        long_json("[", text("{}"), "]"),
        long_json(
            "{\"__metadata__\":{", [&](int i) { return name(i) + "\"\""; }, "}}"),
        long_json(
            "{",
            [&](int i) {
                return joined({name(i), R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})"});
            },
            "}"),
        long_json("{\"a\":{\"dtype\":\"F32\",\"shape\":[", text("1"), "],\"data_offsets\":[0,9]}}"),
        long_json("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[", text("1"), "]}}"),
        joined({"{\"a\":", std::string(1000000, '9'), "}"}),
        joined({"{\"", std::string(1000000, 'a'), "\":{}}"}),
        long_json("{\"a\":{\"dtype\":\"", text("\\u0001"),
                  "\",\"shape\":[1],\"data_offsets\":[0,4]}}"),
    };
    for (const std::string& header : headers) {
        CAPTURE(header.substr(0, 80), header.size());
        std::string message;
        require_cheap(300e6, [&] { message = refused(file_of(header)); });
        REQUIRE(message.size() < 400);
    }
    // Nor is it slow to write and to read what is in such a header.
    SafetensorsFile many;
    for (int i = 0; i < 15000; ++i) many.tensors.push_back({std::to_string(i), {}, {1}});
    require_cheap(300e6, [&] {
        REQUIRE(nca::test::parse_safetensors(nca::encode_safetensors(many), "x").tensors.size() ==
                15000);
    });
}

TEST_CASE("a header of more than a mebibyte is neither read nor written") {
    std::string header = "{}";
    header.resize((1 << 20) + 1, ' ');
    REQUIRE_THAT(refused(file_of(header)),
                 ContainsSubstring("the file is damaged or of another kind"));
    header.resize(1 << 20);
    REQUIRE(refused(file_of(header)).empty());
    SafetensorsFile file;
    file.metadata["text"] = std::string((1 << 20) - 40, 'x');
    REQUIRE(refused(nca::encode_safetensors(file)).empty());
    file.metadata["text"] += std::string(40, 'x');
    REQUIRE_THAT(message_of<nca::InvalidArgument>([&] { nca::encode_safetensors(file); }),
                 ContainsSubstring("expected at most 1048576"));
    // 60,000 tensors.
    header = "{";
    for (int i = 0; i < 60000; ++i) {
        header += joined({i == 0 ? "\"" : ",\"", std::to_string(i),
                          R"(":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})"});
    }
    const Bytes bytes = file_of(header + "}");
    require_cheap(50e6, [&] {
        REQUIRE_THAT(refused(bytes), ContainsSubstring("the file is damaged or of another kind"));
    });
}

TEST_CASE("a file of three gigabytes that is no model costs next to nothing") {
    const TemporaryDirectory folder;
    const auto path = folder / "large.safetensors";
    const auto refused_file = [&](const Bytes& begin, std::uint64_t size) {
        write_bytes(path, begin);
        std::filesystem::resize_file(path, size);  // with a hole, which needs no disk
        std::string message;
        require_cheap(50e6, [&] {
            message = message_of<FormatError>([&] { nca::Model::load(path); });
            REQUIRE(nca::iterations_in_file(path) == 0);
        });
        REQUIRE(message.size() < 400);
        return message;
    };
    constexpr std::uint64_t size = 3'000'000'000;
    const auto tensor = [](const char* name, const char* shape) {
        return joined({"{\"", name, R"(":{"dtype":"F32","shape":)", shape,
                       R"(,"data_offsets":[0,3000000000]}})"});
    };
    const auto refused_tensor_of = [&](const std::string& header) {
        return refused_file(file_of(header), 8 + header.size() + size);
    };
    REQUIRE_THAT(refused_file(file_of("", 0, 0x0807060504030201), size),
                 ContainsSubstring("not a safetensors file"));
    REQUIRE_THAT(refused_file(file_of("", 0, 0), size), ContainsSubstring("not JSON"));
    REQUIRE_THAT(refused_file(file_of("{}"), size),
                 ContainsSubstring("2999999990 bytes of data, expected 0"));
    REQUIRE_THAT(refused_tensor_of(tensor("model.embedding", "[750000000]")),
                 ContainsSubstring("its tensors are: \"model.embedding\""));
    REQUIRE_THAT(refused_tensor_of(tensor("net.0.weight", "[128,5859375,1,1]")),
                 ContainsSubstring("\"net.0.weight\" [128, 5859375, 1, 1]"));
    REQUIRE_THAT(refused_tensor_of(tensor("adam.m.net.0.weight", "[750000000]")),
                 ContainsSubstring("its tensors are: none"));
}

TEST_CASE("what is no regular file is refused without waiting for it") {
    const TemporaryDirectory folder;
    const auto refused_path = [](const std::filesystem::path& path) {
        REQUIRE(nca::iterations_in_file(path) == 0);
        return message_of<nca::IoError>([&] { SafetensorsReader reader(path); });
    };
    REQUIRE_THAT(refused_path(folder / "none"), ContainsSubstring("there is no such file"));
    REQUIRE_THAT(refused_path(""), ContainsSubstring("there is no such file"));
    REQUIRE_THAT(refused_path(folder.path()), ContainsSubstring("it is a folder"));
    REQUIRE_THAT(refused_path("/dev/null"), ContainsSubstring("it is not a regular file"));
    REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
    REQUIRE_THAT(refused_path(folder / "pipe"), ContainsSubstring("it is not a regular file"));
    REQUIRE_THAT(refused_path(folder / std::string(5000, 'x')), ContainsSubstring("cannot read"));
    // Not the file whose name ends before the NUL.
    nca::write_safetensors(folder / "model", example());
    REQUIRE_THAT(refused_path(folder / std::string_view("model\0more", 10)),
                 ContainsSubstring("model: the name has a NUL character"));
}

TEST_CASE("a file that becomes shorter while it is read is refused") {
    const TemporaryDirectory folder;
    const auto path = folder / "file.safetensors";
    nca::write_safetensors(path, example());
    const SafetensorsReader reader(path);
    const auto& last = reader.tensors().back();
    std::vector<float> values(last.size());
    std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
    REQUIRE_THAT(message_of<FormatError>([&] { reader.read(values, last); }),
                 ContainsSubstring(path.string() + " has become shorter"));
    values.resize(2);
    REQUIRE_NOTHROW(reader.read(values, reader.tensors().front()));
}

TEST_CASE("a shape of many sides is cut in messages") {
    REQUIRE(nca::shape_text({}) == "[]");
    REQUIRE(nca::shape_text({128, 48, 1, 1}) == "[128, 48, 1, 1]");
    REQUIRE(nca::shape_text({1, 2, 3, 4, 5}) == "[1, 2, 3, 4, ... 5 sides]");
    REQUIRE(nca::shape_text(std::vector<std::int64_t>(100000, std::int64_t{1} << 62)).size() < 110);
}

TEST_CASE("text that is not UTF-8 is what comes back from a file") {
    for (const std::string text :
         {"", "lizard.png", "\"\\\n\x01\x7f", "\u00e9t\u00e9.png", "\xe9t\xe9.png", "\xff", "\xc3(",
          "\xf0\x9f\x98", "\xed\xa0\x80"}) {
        CAPTURE(text);
        nca::Model model;
        model.history.target = text;
        const TemporaryDirectory folder;
        model.save(folder / "model");
        REQUIRE(nca::Model::load(folder / "model").history.target == nca::as_in_file(text));
    }
    REQUIRE(nca::as_in_file("\xe9t\xe9.png") == "\xef\xbf\xbdt\xef\xbf\xbd.png");
    REQUIRE(nca::as_in_file("\u00e9t\u00e9.png") == "\u00e9t\u00e9.png");
}
