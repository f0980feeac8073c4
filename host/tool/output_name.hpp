// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/throw_error.hpp"
#include "host/tool/arguments/arguments.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace nca::tool {

// The name that `nca grow -o` gives. %d in it, or %03d with zeros in front, stands for the number
// of a frame, and %% for a per cent sign. Only the file's name may have these, not its folder's.
class OutputName {
public:
    // Throws UsageError where there is another % or a second number.
    explicit OutputName(const std::filesystem::path& path) : path_(path) {
        const std::string name = path.filename().string();
        std::string* text = &before_;
        for (std::size_t i = 0; i < name.size(); ++i) {
            if (name[i] != '%') {
                *text += name[i];
                continue;
            }
            const std::string_view rest = std::string_view(name).substr(i + 1);
            if (rest.starts_with('%')) {
                *text += '%';
                i += 1;
                continue;
            }
            const bool padded = rest.size() > 2 && rest[0] == '0' && rest[1] >= '1' &&
                                rest[1] <= '9' && rest[2] == 'd';
            if (numbered_ || !(padded || rest.starts_with('d'))) fail();
            numbered_ = true;
            digits_ = padded ? rest[1] - '0' : 1;
            i += padded ? 3 : 1;
            text = &after_;
        }
    }

    // Whether each frame has a file of its own.
    bool is_numbered() const { return numbered_; }
    // The file of a frame, counted from 0. Without a number it is the same for all.
    std::filesystem::path of(std::int64_t frame) const {
        const std::string number = numbered_ ? fmt::format("{:0{}}", frame, digits_) : "";
        std::filesystem::path path = path_;
        return path.replace_filename(before_ + number + after_);
    }

private:
    [[noreturn]] void fail() const {
        throw_error<UsageError>(
            "-o {}: expected one %d or %0Nd, such as f_%03d.png, for the number of a frame, and %% "
            "for a per cent sign",
            path_.string());
    }

    std::filesystem::path path_;
    std::string before_;  // of the name, in front of the number
    std::string after_;
    bool numbered_ = false;
    int digits_ = 1;  // at least so many
};

}  // namespace nca::tool
