// SPDX-License-Identifier: MIT
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <memory>

#include "host/core/throw_error.hpp"

namespace nca::cpu {

// Zeroed, page-aligned memory from the operating system. A page takes memory only when it is
// written, and a large part of a tape is never written: cells that do not live stay zero.
class ZeroedMemory {
public:
    explicit ZeroedMemory(std::size_t bytes) : data_(map(bytes), Unmap{bytes}) {}

    template <class T>
    T* as() const {
        return static_cast<T*>(data_.get());
    }

private:
    struct Unmap {
        std::size_t bytes;
        void operator()(void* pointer) const { munmap(pointer, bytes); }
    };

    static void* map(std::size_t bytes) {
        // The system may promise more memory than there is, and then end the process when the
        // memory is used.
        const auto physical = std::size_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
        void* pointer = bytes > physical ? MAP_FAILED
                                         : mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (pointer == MAP_FAILED) {
            throw_error<Error>(
                "no memory for {} bytes of states on a machine with {}: use a smaller batch, a "
                "smaller grid or fewer steps",
                bytes, physical);
        }
        return pointer;
    }

    std::unique_ptr<void, Unmap> data_;
};

}  // namespace nca::cpu
