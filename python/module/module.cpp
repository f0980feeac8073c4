// SPDX-License-Identifier: MIT
// The extension module libnca._core: what python/libnca is written on.
#include "python/module/bindings.hpp"
#include "python/module/engine_pool.hpp"

#include <nca/error.hpp>
#include <nca/version.hpp>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <exception>

namespace nb = nanobind;

namespace {

// The library's exceptions as Python's own.
void translate(const std::exception_ptr& pointer, void*) {
    try {
        std::rethrow_exception(pointer);
    } catch (const nca::InvalidArgument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const nca::FormatError& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const nca::IoError& error) {
        PyErr_SetString(PyExc_OSError, error.what());
    } catch (const nca::Error& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
}

}  // namespace

NB_MODULE(_core, module) {
    nb::register_exception_translator(translate);
    nb::set_leak_warnings(false);  // what a program keeps until its end is no leak
    module.attr("version") = NCA_VERSION;
    module.def("set_threads", nca::python::set_threads);
    module.def("threads", nca::python::threads);
    module.def("set_precision", nca::python::set_precision);
    nca::python::bind_rollout(module);
    nca::python::bind_model(module);
    nca::python::bind_simulator(module);
    nca::python::bind_trainer(module);
    nca::python::bind_jax(module);
}
