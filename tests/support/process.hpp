// SPDX-License-Identifier: MIT
#pragma once

// Runs programs and reads their output and their files.

#include "tests/support/catch.hpp"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace nca::test {

inline std::string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_file(const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

// A new folder, removed with this object.
class Folder {
public:
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "nca-test-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    std::string operator/(const std::string& name) const { return (path_ / name).string(); }
    // Names and contents of all files.
    std::map<std::string, std::string> contents() const {
        std::map<std::string, std::string> result;
        for (const auto& entry : std::filesystem::directory_iterator(path_)) {
            result[entry.path().filename()] = entry.is_regular_file() ? read_file(entry) : "";
        }
        return result;
    }

private:
    std::filesystem::path path_;
};

struct Outcome {
    int code = -1;   // exit code; -1 where a signal ended it
    int signal = 0;  // the signal that ended it; 0: none
    std::string out;
    std::string err;
};

// A program that runs while the test continues.
class Process {
public:
    // largest_file: how many bytes a file of it may have; 0: any number.
    explicit Process(std::vector<std::string> command, rlim_t largest_file = 0) {
        std::vector<char*> arguments;
        for (std::string& word : command) {
            arguments.push_back(word.data());
        }
        arguments.push_back(nullptr);
        const std::string out = output_ / "out";
        const std::string err = output_ / "err";
        pid_ = fork();
        REQUIRE(pid_ >= 0);
        if (pid_ == 0) {
            if (std::freopen(out.c_str(), "w", stdout) == nullptr ||
                std::freopen(err.c_str(), "w", stderr) == nullptr) {
                _exit(126);
            }
            for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
                std::signal(signal, SIG_DFL);
            }
            const rlimit limit{largest_file, largest_file};
            if (largest_file > 0 && setrlimit(RLIMIT_FSIZE, &limit) != 0) {
                _exit(126);
            }
            execv(arguments[0], arguments.data());
            _exit(127);
        }
    }
    ~Process() {
        if (pid_ > 0) {
            kill(SIGKILL);
            wait();
        }
    }
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    void kill(int signal) const { ::kill(pid_, signal); }
    bool has_ended() const {
        siginfo_t info{};
        REQUIRE(waitid(P_PID, id_t(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0);
        return info.si_pid == pid_;
    }
    std::string err_so_far() const { return read_file(output_ / "err"); }

    Outcome wait() {
        int status = 0;
        REQUIRE(waitpid(pid_, &status, 0) == pid_);
        pid_ = 0;
        return {WIFEXITED(status) ? WEXITSTATUS(status) : -1,
                WIFSIGNALED(status) ? WTERMSIG(status) : 0, read_file(output_ / "out"),
                read_file(output_ / "err")};
    }

private:
    Folder output_;
    pid_t pid_ = 0;
};

// Waits until the condition is true. False where it is not after a minute.
template <class Condition>
bool eventually(Condition condition) {
    for (int i = 0; i < 6000; ++i) {
        if (condition()) {
            return true;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
}

}  // namespace nca::test
