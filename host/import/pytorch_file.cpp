// SPDX-License-Identifier: MIT
#include "host/import/pytorch_file.hpp"

#include "host/core/throw_error.hpp"
#include "host/files/json_fields.hpp"
#include "host/import/pickle.hpp"

#include <zip.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

namespace nca {
namespace {

constexpr std::size_t most_pickle_bytes = std::size_t{4} << 20;   // a model's has 2 kB
constexpr std::size_t most_tensor_bytes = std::size_t{16} << 20;  // from its storage's begin

class Archive {
public:
    // Takes the source, which may be null where it could not be made.
    Archive(zip_source_t* source, const std::string& file) : file_(file) {
        zip_error_t error;
        zip_error_init(&error);
        zip_ = source == nullptr ? nullptr : zip_open_from_source(source, ZIP_RDONLY, &error);
        if (zip_ != nullptr) return;
        const std::string why = zip_error_strerror(&error);
        const int code = zip_error_code_zip(&error);
        zip_error_fini(&error);
        zip_source_free(source);
        if (code == ZIP_ER_READ || code == ZIP_ER_OPEN || code == ZIP_ER_SEEK) {
            throw_error<IoError>("cannot read {}: {}", file, why);
        }
        throw_error<FormatError>("{} is a damaged zip archive ({}): copy or download it again",
                                 file, why);
    }
    ~Archive() { zip_discard(zip_); }
    Archive(const Archive&) = delete;
    Archive& operator=(const Archive&) = delete;

    const std::string& file() const { return file_; }

    std::vector<std::string> names() const {
        std::vector<std::string> names;
        for (zip_int64_t i = 0; i < zip_get_num_entries(zip_, 0); ++i) {
            const char* name = zip_get_name(zip_, zip_uint64_t(i), ZIP_FL_ENC_RAW);
            names.emplace_back(name == nullptr ? "" : name);
        }
        return names;
    }

    // The first bytes of an entry, as many as are asked for. Of a whole entry the checksum is
    // compared.
    std::vector<std::uint8_t> read(const std::string& entry, std::size_t size) const {
        const std::unique_ptr<zip_file_t, int (*)(zip_file_t*)> opened(
            zip_fopen(zip_, entry.c_str(), ZIP_FL_ENC_RAW), zip_fclose);
        std::vector<std::uint8_t> bytes(size);
        std::uint8_t behind = 0;
        if (opened == nullptr || zip_fread(opened.get(), bytes.data(), size) != zip_int64_t(size) ||
            zip_fread(opened.get(), &behind, 1) < 0) {
            throw_error<FormatError>(
                "{}: the entry {} of the archive is missing, encrypted or damaged: copy or "
                "download the file again",
                file_, printable(entry));
        }
        return bytes;
    }
    // The size of an entry; none where there is no such entry.
    std::optional<std::uint64_t> size(const std::string& entry) const {
        zip_stat_t status;
        zip_stat_init(&status);
        const bool known = zip_stat(zip_, entry.c_str(), ZIP_FL_ENC_RAW, &status) == 0 &&
                           (status.valid & ZIP_STAT_SIZE) != 0;
        return known ? std::optional<std::uint64_t>(status.size) : std::nullopt;
    }

private:
    std::string file_;
    zip_t* zip_;
};

[[noreturn]] void refuse_big_endian(const std::string& file) {
    throw_error<FormatError>(
        "{} was written by a big-endian machine: load it and save it again on another", file);
}

// What another archive is, and what to do.
std::string kind_of_archive(const std::vector<std::string>& names) {
    const auto any = [&](std::string_view end) {
        return std::ranges::any_of(names,
                                   [&](const std::string& name) { return name.ends_with(end); });
    };
    if (any(".npy")) {
        return "NumPy arrays (npz): save them with safetensors.numpy.save_file";
    }
    if (any(".weights.h5")) {
        return "a model of Keras: save its weights with safetensors.numpy.save_file";
    }
    return "a zip archive without the data.pkl of PyTorch: unpack it, and give the model in it";
}

// The prefix of all entries: what stands before "data.pkl".
std::string prefix_of(const Archive& archive) {
    constexpr std::string_view pickle = "data.pkl";
    const std::vector<std::string> names = archive.names();
    const auto found = std::ranges::find_if(names, [&](const std::string& name) {
        return name == pickle || name.ends_with("/data.pkl");
    });
    if (found == names.end()) {
        throw_error<FormatError>("{} is {}", archive.file(), kind_of_archive(names));
    }
    std::string prefix = found->substr(0, found->size() - pickle.size());
    if (std::ranges::find(names, prefix + "constants.pkl") != names.end()) {
        throw_error<FormatError>(
            "{} is a program of TorchScript: save its tensors with torch.save(module.state_dict(), "
            "FILE)",
            archive.file());
    }
    return prefix;
}

// How many values of its storage a tensor needs, from the storage's begin. The storage has as many.
std::uint64_t values_needed(const PickledTensor& tensor) {
    std::uint64_t last = tensor.offset;
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
        last += std::uint64_t(tensor.shape[i] - 1) * std::uint64_t(tensor.strides[i]);
    }
    return last + 1;
}

// Throws FormatError where the storage has fewer bytes than the tensor needs, or it is spread over
// far more than its own values. Returns how many bytes it needs.
std::size_t check_storage(const PickledTensor& tensor, std::uint64_t stored,
                          const std::string& file) {
    const std::uint64_t needed = values_needed(tensor);  // far below 2^64
    const std::size_t size = size_of(tensor.type);
    if (needed > std::min<std::uint64_t>(stored, most_tensor_bytes) / size) {
        throw_error<FormatError>(
            "{}: tensor {} needs the first {} values of its storage, which has {} bytes; at most "
            "{} "
            "bytes are read; copy the file again, or save the tensors alone",
            file, printable(tensor.name), needed, stored, most_tensor_bytes);
    }
    return std::size_t(needed) * size;
}

// The values of a tensor, in the order of its shape. storage: as many bytes as it needs.
std::vector<float> gather(const PickledTensor& tensor, std::span<const std::uint8_t> storage) {
    const std::size_t size = size_of(tensor.type);
    const auto from_offset = storage.subspan(std::size_t(tensor.offset) * size);
    std::vector<float> all(from_offset.size() / size);
    convert_to_floats(all, from_offset, tensor.type);
    std::size_t count = 1;
    for (const std::int64_t side : tensor.shape) count *= std::size_t(side);
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i) {
        std::uint64_t place = 0;
        std::size_t rest = i;
        for (std::size_t side = tensor.shape.size(); side-- > 0;) {
            const auto length = std::size_t(tensor.shape[side]);
            place += rest % length * std::uint64_t(tensor.strides[side]);
            rest /= length;
        }
        values[i] = all[place];
    }
    return values;
}

ForeignTensor described(const PickledTensor& tensor) {
    return {.name = tensor.name, .shape = tensor.shape, .type = tensor.type, .read = {}};
}

std::vector<ForeignTensor> tensors_of(const std::shared_ptr<const Archive>& archive) {
    const std::string prefix = prefix_of(*archive);
    const std::string pickle_name = prefix + "data.pkl";
    const std::uint64_t size = archive->size(pickle_name).value_or(0);
    if (size > most_pickle_bytes) {
        throw_error<FormatError>("{}: its pickle has {} bytes, expected at most {}",
                                 archive->file(), size, most_pickle_bytes);
    }
    constexpr std::string_view big_endian = "big";
    const std::string byte_order = prefix + "byteorder";  // newer files have it
    if (archive->size(byte_order) == big_endian.size() &&
        std::ranges::equal(archive->read(byte_order, big_endian.size()), big_endian)) {
        refuse_big_endian(archive->file());
    }
    const std::vector<std::uint8_t> bytes = archive->read(pickle_name, std::size_t(size));
    std::span<const std::uint8_t> rest = bytes;
    std::vector<ForeignTensor> tensors;
    for (const PickledTensor& tensor : read_pickle(rest, archive->file()).tensors) {
        tensors.push_back(described(tensor));
        tensors.back().read = [archive, entry = prefix + "data/" + tensor.storage, tensor] {
            const std::size_t needed =
                check_storage(tensor, archive->size(entry).value_or(0), archive->file());
            return gather(tensor, archive->read(entry, needed));
        };
    }
    return tensors;
}

}  // namespace

std::vector<ForeignTensor> open_pytorch_file(const std::filesystem::path& path) {
    return tensors_of(std::make_shared<Archive>(
        zip_source_file_create(path.c_str(), 0, -1, nullptr), path.string()));
}

std::vector<ForeignTensor> open_pytorch_file(std::span<const std::uint8_t> bytes,
                                             const std::string& file) {
    return tensors_of(std::make_shared<Archive>(
        zip_source_buffer_create(bytes.data(), bytes.size(), 0, nullptr), file));
}

std::vector<ForeignTensor> open_old_pytorch_file(std::span<const std::uint8_t> bytes,
                                                 const std::string& file) {
    // A magic number, the version of the format, what machine wrote it, the tensors, and the keys
    // of the storages in the order of their values.
    std::span<const std::uint8_t> rest = bytes;
    for (int i = 0; i < 3; ++i) read_pickle(rest, file);
    const Pickle pickle = read_pickle(rest, file);
    std::map<std::string, std::span<const std::uint8_t>> storages;
    for (const std::string& key : read_pickle(rest, file).texts) {
        std::uint64_t size = 0;
        const auto known = pickle.storages.find(key);
        if (known == pickle.storages.end() || rest.size() < sizeof size) break;
        std::memcpy(&size, rest.data(), sizeof size);
        rest = rest.subspan(sizeof size);
        if (__builtin_bswap64(size) == known->second.size && size != known->second.size) {
            refuse_big_endian(file);
        }
        if (size != known->second.size) {
            throw_error<FormatError>("{} is damaged: storage {} has two sizes; copy it again", file,
                                     printable(key));
        }
        const std::uint64_t most = rest.size() / known->second.value_bytes;
        storages[key] = rest.first(std::min(size, most) * known->second.value_bytes);
        rest = rest.subspan(storages[key].size());
    }
    std::vector<ForeignTensor> tensors;
    for (const PickledTensor& tensor : pickle.tensors) {
        tensors.push_back(described(tensor));
        tensors.back().read = [storage = storages[tensor.storage], tensor, file] {
            return gather(tensor, storage.first(check_storage(tensor, storage.size(), file)));
        };
    }
    return tensors;
}

}  // namespace nca
