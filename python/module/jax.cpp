// SPDX-License-Identifier: MIT
// What XLA calls for the operations of python/libnca/jax.py, which checks all shapes: handlers of
// XLA's foreign function interface. It is a C interface, so nothing of jaxlib is linked. XLA's
// threads call them, without the GIL.
#include "host/core/throw_error.hpp"
#include "python/module/bindings.hpp"
#include "python/module/compute_thread.hpp"
#include "python/module/engine_pool.hpp"
#include "python/module/rollout.hpp"

#include <nca/error.hpp>

#include <nanobind/nanobind.h>
#include <sys/mman.h>
#include <xla/ffi/api/ffi.h>

#include <algorithm>
#include <array>
#include <bit>
#include <climits>
#include <cstdint>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nb = nanobind;
namespace ffi = xla::ffi;

namespace nca::python {
namespace {

// Where a call computes.
struct Place {
    int device = cpu;
    Address stream = 0;
};
// What a handler is bound to: a place of either kind.
struct OnCpu {};
struct OnCuda {};

}  // namespace
}  // namespace nca::python

template <>
struct xla::ffi::CtxDecoding<nca::python::OnCpu> {
    using Type = nca::python::Place;

    static std::optional<Type> Decode(const XLA_FFI_Api*, XLA_FFI_ExecutionContext*,
                                      DiagnosticEngine&) {
        return Type{};
    }
};

template <>
struct xla::ffi::CtxDecoding<nca::python::OnCuda> {
    using Type = nca::python::Place;

    static std::optional<Type> Decode(const XLA_FFI_Api* api, XLA_FFI_ExecutionContext* context,
                                      DiagnosticEngine& diagnostic) {
        const auto device = CtxDecoding<DeviceOrdinal>::Decode(api, context, diagnostic);
        const auto stream =
            CtxDecoding<PlatformStream<nca::Stream>>::Decode(api, context, diagnostic);
        if (!device || !stream) return std::nullopt;
        return Type{*device, std::bit_cast<nca::python::Address>(*stream)};
    }
};

namespace nca::python {
namespace {

template <ffi::DataType type>
using Array = ffi::Buffer<type>;
template <ffi::DataType type>
using ResultArray = ffi::ResultBuffer<type>;
constexpr ffi::DataType f32 = ffi::DataType::F32;
constexpr ffi::DataType f64 = ffi::DataType::F64;
using Key = Array<ffi::DataType::U32>;  // [4]
using Rest = Array<ffi::DataType::U8>;
using Steps = ffi::Span<const std::int64_t>;

template <class Buffer>
Address address_of(Buffer& buffer) {
    return std::bit_cast<Address>(buffer.untyped_data());
}

// b2 is empty where the automaton has none.
template <class Buffer>
WeightAddresses addresses_of(Buffer& w1, Buffer& b1, Buffer& w2, Buffer& b2) {
    return {address_of(w1), address_of(b1), address_of(w2),
            b2.element_count() == 0 ? Address{0} : address_of(b2)};
}

// The sizes of a state, or of several.
Sizes sizes_of(ffi::Span<const std::int64_t> dimensions) {
    if (dimensions.size() < 4) throw InvalidArgument("a state of fewer than four dimensions");
    Sizes sizes;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        const std::int64_t size = dimensions[dimensions.size() - 4 + i];
        if (size > INT_MAX) throw_error<InvalidArgument>("a state's size is {}: too large", size);
        sizes[i] = int(size);
    }
    return sizes;
}

// The key's numbers, which lie in the device's memory. Waits for the stream there.
KeyNumbers numbers_at(const Place& place, const Key& key) {
    std::array<std::uint32_t, 4> words;
    if (place.device == cpu) {
        std::copy_n(key.typed_data(), words.size(), words.begin());
    } else {
        std::array<float, 4> bits;  // an engine copies floats
        BorrowedEngine(place.device)
            ->copy_to_host(bits, reinterpret_cast<const float*>(key.typed_data()),
                           std::bit_cast<Stream>(place.stream));
        words = std::bit_cast<decltype(words)>(bits);
    }
    return {words[0], words[1], words[2], words[3]};
}

// Asks for large pages where the memory is new. XLA takes that of a tape from the system in every
// call: in small pages, a fifth of the time of a training's iteration would go into them.
void ask_for_large_pages(Address address, std::size_t size) {
    constexpr Address page = 4096;
    const Address begin = (address + page - 1) / page * page;
    const Address end = (address + size) / page * page;
    if (begin < end) madvise(std::bit_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

// What goes into a result's memory in place of an operand, which XLA then gives us as one.
template <class Buffer, class Result>
void check_is_same(Buffer& operand, Result& result) {
    if (address_of(operand) != address_of(result)) throw Error("XLA has not aliased two buffers");
}

// Calls compute(). XLA passes what it throws on to Python.
template <class Compute>
ffi::Error run(const Place& place, const Compute& compute) {
    try {
        if (place.device == cpu && threads() > 1) {
            on_compute_thread(compute);
        } else {
            compute();
        }
        return ffi::Error::Success();
    } catch (const InvalidArgument& error) {
        return ffi::Error(ffi::ErrorCode::kInvalidArgument, error.what());
    } catch (const std::bad_alloc&) {
        return ffi::Error(ffi::ErrorCode::kResourceExhausted, "not enough memory");
    } catch (const std::exception& error) {
        return ffi::Error(ffi::ErrorCode::kInternal, error.what());
    }
}

// --- the handlers -------------------------------------------------------------------------------

// y is x's memory.
ffi::Error advance_handler(Place place, Array<f32> x, Array<f32> w1, Array<f32> b1, Array<f32> w2,
                           Array<f32> b2, Key key, ResultArray<f32> y, std::string_view rule,
                           std::int64_t steps) {
    return run(place, [&] {
        check_is_same(x, *y);
        advance(place.device, place.stream, std::string(rule), numbers_at(place, key), int(steps),
                sizes_of(y->dimensions()), addresses_of(w1, b1, w2, b2), address_of(*y));
    });
}

// states: [steps + 1, batch, height, width, channels]; rest: at least tape_bytes().
ffi::Error forward_handler(Place place, Array<f32> x, Array<f32> w1, Array<f32> b1, Array<f32> w2,
                           Array<f32> b2, Key key, ResultArray<f32> states, ffi::Result<Rest> rest,
                           std::string_view rule, std::int64_t steps) {
    return run(place, [&] {
        const std::string text(rule);
        const Sizes sizes = sizes_of(x.dimensions());
        const std::size_t needed = tape_bytes(place.device, text, int(steps), sizes);
        if (rest->size_bytes() < needed) {
            throw_error<Error>("a tape's rest of {} bytes on device {}, which needs {}",
                               rest->size_bytes(), place.device, needed);
        }
        if (place.device == cpu) ask_for_large_pages(address_of(*states), states->size_bytes());
        forward(place.device, place.stream, text, numbers_at(place, key), int(steps), sizes,
                addresses_of(w1, b1, w2, b2), address_of(x), address_of(*states), address_of(*rest),
                false, {}, 0);
    });
}

// grad: the gradients of the states after the steps of `record`, which ascend and end with the last
// step, [records, batch, height, width, channels]. That of the last one is not read: it is
// grad_last, whose memory is that of grad_x. Where there is no other, grad is empty.
ffi::Error backward_handler(Place place, Array<f32> grad_last, Array<f32> grad, Rest rest,
                            Array<f32> states, Array<f32> w1, Array<f32> b1, Array<f32> w2,
                            Array<f32> b2, Key key, ResultArray<f32> grad_x,
                            ResultArray<f32> grad_w1, ResultArray<f32> grad_b1,
                            ResultArray<f32> grad_w2, ResultArray<f32> grad_b2,
                            std::string_view rule, std::int64_t steps, Steps record) {
    return run(place, [&] {
        check_is_same(grad_last, *grad_x);
        const std::size_t size = grad_last.size_bytes();
        StepAddresses others;
        for (std::size_t i = 0; i + 1 < record.size(); ++i) {
            others.emplace_back(int(record[i]), address_of(grad) + i * size);
        }
        backward(place.device, place.stream, std::string(rule), numbers_at(place, key), int(steps),
                 sizes_of(grad_last.dimensions()), addresses_of(w1, b1, w2, b2), address_of(states),
                 address_of(rest), others, address_of(*grad_x),
                 addresses_of(*grad_w1, *grad_b1, *grad_w2, *grad_b2));
    });
}

std::vector<int> ints_of(Steps record) { return {record.begin(), record.end()}; }

// out: [records, batch, height, width, channels].
ffi::Error forward_double_handler(Place place, Array<f64> x, Array<f64> w1, Array<f64> b1,
                                  Array<f64> w2, Array<f64> b2, Key key, ResultArray<f64> out,
                                  std::string_view rule, std::int64_t steps, Steps record) {
    return run(place, [&] {
        forward_double(std::string(rule), numbers_at(place, key), int(steps),
                       sizes_of(x.dimensions()), addresses_of(w1, b1, w2, b2), address_of(x),
                       ints_of(record), address_of(*out));
    });
}

ffi::Error backward_double_handler(Place place, Array<f64> grad, Array<f64> x, Array<f64> w1,
                                   Array<f64> b1, Array<f64> w2, Array<f64> b2, Key key,
                                   ResultArray<f64> grad_x, ResultArray<f64> grad_w1,
                                   ResultArray<f64> grad_b1, ResultArray<f64> grad_w2,
                                   ResultArray<f64> grad_b2, std::string_view rule,
                                   std::int64_t steps, Steps record) {
    return run(place, [&] {
        backward_double(std::string(rule), numbers_at(place, key), int(steps),
                        sizes_of(x.dimensions()), addresses_of(w1, b1, w2, b2), address_of(x),
                        ints_of(record), address_of(grad), address_of(*grad_x),
                        addresses_of(*grad_w1, *grad_b1, *grad_w2, *grad_b2));
    });
}

// --- as XLA has them ----------------------------------------------------------------------------

// x, or the states of a tape, the weights and the key.
template <ffi::DataType type, class Binding>
auto with_rollout(Binding binding) {
    return std::move(binding)
        .template Arg<Array<type>>()
        .template Arg<Array<type>>()
        .template Arg<Array<type>>()
        .template Arg<Array<type>>()
        .template Arg<Array<type>>()
        .template Arg<Key>();
}

// The gradients of x and of the weights.
template <ffi::DataType type, class Binding>
auto with_gradients(Binding binding) {
    return std::move(binding)
        .template Ret<Array<type>>()
        .template Ret<Array<type>>()
        .template Ret<Array<type>>()
        .template Ret<Array<type>>()
        .template Ret<Array<type>>();
}

template <class Binding>
auto with_length(Binding binding) {
    return std::move(binding).template Attr<std::string_view>("rule").template Attr<std::int64_t>(
        "steps");
}

template <class Where>
XLA_FFI_Error* call_advance(XLA_FFI_CallFrame* frame) {
    static auto* const handler =
        with_length(with_rollout<f32>(ffi::Ffi::Bind().Ctx<Where>()).template Ret<Array<f32>>())
            .To(advance_handler)
            .release();
    return handler->Call(frame);
}

template <class Where>
XLA_FFI_Error* call_forward(XLA_FFI_CallFrame* frame) {
    static auto* const handler = with_length(with_rollout<f32>(ffi::Ffi::Bind().Ctx<Where>())
                                                 .template Ret<Array<f32>>()
                                                 .template Ret<Rest>())
                                     .To(forward_handler)
                                     .release();
    return handler->Call(frame);
}

template <class Where>
XLA_FFI_Error* call_backward(XLA_FFI_CallFrame* frame) {
    static auto* const handler =
        with_length(with_gradients<f32>(with_rollout<f32>(ffi::Ffi::Bind()
                                                              .Ctx<Where>()
                                                              .template Arg<Array<f32>>()
                                                              .template Arg<Array<f32>>()
                                                              .template Arg<Rest>())))
            .template Attr<Steps>("record")
            .To(backward_handler)
            .release();
    return handler->Call(frame);
}

XLA_FFI_Error* call_forward_double(XLA_FFI_CallFrame* frame) {
    static auto* const handler =
        with_length(with_rollout<f64>(ffi::Ffi::Bind().Ctx<OnCpu>()).Ret<Array<f64>>())
            .Attr<Steps>("record")
            .To(forward_double_handler)
            .release();
    return handler->Call(frame);
}

XLA_FFI_Error* call_backward_double(XLA_FFI_CallFrame* frame) {
    static auto* const handler =
        with_length(
            with_gradients<f64>(with_rollout<f64>(ffi::Ffi::Bind().Ctx<OnCpu>().Arg<Array<f64>>())))
            .Attr<Steps>("record")
            .To(backward_double_handler)
            .release();
    return handler->Call(frame);
}

nb::capsule capsule_of(XLA_FFI_Handler* handler) {
    return nb::capsule(reinterpret_cast<const void*>(handler));
}

}  // namespace

void bind_jax(nb::module_& module) {
    module.attr("jax_api") = nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
    // Name, platform, handler. Without the CUDA engine those for CUDA say that it is not there.
    module.def("jax_handlers", [] {
        nb::list handlers;
        const auto add = [&](const char* name, const char* platform, XLA_FFI_Handler* handler) {
            handlers.append(nb::make_tuple(name, platform, capsule_of(handler)));
        };
        add("libnca_advance", "cpu", call_advance<OnCpu>);
        add("libnca_advance", "CUDA", call_advance<OnCuda>);
        add("libnca_forward", "cpu", call_forward<OnCpu>);
        add("libnca_forward", "CUDA", call_forward<OnCuda>);
        add("libnca_backward", "cpu", call_backward<OnCpu>);
        add("libnca_backward", "CUDA", call_backward<OnCuda>);
        add("libnca_forward_double", "cpu", call_forward_double);
        add("libnca_backward_double", "cpu", call_backward_double);
        return handlers;
    });
}

}  // namespace nca::python
