// SPDX-License-Identifier: MIT
#include "benchmarks/report.hpp"

#include "host/files/atomic_file.hpp"

#include <nca/error.hpp>

#include <cstdint>
#include <cstdio>
#include <utility>

namespace nca::bench {

Report::Report(Row head, std::string path, bool gpu)
    : report_(std::move(head)), path_(std::move(path)), gpu_(gpu) {
    report_["rows"] = Row::array();
    write();
    if (!write_error_.empty()) throw IoError(write_error_);
}

void Report::begin(Table table) {
    table_ = table;
    print_head(table_, gpu_);
}

void Report::add(const Row& row) {
    print_row(table_, row, gpu_);
    std::fflush(stdout);
    report_["rows"].push_back(row);
    write();
}

bool Report::run(Row row, const std::function<void()>& work) {
    try {
        work();
        return true;
    } catch (const Error& error) {
        failed_ = true;
        row["problem"] = error.what();
        row["failed"] = true;
        add(row);
        return false;
    }
}

bool Report::end() const {
    if (!write_error_.empty()) throw IoError(write_error_);
    return !failed_;
}

void Report::write() {
    if (path_.empty()) return;
    const std::string text = report_.dump(2) + "\n";
    try {
        write_file(path_, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
        write_error_.clear();
    } catch (const IoError& error) {
        write_error_ = error.what();
    }
}

}  // namespace nca::bench
