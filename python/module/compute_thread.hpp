// SPDX-License-Identifier: MIT
#pragma once

#include <functional>

// OpenMP keeps a team of threads for each thread that has computed, until that thread ends. XLA
// calls from any of its own threads, of which it has as many as there are processors: the square of
// that number would be too many. So the first few threads that call compute themselves; the calls
// of all others compute on threads of ours, as many as there are such calls at the same time.
namespace nca::python {

// Calls compute() on such a thread, waits for it, and throws what it throws.
void on_compute_thread(const std::function<void()>& compute);

}  // namespace nca::python
