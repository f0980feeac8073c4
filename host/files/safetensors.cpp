// SPDX-License-Identifier: MIT
#include "host/files/safetensors.hpp"
#include "host/core/throw_error.hpp"
#include "host/files/atomic_file.hpp"
#include "host/files/json_fields.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

namespace nca {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the files are little-endian and copied unchanged");

// A checkpoint with a pool of 1024 grids of 72x72 cells has 50 MB, or 360 MB where all cells live.
constexpr std::size_t max_file_bytes = std::size_t{1} << 40;
constexpr std::size_t max_header_bytes = std::size_t{16} << 20;
constexpr std::size_t length_bytes = 8;
constexpr auto metadata_key = "__metadata__";

// A tensor in the header. Its data is at [begin, end), in bytes from the header's end.
struct Entry {
    std::string name;
    std::vector<std::int64_t> shape;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
};

// A number of the header that must be an integer from 0 up.
std::uint64_t unsigned_number(const nlohmann::json& value, const std::string& where,
                              const char* field) {
    if (!value.is_number_unsigned()) {
        throw_error<FormatError>(
            "{}: {} has an entry that is not an integer from 0 up; the file is damaged", where,
            field);
    }
    return value.get<std::uint64_t>();
}

const nlohmann::json& array_field(const nlohmann::json& tensor, const std::string& where,
                                  const char* field) {
    const auto found = tensor.find(field);
    if (found == tensor.end() || !found->is_array()) {
        throw_error<FormatError>("{}: {} is missing or not an array; the file is damaged", where,
                                 field);
    }
    return *found;
}

Entry parse_entry(const std::string& name, const nlohmann::json& tensor, const std::string& file) {
    const std::string where = fmt::format("{}: tensor {}", file, printable(name));
    if (!tensor.is_object()) {
        throw_error<FormatError>(
            "{} is {}, expected an object with dtype, shape and data_offsets; the file is damaged",
            where, tensor.type_name());
    }
    for (const auto& field : tensor.items()) {
        if (field.key() != "dtype" && field.key() != "shape" && field.key() != "data_offsets") {
            throw_error<FormatError>(
                "{} has the unknown field {}, expected dtype, shape and data_offsets", where,
                printable(field.key()));
        }
    }
    const auto dtype = tensor.find("dtype");
    if (dtype == tensor.end() || !dtype->is_string() || *dtype != "F32") {
        const bool text = dtype != tensor.end() && dtype->is_string();
        throw_error<FormatError>("{} has dtype {}, expected \"F32\"; save it as float32", where,
                                 text ? printable(dtype->get<std::string>()) : "none");
    }

    Entry entry{.name = name, .shape = {}};
    std::uint64_t bytes = sizeof(float);
    for (const auto& side : array_field(tensor, where, "shape")) {
        const std::uint64_t size = unsigned_number(side, where, "shape");
        if (size > max_file_bytes || __builtin_mul_overflow(bytes, size, &bytes)) {
            throw_error<FormatError>("{} has a shape of more than 2^64 bytes; the file is damaged",
                                     where);
        }
        entry.shape.push_back(std::int64_t(size));
    }
    const auto& offsets = array_field(tensor, where, "data_offsets");
    if (offsets.size() != 2) {
        throw_error<FormatError>("{} has {} data_offsets, expected 2; the file is damaged", where,
                                 offsets.size());
    }
    entry.begin = unsigned_number(offsets[0], where, "data_offsets");
    entry.end = unsigned_number(offsets[1], where, "data_offsets");
    if (entry.begin > entry.end || entry.end - entry.begin != bytes) {
        throw_error<FormatError>(
            "{} has data_offsets [{}, {}], expected {} bytes for the shape {}; the file is damaged",
            where, entry.begin, entry.end, bytes, shape_text(entry.shape));
    }
    return entry;
}

// Parses the tensors, in the order of their data. They must cover all data exactly once.
std::vector<Entry> parse_entries(const nlohmann::json& header, std::uint64_t data_size,
                                 const std::string& file) {
    std::vector<Entry> entries;
    for (const auto& field : header.items()) {
        if (field.key() == metadata_key) continue;
        entries.push_back(parse_entry(field.key(), field.value(), file));
    }
    std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
        return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    std::uint64_t covered = 0;
    for (const Entry& entry : entries) {
        if (entry.begin != covered || entry.end > data_size) {
            const char* problem = entry.end > data_size   ? "reaches past the end of the file"
                                  : entry.begin < covered ? "overlaps another tensor"
                                                          : "leaves a hole before it";
            throw_error<FormatError>(
                "{}: tensor {} at bytes {} to {} of {} {}; the file is damaged or cut off", file,
                printable(entry.name), entry.begin, entry.end, data_size, problem);
        }
        covered = entry.end;
    }
    if (covered != data_size) {
        throw_error<FormatError>(
            "{}: {} bytes of data, expected {} for its tensors; the file is damaged", file,
            data_size, covered);
    }
    return entries;
}

std::map<std::string, std::string> parse_metadata(const nlohmann::json& header,
                                                  const std::string& file) {
    std::map<std::string, std::string> metadata;
    const auto found = header.find(metadata_key);
    if (found == header.end()) return metadata;
    if (!found->is_object()) {
        throw_error<FormatError>(
            "{}: __metadata__ is {}, expected an object of texts; the file is damaged", file,
            found->type_name());
    }
    for (const auto& field : found->items()) {
        if (!field.value().is_string()) {
            throw_error<FormatError>(
                "{}: __metadata__ {} is {}, expected a text; the file is damaged", file,
                printable(field.key()), field.value().type_name());
        }
        metadata[field.key()] = field.value().get<std::string>();
    }
    return metadata;
}

}  // namespace

const NamedTensor* SafetensorsFile::find(std::string_view name) const {
    const auto found = std::ranges::find(tensors, name, &NamedTensor::name);
    return found == tensors.end() ? nullptr : &*found;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string text;
    for (const std::int64_t side : shape) {
        text += fmt::format("{}{}", text.empty() ? "" : ", ", side);
    }
    return "[" + text + "]";
}

SafetensorsFile parse_safetensors(std::span<const std::uint8_t> bytes, const std::string& name) {
    if (bytes.size() < length_bytes) {
        throw_error<FormatError>(
            "{} has {} bytes, too few for a safetensors file; it is empty or cut off", name,
            bytes.size());
    }
    std::uint64_t header_size = 0;
    std::memcpy(&header_size, bytes.data(), length_bytes);
    const auto rest = bytes.subspan(length_bytes);
    if (header_size > rest.size() || header_size > max_header_bytes) {
        throw_error<FormatError>(
            "{} is not a safetensors file: its header would have {} bytes, expected at most {}; it "
            "is of another kind or cut off",
            name, header_size, std::min(rest.size(), max_header_bytes));
    }
    const auto header = parse_json({reinterpret_cast<const char*>(rest.data()), header_size},
                                   fmt::format("{}: the safetensors header", name), 3);
    if (!header.is_object()) {
        throw_error<FormatError>("{}: the safetensors header is {}, expected an object", name,
                                 header.type_name());
    }
    const auto data = rest.subspan(header_size);

    SafetensorsFile file;
    file.metadata = parse_metadata(header, name);
    for (Entry& entry : parse_entries(header, data.size(), name)) {
        NamedTensor& tensor = file.tensors.emplace_back();
        tensor.name = std::move(entry.name);
        tensor.shape = std::move(entry.shape);
        tensor.values.resize((entry.end - entry.begin) / sizeof(float));
        if (!tensor.values.empty()) {
            std::memcpy(tensor.values.data(), data.data() + entry.begin, entry.end - entry.begin);
        }
    }
    return file;
}

SafetensorsFile read_safetensors(const std::filesystem::path& path) {
    return parse_safetensors(read_file(path, max_file_bytes), path.string());
}

std::vector<std::uint8_t> encode_safetensors(const SafetensorsFile& file) {
    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    if (!file.metadata.empty()) header[metadata_key] = file.metadata;
    std::set<std::string_view> names = {metadata_key};
    std::uint64_t data_size = 0;
    for (const NamedTensor& tensor : file.tensors) {
        std::uint64_t size = 1;
        for (const std::int64_t side : tensor.shape) {
            if (side < 0 || __builtin_mul_overflow(size, std::uint64_t(side), &size)) {
                throw_error<InvalidArgument>(
                    "tensor {} has the shape {}, expected sides from 0 up that fit in memory",
                    printable(tensor.name), shape_text(tensor.shape));
            }
        }
        if (size != tensor.values.size()) {
            throw_error<InvalidArgument>("tensor {} has {} values, expected {} for its shape",
                                         printable(tensor.name), tensor.values.size(), size);
        }
        if (!names.insert(tensor.name).second) {
            throw_error<InvalidArgument>("two tensors have the name {}; names must differ",
                                         printable(tensor.name));
        }
        const std::uint64_t end = data_size + size * sizeof(float);
        header[tensor.name] = {
            {"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {data_size, end}}};
        data_size = end;
    }
    // JSON is UTF-8, but a file name in the metadata may have any encoding.
    std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    text.resize((text.size() + 7) / 8 * 8, ' ');

    std::vector<std::uint8_t> bytes(length_bytes + text.size() + data_size);
    const std::uint64_t header_size = text.size();
    std::memcpy(bytes.data(), &header_size, length_bytes);
    std::memcpy(bytes.data() + length_bytes, text.data(), text.size());
    std::uint8_t* next = bytes.data() + length_bytes + text.size();
    for (const NamedTensor& tensor : file.tensors) {
        const std::size_t size = tensor.values.size() * sizeof(float);
        if (size > 0) std::memcpy(next, tensor.values.data(), size);
        next += size;
    }
    return bytes;
}

void write_safetensors(const std::filesystem::path& path, const SafetensorsFile& file) {
    write_file(path, encode_safetensors(file));
}

}  // namespace nca
