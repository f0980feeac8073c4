// SPDX-License-Identifier: MIT
#pragma once

#include <nanobind/nanobind.h>

// What each file adds to the module.
namespace nca::python {

void bind_rollout(nanobind::module_& module);
void bind_model(nanobind::module_& module);
void bind_simulator(nanobind::module_& module);
void bind_trainer(nanobind::module_& module);
void bind_jax(nanobind::module_& module);

}  // namespace nca::python
