// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>

#include <stdexcept>
#include <string>

namespace nca {

/// The base of everything that the library throws (but std::bad_alloc). what() says what happened,
/// what was given, what was expected and what to do.
class NCA_API Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// An argument outside its documented range.
class NCA_API InvalidArgument : public Error {
public:
    using Error::Error;
};

/// A file whose contents are not what they claim to be.
class NCA_API FormatError : public Error {
public:
    using Error::Error;
};

/// The operating system refused to read or write.
class NCA_API IoError : public Error {
public:
    using Error::Error;
};

/// The CUDA runtime or driver reported a failure, or there is no such device.
class NCA_API CudaError : public Error {
public:
    using Error::Error;
};

/// CUDA was asked for, but the library was built without it.
class NCA_API NotCompiled : public Error {
public:
    using Error::Error;
};

}  // namespace nca
