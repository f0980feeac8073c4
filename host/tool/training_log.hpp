// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/throw_error.hpp"
#include "host/files/atomic_file.hpp"
#include "host/files/json_fields.hpp"
#include "host/tool/console.hpp"

#include <nca/trainer.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
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
        file_.emplace(path_, text_of(parts));
    }

    // Whether a file is a log, or all zeros, as a power failure may have left one. May throw
    // FormatError where it is not.
    static bool is_log(const std::filesystem::path& path) {
        for (Lines line(path); line.next();) {
            if (line.text() == header) return true;
            if (!line.text().starts_with(comment_mark)) break;
        }
        std::ifstream file(path);
        return std::all_of(std::istreambuf_iterator<char>(file), {},
                           [](char byte) { return byte == '\0'; });
    }

    // How many rows a log has; 0 where the file is missing or no log.
    static std::int64_t rows_in(const std::filesystem::path& path) {
        std::error_code ignored;
        if (!std::filesystem::is_regular_file(path, ignored)) return 0;
        std::int64_t rows = 0;
        bool is_log = false;
        try {
            for (Lines line(path); line.next();) {
                const bool is_comment = line.text().starts_with(comment_mark);
                rows += is_log && !is_comment ? 1 : 0;
                is_log = is_log || line.text() == header;
                if (!is_log && !is_comment) break;
            }
        } catch (const FormatError&) {
        }
        return rows;
    }

    // Returns false once, when the file cannot be written any more. A full disk does not end the
    // training.
    bool add(const IterationReport& report) {
        const Clock::time_point now = Clock::now();
        const double seconds =
            earlier_seconds_ + std::chrono::duration<double>(now - start_).count();
        file_->append(fmt::format("{},{:.9g},{},{:.9g},{:.9g},{:.3f},{},{},{}\n", report.iteration,
                                  report.loss, report.steps, report.learning_rate,
                                  report.gradient_norm, seconds, report.dead, report.reset,
                                  quoted(report.recovery)));
        if (now - flushed_ >= std::chrono::seconds(1)) {
            flushed_ = now;
            return file_->flush();
        }
        return true;
    }

    // Writes the remaining rows to the disk. Returns the same as add.
    bool sync() { return file_->sync(); }

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

    static std::string unquoted(std::string_view text) {
        std::string result;
        for (std::size_t i = 1; i + 1 < text.size(); ++i) {
            result += text[i];
            i += text[i] == '"' ? 1 : 0;  // a quote is written twice
        }
        return result;
    }

    // Throws FormatError, which names line `number`, where the line cannot be of a log.
    [[noreturn]] static void fail(const std::filesystem::path& path, std::int64_t number,
                                  std::string_view why) {
        throw_error<FormatError>("{}: line {} {}; the log is damaged, name another file with --log",
                                 path.string(), number, why);
    }

    // Reads a log line by line.
    class Lines {
    public:
        explicit Lines(const std::filesystem::path& path) : path_(path), file_(path) {}

        // False at the end of the file.
        bool next() {
            std::array<char, 4096> buffer;
            file_.getline(buffer.data(), buffer.size());
            const bool too_long = file_.fail() && file_.gcount() == buffer.size() - 1;
            const bool at_end = file_.fail() && !too_long;
            const std::streamsize line_feed = file_.fail() || file_.eof() ? 0 : 1;
            text_.assign(buffer.data(), std::size_t(file_.gcount() - line_feed));
            ++number_;
            has_zeros_ = text_.find('\0') != std::string::npos;
            if (too_long && !has_zeros_) {
                fail(path_, number_, fmt::format("has more than {} characters", text_.size()));
            }
            if (too_long) {
                file_.clear();
                file_.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
            }
            return !at_end;
        }
        const std::string& text() const { return text_; }
        std::int64_t number() const { return number_; }
        // Not a line that a crash has cut off, or of which it has left zeros.
        bool is_whole() const { return !file_.eof() && !has_zeros_; }
        bool has_zeros() const { return has_zeros_; }

    private:
        std::filesystem::path path_;
        std::ifstream file_;
        std::string text_;
        std::int64_t number_ = 0;
        bool has_zeros_ = false;
    };

    // One row as it was read.
    struct Row {
        IterationReport report;
        double seconds = 0;
    };

    static Row row_of(const std::filesystem::path& path, const Lines& line) {
        const Fields fields = fields_of(line.text());
        const auto number = [&]<class Number>(int column, Number least) {
            const std::string_view text = fields[std::size_t(column)];
            Number value{};
            const auto [end, error] =
                std::from_chars(text.data(), text.data() + text.size(), value);
            const bool whole = error == std::errc{} && end == text.data() + text.size();
            if (!whole || value < least) {
                fail(path, line.number(),
                     fmt::format("has {} in column {}, expected a number{}", printable(text),
                                 column + 1, least == 0 ? " from 0 up" : ""));
            }
            return value;
        };
        constexpr double any = -std::numeric_limits<double>::infinity();
        Row row{.report = {.iteration = number(0, std::int64_t{0}),
                           .steps = number(2, 0),
                           .loss = number(1, any),
                           .learning_rate = number(3, any),
                           .gradient_norm = number(4, any),
                           .dead = number(6, 0),
                           .reset = number(7, 0),
                           .recovery = unquoted(fields[8])},
                .seconds = number(seconds_column, 0.0)};
        if (!std::isfinite(row.seconds)) {
            fail(path, line.number(),
                 fmt::format("has {} seconds, expected a finite number", row.seconds));
        }
        return row;
    }

    // Reads the old file and fills earlier_ and earlier_seconds_.
    std::vector<Part> earlier_parts(std::int64_t first_iteration) {
        std::vector<Part> parts;
        Lines line(path_);
        if (!line.next() || line.has_zeros()) return parts;  // no log yet, or none that was written
        std::string comment;                                 // of the rows that follow
        if (line.text().starts_with(comment_mark)) {
            comment = without_controls(line.text());
            line.next();
        }
        if (line.text() != header) {
            throw_error<FormatError>(
                "{}: not a log of nca train, which begins with \"{}\"; name another file with "
                "--log",
                path_.string(), header);
        }
        while (line.next()) {
            if (line.text().starts_with(comment_mark)) {
                comment = without_controls(line.text());
                continue;
            }
            // A crash may have cut off a row, or left zeros in its place. It then has no line feed,
            // or too few columns where a later run wrote behind it.
            if (!line.is_whole() || std::ranges::count(line.text(), ',') < columns - 1) continue;
            const Row row = row_of(path_, line);
            if (row.report.iteration >= first_iteration) continue;
            if (!earlier_.empty() && row.report.iteration <= earlier_.back().iteration) {
                fail(path_, line.number(),
                     fmt::format("has iteration {} after {}", row.report.iteration,
                                 earlier_.back().iteration));
            }
            if (parts.empty() || parts.back().comment != comment) parts.push_back({comment, {}});
            parts.back().rows.push_back(line.text());
            earlier_.push_back(row.report);
            earlier_seconds_ = row.seconds;
        }
        return parts;
    }

    std::filesystem::path path_;
    std::optional<GrowingFile> file_;
    std::vector<IterationReport> earlier_;
    double earlier_seconds_ = 0;
    Clock::time_point start_ = Clock::now();
    Clock::time_point flushed_ = start_;
};

}  // namespace nca::tool
