// SPDX-License-Identifier: MIT
#include "host/files/open_file.hpp"
#include "host/core/throw_error.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

namespace nca {
namespace {

[[noreturn]] void fail_to_read(const std::filesystem::path& path, const std::string& why) {
    // c_str, so that a name with a NUL character ends there.
    throw_error<IoError>("cannot read {}: {}", path.c_str(), why);
}

int open_for_reading(const std::filesystem::path& path) {
    if (has_nul(path)) {
        fail_to_read(path, "the name has a NUL character after that; remove it");
    }
    // Without O_NONBLOCK, opening a named pipe would wait for ever.
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
        fail_to_read(path,
                     errno == ENOENT ? "there is no such file; check the path" : error_text(errno));
    }
    return descriptor;
}

// The size in bytes. Refuses all but regular files.
std::uint64_t size_of(int descriptor, const std::filesystem::path& path) {
    struct stat status = {};
    if (::fstat(descriptor, &status) != 0) fail_to_read(path, error_text(errno));
    if (S_ISDIR(status.st_mode)) fail_to_read(path, "it is a folder; name a file in it");
    if (!S_ISREG(status.st_mode)) {
        fail_to_read(path, "it is not a regular file; save the data to one first");
    }
    return std::uint64_t(status.st_size);
}

}  // namespace

std::string error_text(int error) { return std::generic_category().message(error); }

bool has_nul(const std::filesystem::path& path) {
    return path.native().find('\0') != std::string::npos;
}

OpenFile::OpenFile(const std::filesystem::path& path)
    : path_(path), descriptor_(open_for_reading(path)) {
    try {
        size_ = size_of(descriptor_, path);
    } catch (...) {
        ::close(descriptor_);
        throw;
    }
}

OpenFile::~OpenFile() { ::close(descriptor_); }

std::size_t OpenFile::read(std::span<std::uint8_t> bytes, std::uint64_t offset) const {
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t count = ::pread(descriptor_, bytes.data() + done, bytes.size() - done,
                                      static_cast<off_t>(offset + done));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) fail_to_read(path_, error_text(errno));
        if (count == 0) break;
        done += std::size_t(count);
    }
    return done;
}

}  // namespace nca
