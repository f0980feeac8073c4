// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/throw_error.hpp"
#include "host/files/atomic_file.hpp"
#include "host/tool/console.hpp"

#include <nca/trainer.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace nca::tool {

// The csv file of a training run: one row per iteration, written at most a second later. A comment
// above the rows names the engine that computed them.
class TrainingLog {
public:
    // Keeps the rows of an earlier run with iterations before first_iteration. Where another engine
    // computed these, a new comment comes before the new rows. Throws IoError, and FormatError
    // where the old file is not such a log.
    TrainingLog(const std::filesystem::path& path, std::int64_t first_iteration,
                std::string_view engine)
        : path_(path) {
        std::vector<Part> parts;
        if (first_iteration > 0) parts = earlier_parts(first_iteration);
        const std::string comment = std::string(comment_mark) + without_controls(engine);
        if (parts.empty() || parts.back().comment != comment) parts.push_back({comment, {}});
        // The old log is replaced only when the new one has all its rows.
        write_text(path_, text_of(parts));
        file_.reset(std::fopen(path_.c_str(), "ae"));
        if (!file_) {
            throw_error<IoError>("cannot write {}: {}", path_.string(), std::strerror(errno));
        }
    }

    // Returns false once, when the file cannot be written any more. A full disk does not end the
    // training.
    bool add(const IterationReport& report) {
        if (!file_) return true;
        const Clock::time_point now = Clock::now();
        const double seconds =
            earlier_seconds_ + std::chrono::duration<double>(now - start_).count();
        write(fmt::format("{},{:.9g},{},{:.9g},{:.9g},{:.3f},{},{},{}\n", report.iteration,
                          report.loss, report.steps, report.learning_rate, report.gradient_norm,
                          seconds, report.dead, report.reset, quoted(report.recovery)));
        if (now - flushed_ >= std::chrono::seconds(1)) {
            flushed_ = now;
            return close_unless(flush());
        }
        return true;
    }

    // Writes the remaining rows. Returns the same as add.
    bool finish() { return !file_ || close_unless(flush()); }

    // The iterations of the earlier run whose rows are kept, and the time at the last of them.
    const std::vector<IterationReport>& earlier() const { return earlier_; }
    double earlier_seconds() const { return earlier_seconds_; }

private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::string_view comment_mark = "# engine: ";
    static constexpr std::string_view header =
        "iteration,loss,steps,learning_rate,gradient_norm,seconds,dead,reset,recovery";
    static constexpr int columns = 9;
    static constexpr int seconds_column = 5;
    using Fields = std::array<std::string_view, columns>;

    // Rows that one engine computed.
    struct Part {
        std::string comment;  // empty in logs of versions without comments
        std::vector<std::string> rows;
    };

    struct Close {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };

    void write(const std::string& text) { std::fwrite(text.data(), 1, text.size(), file_.get()); }
    bool flush() { return std::fflush(file_.get()) == 0 && std::ferror(file_.get()) == 0; }
    bool close_unless(bool good) {
        if (!good) file_.reset();
        return good;
    }

    static std::string text_of(const std::vector<Part>& parts) {
        std::string text;
        for (const Part& part : parts) {
            if (!part.comment.empty()) text += part.comment + "\n";
            if (&part == &parts.front()) text += std::string(header) + "\n";
            for (const std::string& row : part.rows) text += row + "\n";
        }
        return text;
    }

    static std::string quoted(const std::string& text) {
        if (text.empty()) return text;
        std::string result = "\"";
        for (const char c : without_controls(text)) {
            result += c == '"' ? std::string("\"\"") : std::string(1, c);
        }
        return result + "\"";
    }

    static Fields fields_of(std::string_view row) {
        Fields fields;
        for (std::string_view& field : fields) {
            // The last one is in quotes and may hold commas.
            const bool last = &field == &fields.back();
            const std::size_t comma = last ? std::string_view::npos : row.find(',');
            field = row.substr(0, comma);
            row = comma == std::string_view::npos ? "" : row.substr(comma + 1);
        }
        return fields;
    }

    // 0 where the text is not a number.
    template <class Number>
    static Number number(std::string_view text) {
        Number value{};
        std::from_chars(text.data(), text.data() + text.size(), value);
        return value;
    }

    static std::string unquoted(std::string_view text) {
        std::string result;
        for (std::size_t i = 1; i + 1 < text.size(); ++i) {
            result += text[i];
            i += text[i] == '"' ? 1 : 0;  // a quote is written twice
        }
        return result;
    }

    static IterationReport report_of(std::string_view row) {
        const Fields fields = fields_of(row);
        return {.iteration = number<std::int64_t>(fields[0]),
                .steps = number<int>(fields[2]),
                .loss = number<double>(fields[1]),
                .learning_rate = number<double>(fields[3]),
                .gradient_norm = number<double>(fields[4]),
                .dead = number<int>(fields[6]),
                .reset = number<int>(fields[7]),
                .recovery = unquoted(fields[8])};
    }

    // Reads the old file and fills earlier_ and earlier_seconds_.
    std::vector<Part> earlier_parts(std::int64_t first_iteration) {
        std::vector<Part> parts;
        std::ifstream file(path_);
        std::string line;
        if (!std::getline(file, line)) {
            return parts;  // no log yet
        }
        std::string comment;  // of the rows that follow
        if (line.starts_with(comment_mark)) {
            comment = line;
            std::getline(file, line);
        }
        if (line != header) {
            throw_error<FormatError>(
                "{}: not a log of nca train, which begins with \"{}\"; name another file with "
                "--log",
                path_.string(), header);
        }
        while (std::getline(file, line)) {
            if (line.starts_with(comment_mark)) {
                comment = line;
                continue;
            }
            std::int64_t iteration = 0;
            const auto [end, error] =
                std::from_chars(line.data(), line.data() + line.size(), iteration);
            // A crash may have cut off a row. It then has no line feed, or too few columns where a
            // later run wrote behind it.
            const bool whole =
                !file.eof() && std::count(line.begin(), line.end(), ',') >= columns - 1;
            if (error == std::errc{} && *end == ',' && whole && iteration < first_iteration) {
                if (parts.empty() || parts.back().comment != comment) {
                    parts.push_back({comment, {}});
                }
                parts.back().rows.push_back(line);
                earlier_.push_back(report_of(line));
                earlier_seconds_ = number<double>(fields_of(line)[seconds_column]);
            }
        }
        return parts;
    }

    std::filesystem::path path_;
    std::unique_ptr<std::FILE, Close> file_;
    std::vector<IterationReport> earlier_;
    double earlier_seconds_ = 0;
    Clock::time_point start_ = Clock::now();
    Clock::time_point flushed_ = start_;
};

}  // namespace nca::tool
