// SPDX-License-Identifier: MIT
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <initializer_list>
#include <utility>
#include <vector>

namespace nca::python {

// A numpy array that owns the values.
template <class T>
nanobind::ndarray<nanobind::numpy, T> array_of(std::vector<T> values,
                                               std::initializer_list<std::size_t> shape) {
    auto* owned = new std::vector<T>(std::move(values));
    const nanobind::capsule owner(
        owned, [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
    return nanobind::ndarray<nanobind::numpy, T>(owned->data(), shape, owner);
}

}  // namespace nca::python
