// SPDX-License-Identifier: MIT
#include "host/files/atomic_file.hpp"
#include "host/core/throw_error.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
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
            if (std::error_code e; path.has_parent_path() && fs::exists(path.parent_path(), e)) {
                return "no file can be made there; choose another folder";
            }
            return fmt::format("create the folder {} first", path.parent_path().string());
        case ENOTDIR:
            return fmt::format("{} is not a folder", path.parent_path().string());
        default:
            return "nothing was written; try another path";
    }
}

[[noreturn]] void fail_to_write(const fs::path& path, int error) {
    throw_error<IoError>("cannot write {}: {}; {}", path.string(), error_text(error),
                         advice(error, path));
}

void write_all(int descriptor, std::span<const std::uint8_t> contents, const fs::path& path) {
    while (!contents.empty()) {
        const ssize_t written = ::write(descriptor, contents.data(), contents.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) fail_to_write(path, written < 0 ? errno : ENOSPC);
        contents = contents.subspan(std::size_t(written));
    }
}

// The file to replace.
struct Target {
    fs::path path;
    std::optional<mode_t> old_mode;  // the old file's; none: there is no file yet

    fs::path folder() const { return path.has_parent_path() ? path.parent_path() : fs::path("."); }
};

// Follows a link to the file that it names, so that the link stays a link. Refuses what a rename
// would destroy: a folder, and a device such as /dev/null.
Target find_target(const fs::path& path) {
    const auto fail = [&](const char* why) {
        throw_error<IoError>("cannot write {}: {}", path.string(), why);
    };
    if (path.filename().empty()) {
        throw_error<IoError>("cannot write '{}': the file name is missing; add one", path.string());
    }
    std::error_code error;
    Target target{fs::canonical(path, error), {}};
    if (error) target.path = path;
    struct stat old = {};
    if (::stat(target.path.c_str(), &old) == 0) {
        if (S_ISDIR(old.st_mode)) fail("it is a folder; name a file in it");
        if (!S_ISREG(old.st_mode)) fail("it is not a regular file; name another");
        target.old_mode = old.st_mode & 07777;
    } else if (fs::is_symlink(path, error)) {
        fail("it is a link to a file that is not there; remove the link or make the file first");
    }
    return target;
}

// Makes a new file in the folder, sets `name` to its path and returns its descriptor. The name is
// short, because the target's own may already be as long as the file system allows.
int create_temporary(const fs::path& folder, const fs::path& path, fs::path& name) {
    for (int attempt = 0; attempt < 1000; ++attempt) {
        name = folder / fmt::format(".nca-{}-{}.tmp", ::getpid(), attempt);
        const int descriptor = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor >= 0) return descriptor;
        if (errno != EEXIST) fail_to_write(path, errno);
    }
    fail_to_write(path, EEXIST);
}

void sync_folder(const fs::path& folder, const fs::path& path) {
    const FileDescriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (descriptor.get() < 0) {
        // The folder is writable but not readable. The rename is done all the same.
        if (errno == EACCES) return;
        fail_to_write(path, errno);
    }
    // Some file systems cannot flush a folder and say EINVAL.
    if (::fsync(descriptor.get()) != 0 && errno != EINVAL) fail_to_write(path, errno);
}

}  // namespace

std::vector<std::uint8_t> read_file(const fs::path& path, std::size_t max_bytes) {
    const auto fail = [&](const std::string& why) {
        throw_error<IoError>("cannot read {}: {}", path.string(), why);
    };
    // Without O_NONBLOCK, opening a named pipe would wait for ever.
    FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.get() < 0) {
        fail(errno == ENOENT ? "there is no such file; check the path" : error_text(errno));
    }
    struct stat status = {};
    if (::fstat(file.get(), &status) != 0) fail(error_text(errno));
    if (S_ISDIR(status.st_mode)) fail("it is a folder; name a file in it");
    if (!S_ISREG(status.st_mode)) fail("it is not a regular file; save the data to one first");
    const auto size = std::uint64_t(status.st_size);
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
        if (count == 0) break;  // another process has shortened the file
        done += std::size_t(count);
    }
    contents.resize(done);
    return contents;
}

void write_file(const fs::path& path, std::span<const std::uint8_t> contents) {
    const Target target = find_target(path);
    fs::path temporary;
    FileDescriptor file(create_temporary(target.folder(), path, temporary));
    try {
        if (target.old_mode && ::fchmod(file.get(), *target.old_mode) != 0) {
            fail_to_write(path, errno);
        }
        write_all(file.get(), contents, path);
        if (::fsync(file.get()) != 0) fail_to_write(path, errno);
        if (file.close() != 0) fail_to_write(path, errno);
        if (::rename(temporary.c_str(), target.path.c_str()) != 0) fail_to_write(path, errno);
    } catch (...) {
        ::unlink(temporary.c_str());
        throw;
    }
    sync_folder(target.folder(), path);
}

void write_text(const fs::path& path, std::string_view text) {
    write_file(path, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

void require_writable(const fs::path& path) {
    const Target target = find_target(path);
    fs::path temporary;
    const FileDescriptor file(create_temporary(target.folder(), path, temporary));
    ::unlink(temporary.c_str());
}

}  // namespace nca
