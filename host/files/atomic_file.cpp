// SPDX-License-Identifier: MIT
#include "host/files/atomic_file.hpp"

#include <nca/error.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

namespace nca {
namespace {

namespace fs = std::filesystem;

class FileDescriptor {
public:
    explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
    ~FileDescriptor() {
        if (descriptor_ >= 0) ::close(descriptor_);
    }
    FileDescriptor(const FileDescriptor&) = delete;
    FileDescriptor& operator=(const FileDescriptor&) = delete;

    int get() const { return descriptor_; }
    // A network file system may report a failed write only here.
    int close() {
        const int descriptor = descriptor_;
        descriptor_ = -1;
        return ::close(descriptor);
    }

private:
    int descriptor_;
};

std::string error_text(int error) { return std::generic_category().message(error); }

std::string advice(int error, const fs::path& path) {
    switch (error) {
        case ENOSPC:
        case EDQUOT:
        case EFBIG:
            return "free some space or write to another disk";
        case EACCES:
        case EPERM:
        case EROFS:
            return "choose a folder that you may write to";
        case ENOENT:
            return fmt::format("create the folder {} first", path.parent_path().string());
        case ENOTDIR:
            return fmt::format("{} is not a folder", path.parent_path().string());
        default:
            return "nothing was written; try another path";
    }
}

[[noreturn]] void fail_to_write(const fs::path& path, int error) {
    throw IoError(fmt::format("cannot write {}: {}; {}", path.string(), error_text(error),
                              advice(error, path)));
}

void write_all(int descriptor, std::span<const std::uint8_t> contents, const fs::path& path) {
    while (!contents.empty()) {
        const ssize_t written = ::write(descriptor, contents.data(), contents.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) fail_to_write(path, written < 0 ? errno : ENOSPC);
        contents = contents.subspan(static_cast<std::size_t>(written));
    }
}

// Makes a new file in the folder and gives its name. The name is short, because the target's own
// may already be as long as the file system allows.
int create_temporary(const fs::path& folder, mode_t mode, const fs::path& path, fs::path& name) {
    for (int attempt = 0; attempt < 1000; ++attempt) {
        name = folder / fmt::format(".nca-{}-{}.tmp", ::getpid(), attempt);
        const int descriptor = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (descriptor >= 0) return descriptor;
        if (errno != EEXIST) fail_to_write(path, errno);
    }
    fail_to_write(path, EEXIST);
}

void sync_folder(const fs::path& folder, const fs::path& path) {
    const FileDescriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (descriptor.get() < 0) {
        // A folder that may be written but not read; the rename stands all the same.
        if (errno == EACCES) return;
        fail_to_write(path, errno);
    }
    // Some file systems cannot flush a folder and say EINVAL.
    if (::fsync(descriptor.get()) != 0 && errno != EINVAL) fail_to_write(path, errno);
}

}  // namespace

std::vector<std::uint8_t> read_file(const fs::path& path, std::size_t max_bytes) {
    const auto fail = [&](const std::string& why) {
        throw IoError(fmt::format("cannot read {}: {}", path.string(), why));
    };
    // Without O_NONBLOCK the opening of a named pipe would wait for ever.
    FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.get() < 0) {
        fail(errno == ENOENT ? "there is no such file; check the path" : error_text(errno));
    }
    struct stat status = {};
    if (::fstat(file.get(), &status) != 0) fail(error_text(errno));
    if (S_ISDIR(status.st_mode)) fail("it is a folder; name a file in it");
    if (!S_ISREG(status.st_mode)) fail("it is not a regular file; save the data to one first");
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (size > max_bytes) {
        fail(fmt::format("it has {} bytes, expected at most {}; is it the right file?", size,
                         max_bytes));
    }
    std::vector<std::uint8_t> contents(static_cast<std::size_t>(size));
    std::size_t done = 0;
    while (done < contents.size()) {
        const ssize_t count = ::read(file.get(), contents.data() + done, contents.size() - done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) fail(error_text(errno));
        if (count == 0) break;  // somebody made the file shorter meanwhile
        done += static_cast<std::size_t>(count);
    }
    contents.resize(done);
    return contents;
}

void write_file(const fs::path& path, std::span<const std::uint8_t> contents) {
    if (path.filename().empty()) {
        throw IoError(
            fmt::format("cannot write '{}': the file name is missing; add one", path.string()));
    }
    // Through a link to the file that it names, so that the link stays a link.
    std::error_code ignored;
    fs::path target = fs::canonical(path, ignored);
    if (ignored) target = path;

    struct stat old = {};
    const bool replaces = ::stat(target.c_str(), &old) == 0;
    if (replaces && S_ISDIR(old.st_mode)) {
        throw IoError(
            fmt::format("cannot write {}: it is a folder; name a file in it", path.string()));
    }
    // Renaming over a device such as /dev/null would destroy it.
    if (replaces && !S_ISREG(old.st_mode)) {
        throw IoError(
            fmt::format("cannot write {}: it is not a regular file; name another", path.string()));
    }

    const fs::path folder = target.has_parent_path() ? target.parent_path() : fs::path(".");
    fs::path temporary;
    FileDescriptor file(create_temporary(folder, 0666, path, temporary));
    try {
        if (replaces && ::fchmod(file.get(), old.st_mode & 07777) != 0) fail_to_write(path, errno);
        write_all(file.get(), contents, path);
        if (::fsync(file.get()) != 0) fail_to_write(path, errno);
        if (file.close() != 0) fail_to_write(path, errno);
        if (::rename(temporary.c_str(), target.c_str()) != 0) fail_to_write(path, errno);
    } catch (...) {
        ::unlink(temporary.c_str());
        throw;
    }
    sync_folder(folder, path);
}

}  // namespace nca
