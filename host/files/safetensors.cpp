// SPDX-License-Identifier: MIT
#include "host/files/safetensors.hpp"
#include "host/core/throw_error.hpp"
#include "host/files/atomic_file.hpp"
#include "host/files/file_kind.hpp"
#include "host/files/json_fields.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <set>

namespace nca {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the files are little-endian and copied unchanged");

// Bounds the time and memory that a file of another kind can cost. A checkpoint's header has some
// 6 kB.
constexpr std::size_t max_header_bytes = std::size_t{1} << 20;
constexpr std::size_t length_bytes = 8;
constexpr auto metadata_key = "__metadata__";

struct Dtype {
    const char* name;
    std::uint64_t size;  // of a value, in bytes
    NumberType type;
};
// The format's types of a byte or more.
constexpr Dtype dtypes[] = {{"F32", 4, NumberType::float32},   {"F16", 2, NumberType::float16},
                            {"BF16", 2, NumberType::bfloat16}, {"F64", 8, NumberType::float64},
                            {"I64", 8, NumberType::other},     {"I32", 4, NumberType::other},
                            {"I16", 2, NumberType::other},     {"I8", 1, NumberType::other},
                            {"U64", 8, NumberType::other},     {"U32", 4, NumberType::other},
                            {"U16", 2, NumberType::other},     {"U8", 1, NumberType::other},
                            {"BOOL", 1, NumberType::other},    {"F8_E4M3", 1, NumberType::other},
                            {"F8_E5M2", 1, NumberType::other}};

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

TensorEntry parse_entry(const std::string& name, const nlohmann::json& tensor,
                        const std::string& file) {
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
    const bool text = dtype != tensor.end() && dtype->is_string();
    const auto known =
        std::ranges::find_if(dtypes, [&](const Dtype& d) { return text && *dtype == d.name; });
    if (known == std::end(dtypes)) {
        throw_error<FormatError>("{} has dtype {}, which is not known; save it as float32", where,
                                 text ? printable(dtype->get<std::string>()) : "none");
    }

    TensorEntry entry{.name = name, .shape = {}, .type = known->type};
    std::uint64_t bytes = known->size;
    for (const auto& side : array_field(tensor, where, "shape")) {
        const std::uint64_t size = unsigned_number(side, where, "shape");
        if (size > std::uint64_t(std::numeric_limits<std::int64_t>::max()) ||
            __builtin_mul_overflow(bytes, size, &bytes)) {
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
std::vector<TensorEntry> parse_entries(const nlohmann::json& header, std::uint64_t data_size,
                                       const std::string& file) {
    std::vector<TensorEntry> entries;
    for (const auto& field : header.items()) {
        if (field.key() == metadata_key) continue;
        entries.push_back(parse_entry(field.key(), field.value(), file));
    }
    std::ranges::sort(entries, [](const TensorEntry& a, const TensorEntry& b) {
        return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    std::uint64_t covered = 0;
    for (const TensorEntry& entry : entries) {
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

std::string shape_text(const std::vector<std::int64_t>& shape) {
    constexpr std::size_t most_sides = 4;
    std::string text = "[";
    for (std::size_t i = 0; i < std::min(shape.size(), most_sides); ++i) {
        text += fmt::format("{}{}", i == 0 ? "" : ", ", shape[i]);
    }
    if (shape.size() > most_sides) text += fmt::format(", ... {} sides", shape.size());
    return text + "]";
}

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path)
    : name_(path.string()), file_(path), size_(file_->size()) {
    read_header();
}

SafetensorsReader::SafetensorsReader(std::span<const std::uint8_t> bytes, std::string name)
    : name_(std::move(name)), bytes_(bytes), size_(bytes.size()) {
    read_header();
}

void SafetensorsReader::read_header() {
    std::array<std::uint8_t, kind_bytes> first;
    const auto looked_at = std::span(first).first(std::min<std::uint64_t>(size_, first.size()));
    read_bytes(looked_at, 0);
    if (const std::string what = not_a_model(file_kind(looked_at)); !what.empty()) {
        throw_error<FormatError>("{} is {}", name_, what);
    }
    if (size_ < length_bytes) {
        throw_error<FormatError>("{} has {} bytes, too few for a safetensors file; it is cut off",
                                 name_, size_);
    }
    std::uint64_t header_size = 0;
    read_bytes({reinterpret_cast<std::uint8_t*>(&header_size), length_bytes}, 0);
    const std::uint64_t most = std::min<std::uint64_t>(size_ - length_bytes, max_header_bytes);
    const bool begins_as_one = size_ > length_bytes && first[length_bytes] == '{';
    if (header_size > most && !begins_as_one) {
        throw_error<FormatError>(
            "{} is of an unknown kind, not a safetensors file: check the path, or copy or download "
            "it again",
            name_);
    }
    if (header_size > max_header_bytes) {
        throw_error<FormatError>(
            "{}: its header would have {} bytes, expected at most {}; the file is damaged or of "
            "another kind",
            name_, header_size, max_header_bytes);
    }
    if (header_size > most) {
        throw_error<FormatError>(
            "{} is cut off: its header has {} bytes, and only {} are there; copy or download it "
            "again",
            name_, header_size, most);
    }
    std::string text(header_size, '\0');
    read_bytes({reinterpret_cast<std::uint8_t*>(text.data()), text.size()}, length_bytes);
    const auto header = parse_json(text, fmt::format("{}: the safetensors header", name_), 3);
    if (!header.is_object()) {
        throw_error<FormatError>("{}: the safetensors header is {}, expected an object", name_,
                                 header.type_name());
    }
    data_begin_ = length_bytes + header_size;
    metadata_ = parse_metadata(header, name_);
    tensors_ = parse_entries(header, size_ - data_begin_, name_);
}

void SafetensorsReader::read_bytes(std::span<std::uint8_t> bytes, std::uint64_t offset) const {
    if (!file_) {
        std::ranges::copy(bytes_.subspan(offset, bytes.size()), bytes.begin());
    } else if (file_->read(bytes, offset) < bytes.size()) {
        throw_error<FormatError>(
            "{} has become shorter than its {} bytes while it was read; another program writes it, "
            "so wait for that and try again",
            name_, size_);
    }
}

const TensorEntry* SafetensorsReader::find(std::string_view name) const {
    const auto found = std::ranges::find(tensors_, name, &TensorEntry::name);
    return found == tensors_.end() ? nullptr : &*found;
}

void SafetensorsReader::read(std::span<float> values, const TensorEntry& tensor,
                             std::uint64_t first) const {
    if (tensor.type == NumberType::other) {
        throw_error<FormatError>("{}: tensor {} has values of {}, expected float32", name_,
                                 printable(tensor.name), nca::name(tensor.type));
    }
    const std::size_t size = size_of(tensor.type);
    const std::uint64_t begin = data_begin_ + tensor.begin + first * size;
    if (tensor.type == NumberType::float32) {
        read_bytes({reinterpret_cast<std::uint8_t*>(values.data()), values.size_bytes()}, begin);
        return;
    }
    std::vector<std::uint8_t> bytes(values.size() * size);
    read_bytes(bytes, begin);
    convert_to_floats(values, bytes, tensor.type);
}

std::vector<std::uint8_t> encode_safetensors(const SafetensorsFile& file) {
    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    if (!file.metadata.empty()) header[metadata_key] = file.metadata;
    auto& fields = header.get_ref<nlohmann::ordered_json::object_t&>();
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
        // Not operator[], which looks through all names each time.
        fields.emplace_back(
            tensor.name,
            nlohmann::ordered_json{
                {"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {data_size, end}}});
        data_size = end;
    }
    // JSON is UTF-8, but a file name in the metadata may have any encoding.
    std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    text.resize((text.size() + 7) / 8 * 8, ' ');
    if (text.size() > max_header_bytes) {
        throw_error<InvalidArgument>(
            "the header would have {} bytes, expected at most {}: no reader would take the file; "
            "use shorter texts",
            text.size(), max_header_bytes);
    }

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
