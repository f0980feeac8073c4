// SPDX-License-Identifier: MIT
#pragma once

#include "tests/support/temporary_directory.hpp"

namespace nca::fuzz {

// A folder for the files of this run. In memory where the system has that, because files are
// flushed to disk otherwise.
inline const test::TemporaryDirectory& folder() {
    static const test::TemporaryDirectory folder = [] {
        constexpr auto memory = "/dev/shm";
        if (std::filesystem::is_directory(memory)) ::setenv("TMPDIR", memory, 0);
        return test::TemporaryDirectory();
    }();
    return folder;
}

}  // namespace nca::fuzz
