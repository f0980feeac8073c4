// SPDX-License-Identifier: MIT
#include "host/files/atomic_file.hpp"
#include "host/core/throw_error.hpp"
#include "host/files/open_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

namespace nca {
namespace {

namespace fs = std::filesystem;

class FileDescriptor {
public:
    explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
    ~FileDescriptor() {
        if (descriptor_ >= 0) ::close(descriptor_);
    }
    FileDescriptor(FileDescriptor&& other) noexcept : descriptor_(other.release()) {}

    int get() const { return descriptor_; }
    int release() { return std::exchange(descriptor_, -1); }
    // A network file system may report a failed write only here.
    int close() { return ::close(release()); }

private:
    int descriptor_;
};

std::span<const std::uint8_t> bytes_of(std::string_view text) {
    return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

fs::path folder_of(const fs::path& path) {
    return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

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
            if (std::error_code e; fs::exists(folder_of(path), e)) {
                return "no file can be made there; choose another folder";
            }
            return fmt::format("create the folder {} first", folder_of(path).string());
        case ENAMETOOLONG:
            return "take a shorter name";
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

// The file to replace.
struct Target {
    fs::path asked_for;  // for messages
    fs::path path;
    std::optional<mode_t> old_mode;  // permissions of the old file; none: there is no file yet
};

// Follows a link to the file that it names, so that the link stays a link. Refuses what a rename
// would destroy: a folder, and a device such as /dev/null.
Target find_target(const fs::path& path) {
    const auto fail = [&](const char* why) {
        throw_error<IoError>("cannot write {}: {}", path.string(), why);
    };
    if (has_nul(path)) {
        throw_error<IoError>("cannot write {}: the name has a NUL character after that; remove it",
                             path.c_str());
    }
    if (path.filename().empty()) {
        throw_error<IoError>("cannot write '{}': the file name is missing; add one", path.string());
    }
    std::error_code error;
    Target target{path, fs::canonical(path, error), {}};
    if (error) target.path = path;
    struct stat old = {};
    if (::stat(target.path.c_str(), &old) == 0) {
        if (S_ISDIR(old.st_mode)) fail("it is a folder; name a file in it");
        if (!S_ISREG(old.st_mode)) fail("it is not a regular file; name another");
        target.old_mode = old.st_mode & 0777;                 // without setuid and its like
    } else if (const int reason = errno; reason != ENOENT) {  // the name is too long, for example
        fail_to_write(path, reason);
    } else if (fs::is_symlink(path, error)) {
        fail("it is a link to a file that is not there; remove the link or make the file first");
    }
    return target;
}

constexpr std::string_view temporary_begin = ".nca-";
constexpr std::string_view temporary_end = ".tmp";

fs::path temporary_path(const fs::path& target, int attempt) {
    return folder_of(target) /
           fmt::format("{}{}-{}{}", temporary_begin, ::getpid(), attempt, temporary_end);
}

int lock(int descriptor, int operation) {
    int result = -1;
    do {
        result = ::flock(descriptor, operation);
    } while (result != 0 && errno == EINTR);
    return result;
}

// A new file beside the target, which then replaces it. It is locked while this process has it
// open, so that remove_leftovers knows the files of processes that were killed.
class TemporaryFile {
public:
    explicit TemporaryFile(const Target& target) : target_(target), file_(create()) {}
    ~TemporaryFile() {
        if (!path_.empty()) ::unlink(path_.c_str());
    }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;

    void write(std::span<const std::uint8_t> contents) {
        while (!contents.empty()) {
            const ssize_t written = ::write(file_.get(), contents.data(), contents.size());
            if (written < 0 && errno == EINTR) continue;
            if (written <= 0) fail_to_write(target_.asked_for, written < 0 ? errno : ENOSPC);
            contents = contents.subspan(std::size_t(written));
        }
        if (target_.old_mode && ::fchmod(file_.get(), *target_.old_mode) != 0) {
            fail_to_write(target_.asked_for, errno);
        }
        if (::fsync(file_.get()) != 0) fail_to_write(target_.asked_for, errno);
    }

    // Becomes the target. Where that fails, the finished file is kept under another name.
    void replace_target() {
        if (::rename(path_.c_str(), target_.path.c_str()) != 0) keep(errno);
        path_.clear();
    }

    // Where that fails, no file could be renamed either: the folder takes new files only.
    void remove() {
        if (::unlink(path_.c_str()) != 0) fail_to_write(target_.asked_for, errno);
        path_.clear();
    }

    FileDescriptor& file() { return file_; }

private:
    // The name is short, because the target's own may already be as long as the file system allows.
    int create() {
        const mode_t mode = target_.old_mode ? 0600 : 0666;  // write() gives the old permissions
        for (int attempt = 0; attempt < 1000; ++attempt) {
            path_ = temporary_path(target_.path, attempt);
            const int descriptor =
                ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
            if (descriptor >= 0) {
                struct stat status = {};
                lock(descriptor, LOCK_EX | LOCK_NB);  // some file systems have no locks
                if (::fstat(descriptor, &status) != 0 || status.st_nlink > 0) return descriptor;
                ::close(descriptor);  // remove_leftovers was faster
            } else if (errno != EEXIST) {
                const int error = errno;
                path_.clear();
                fail_to_write(target_.asked_for, error);
            }
        }
        path_.clear();
        fail_to_write(target_.asked_for, EEXIST);
    }

    // The name has the process's number, so that no other's file is replaced.
    [[noreturn]] void keep(int error) {
        constexpr std::size_t longest_begin = 230;
        fs::path kept = target_.path;
        kept.replace_filename(fmt::format("{}.rescued-{}",
                                          target_.path.filename().string().substr(0, longest_begin),
                                          ::getpid()));
        if (::rename(path_.c_str(), kept.c_str()) != 0) kept = path_;
        path_.clear();
        if (::access(kept.c_str(), F_OK) != 0) fail_to_write(target_.asked_for, error);
        throw_error<IoError>("cannot replace {}: {}; what was to be written is in {}",
                             target_.asked_for.string(), error_text(error), kept.string());
    }

    const Target& target_;
    fs::path path_;  // empty: it has another name now
    FileDescriptor file_;
};

void sync_folder(const Target& target) {
    const FileDescriptor descriptor(
        ::open(folder_of(target.path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (descriptor.get() < 0) {
        // The folder is writable but not readable. The rename is done all the same.
        if (errno == EACCES) return;
        fail_to_write(target.asked_for, errno);
    }
    // Some file systems cannot flush a folder and say EINVAL.
    if (::fsync(descriptor.get()) != 0 && errno != EINVAL) fail_to_write(target.asked_for, errno);
}

// Replaces the file and returns the new one, still open.
FileDescriptor replace(const fs::path& path, std::span<const std::uint8_t> contents) {
    const Target target = find_target(path);
    TemporaryFile file(target);
    file.write(contents);
    file.replace_target();
    sync_folder(target);
    return std::move(file.file());
}

// The process whose temporary file has this name; 0 where it is not such a name.
pid_t process_of(std::string_view name) {
    if (!name.starts_with(temporary_begin) || !name.ends_with(temporary_end)) return 0;
    name.remove_prefix(temporary_begin.size());
    name.remove_suffix(temporary_end.size());
    pid_t process = 0;
    int attempt = 0;
    const char* const last = name.data() + name.size();
    const auto [dash, no_process] = std::from_chars(name.data(), last, process);
    if (no_process != std::errc{} || dash == last || *dash != '-') return 0;
    const auto [end, no_attempt] = std::from_chars(dash + 1, last, attempt);
    return no_attempt == std::errc{} && end == last && process > 0 ? process : 0;
}

// Removes the temporary files of processes that were killed. Both must hold: there is no such
// process, and nobody has locked the file. The first alone fails where other machines use the
// folder, the second where a file system has no locks.
void remove_leftovers(const fs::path& folder) {
    std::error_code error;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error)) {
        const fs::path& path = entry->path();
        const pid_t process = process_of(path.filename().native());
        if (process == 0 || ::kill(process, 0) == 0 || errno != ESRCH) continue;
        const FileDescriptor file(
            ::open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
        struct stat open_file = {}, named_file = {};
        const bool unused = file.get() >= 0 && lock(file.get(), LOCK_EX | LOCK_NB) == 0 &&
                            ::fstat(file.get(), &open_file) == 0 &&
                            ::lstat(path.c_str(), &named_file) == 0 && S_ISREG(open_file.st_mode) &&
                            open_file.st_ino == named_file.st_ino;
        if (unused) ::unlink(path.c_str());
        ::rmdir(path.c_str());  // an empty folder of require_replaceable
    }
}

// Throws IoError where the old file could not be replaced although a file can be made beside it: it
// is another user's in a folder such as /tmp, it may not be changed, or it is a mount point.
void require_replaceable(const Target& target) {
    struct statx status = {};
    if (::statx(AT_FDCWD, target.path.c_str(), AT_SYMLINK_NOFOLLOW, STATX_TYPE, &status) == 0 &&
        (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0) {
        throw_error<IoError>("cannot write {}: it is a mount point; name another file",
                             target.asked_for.string());
    }
    // The system checks first whether the file may be replaced, and then finds that a folder cannot
    // replace it. So nothing changes.
    const fs::path folder = temporary_path(target.path, 0);
    if (::mkdir(folder.c_str(), 0700) != 0) return;
    const int result = ::rename(folder.c_str(), target.path.c_str());
    const int error = result == 0 ? 0 : errno;
    ::rmdir(result == 0 ? target.path.c_str() : folder.c_str());
    for (const int refusal : {EPERM, EACCES, EBUSY, EROFS, ETXTBSY}) {
        if (error != refusal) continue;
        throw_error<IoError>(
            "cannot write {}: the file that is there may not be replaced ({}); "
            "name another file",
            target.asked_for.string(), error_text(error));
    }
}

}  // namespace

std::vector<std::uint8_t> read_file(const fs::path& path, std::size_t max_bytes) {
    const OpenFile file(path);
    if (file.size() > max_bytes) {
        throw_error<IoError>(
            "cannot read {}: it has {} bytes, expected at most {}; is it the right file?",
            path.string(), file.size(), max_bytes);
    }
    std::vector<std::uint8_t> contents(std::size_t(file.size()));
    contents.resize(file.read(contents, 0));  // another process may have shortened the file
    return contents;
}

void write_file(const fs::path& path, std::span<const std::uint8_t> contents) {
    FileDescriptor file = replace(path, contents);
    if (file.close() != 0) fail_to_write(path, errno);
}

void write_text(const fs::path& path, std::string_view text) { write_file(path, bytes_of(text)); }

GrowingFile::GrowingFile(const fs::path& path, std::string_view text) {
    FileDescriptor file = replace(path, bytes_of(text));
    lock(file.get(), LOCK_UN);
    file_.reset(::fdopen(file.get(), "w"));
    if (file_ == nullptr) fail_to_write(path, errno);
    file.release();
}

void GrowingFile::append(std::string_view text) {
    if (file_) std::fwrite(text.data(), 1, text.size(), file_.get());
}

bool GrowingFile::flush() {
    return !file_ || close_unless(std::fflush(file_.get()) == 0 && std::ferror(file_.get()) == 0);
}

bool GrowingFile::sync() {
    if (!flush()) return false;
    // A file system without fsync says EINVAL.
    return !file_ || close_unless(::fsync(::fileno(file_.get())) == 0 || errno == EINVAL);
}

bool GrowingFile::close_unless(bool good) {
    if (!good) file_.reset();
    return good;
}

void require_writable(const fs::path& path) {
    const Target target = find_target(path);
    remove_leftovers(folder_of(target.path));
    TemporaryFile file(target);
    file.remove();
    if (target.old_mode) require_replaceable(target);
}

fs::path resolved(const fs::path& path) {
    std::error_code error;
    fs::path whole = fs::canonical(path, error);
    if (!error) return whole;
    const fs::path folder = folder_of(path);
    if (folder == path) return fs::absolute(path, error);
    return resolved(folder) / path.filename();
}

}  // namespace nca
