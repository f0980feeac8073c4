// SPDX-License-Identifier: MIT
#pragma once

namespace nca::cpu {

// To be called before each parallel region of OpenMP, with the number of its threads. Throws Error
// where the region could not run: where the system does not make so many threads, and in a child of
// fork that does not have its parent's threads. OpenMP itself would end the process in the first
// case and wait for ever in the second.
void prepare_threads(int threads);

}  // namespace nca::cpu
