// SPDX-License-Identifier: MIT
#pragma once

#include "benchmarks/table.hpp"

#include <functional>
#include <string>

namespace nca::bench {

// The results of a run: rows that are printed as they come, in a table, and written to a json file
// after each of them, because what comes later may be cut off.
class Report {
public:
    // head: what the file has in front of the rows. path: none where it is empty. Throws IoError
    // where the file cannot be written.
    Report(Row head, std::string path, bool gpu);

    // The rows that follow are of this table.
    void begin(Table table);
    void add(const Row& row);
    // Runs work, which adds rows of its own. What it throws becomes this row's problem, so that the
    // work after it still runs. False where it has thrown.
    bool run(Row row, const std::function<void()>& work);

    // True where no work has thrown. Throws IoError where the last rows could not be written.
    bool end() const;

private:
    void write();

    Row report_;
    std::string path_;
    bool gpu_;
    Table table_ = Table::training;
    bool failed_ = false;
    std::string write_error_;  // empty where the file has every row
};

}  // namespace nca::bench
