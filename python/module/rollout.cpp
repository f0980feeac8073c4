// SPDX-License-Identifier: MIT
// Rollouts on tensors of other libraries, which come as addresses: no library of theirs is linked.
// Shapes and types are checked in Python, in python/libnca/functional.py and jax.py.
#include "host/reference/rollout.hpp"
#include "host/core/checks.hpp"
#include "host/core/throw_error.hpp"
#include "python/module/arrays.hpp"
#include "python/module/bindings.hpp"
#include "python/module/engine_pool.hpp"
#include "python/module/numbers.hpp"
#include "python/module/rollout.hpp"
#include "python/module/tape_pool.hpp"

#include <nca/error.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace nb = nanobind;

namespace nca::python {

namespace {

constexpr std::size_t factors = std::size_t{filter_count} * 9;
constexpr std::size_t rule_numbers = factors + 6;

template <class Enum>
Enum choice_of(float number) {
    if (number != 0 && number != 1) throw InvalidArgument("a rule's choice is 0 or 1");
    return Enum(int(number));
}

Rule parsed_rule(const std::string& text) {
    std::vector<float> numbers;
    const char* rest = text.data();
    const char* const end = text.data() + text.size();
    while (rest != end) {  // not by strtof, which reads decimals as the user's language has them
        float number = 0;
        const auto [behind, error] = std::from_chars(rest, end, number);
        if (error != std::errc()) break;
        numbers.push_back(number);
        rest = behind != end && *behind == ' ' ? behind + 1 : behind;
    }
    if (numbers.size() != rule_numbers || rest != end) {
        throw_error<InvalidArgument>("a rule of {} numbers: expected {}", numbers.size(),
                                     rule_numbers);
    }
    Rule rule;
    for (std::size_t i = 0; i < factors; ++i) rule.filters[i / 9][i % 9] = numbers[i];
    const float* others = numbers.data() + factors;
    rule.edges = choice_of<Edges>(others[0]);
    rule.life = choice_of<Life>(others[1]);
    rule.start_cell = choice_of<StartCell>(others[2]);
    rule.fire_rate = others[3];
    rule.step_size = others[4];
    rule.premultiplied = others[5] != 0;
    rule.validate();
    return rule;
}

}  // namespace

Rule rule_of(const std::string& text) {
    // The last one of this thread: a training has one.
    thread_local std::pair<std::string, Rule> last;
    if (last.first != text) {
        Rule rule = parsed_rule(text);
        last = {text, rule};
    }
    return last.second;
}

std::string text_of(const Rule& rule) {
    std::vector<float> numbers;
    for (const Filter& filter : rule.filters) {
        numbers.insert(numbers.end(), filter.begin(), filter.end());
    }
    numbers.insert(numbers.end(), {float(rule.edges), float(rule.life), float(rule.start_cell),
                                   rule.fire_rate, rule.step_size, float(rule.premultiplied)});
    return fmt::format("{}", fmt::join(numbers, " "));
}

FireKey key_of(const KeyNumbers& numbers) {
    for (const std::int64_t number : numbers) {
        if (number < 0 || number > std::int64_t{UINT32_MAX}) {
            throw_error<InvalidArgument>("a key with {}: expected 0 to 2^32 - 1", number);
        }
    }
    const auto word = [&](std::size_t i) { return std::uint32_t(numbers[i]); };
    return {word(0), word(1), word(2), word(3)};
}

namespace {

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

template <class T>
BasicWeightsView<T> weights_at(const WeightAddresses& to) {
    return {at<T>(to[0]), at<T>(to[1]), at<T>(to[2]), at<T>(to[3])};
}

// How many floats a state has.
std::size_t floats_of(const Sizes& sizes) {
    return std::size_t(sizes[0]) * std::size_t(sizes[1]) * std::size_t(sizes[2]) * channels;
}

struct Rollout {
    Rule rule;
    RolloutOptions options;
    Sizes sizes;

    Rollout(const std::string& text, const KeyNumbers& key, int steps, const Sizes& of)
        : rule(rule_of(text)), options{.steps = steps, .key = key_of(key)}, sizes(of) {}

    template <class T>
    BasicStateView<T> view(const Engine& engine, Address address) const {
        return {at<T>(address), sizes[0], sizes[1], sizes[2], engine.memory_space()};
    }
};

}  // namespace

void advance(int device, Address stream, const std::string& rule, const KeyNumbers& key, int steps,
             const Sizes& sizes, const WeightAddresses& weights, Address state) {
    const Rollout rollout(rule, key, steps, sizes);
    const BorrowedEngine engine(device);
    engine->advance(rollout.rule, weights_at<const float>(weights),
                    rollout.view<float>(*engine, state), rollout.options, at<CUstream_st>(stream));
}

std::size_t tape_bytes(int device, const std::string& rule, int steps, const Sizes& sizes) {
    const BorrowedEngine engine(device);
    return engine->tape_bytes(rule_of(rule), sizes[0], sizes[1], sizes[2], steps);
}

void forward(int device, Address stream, const std::string& rule, const KeyNumbers& key, int steps,
             const Sizes& sizes, const WeightAddresses& weights, Address state, Address states,
             Address rest, bool are_clean, const std::vector<int>& record, Address out) {
    const Rollout rollout(rule, key, steps, sizes);
    const BorrowedEngine engine(device);
    engine->forward(rollout.rule, weights_at<const float>(weights),
                    rollout.view<const float>(*engine, state), rollout.options,
                    {at<float>(states), at<std::byte>(rest), are_clean}, at<CUstream_st>(stream));
    const std::size_t floats = floats_of(sizes);
    for (std::size_t i = 0; i < record.size(); ++i) {
        engine->copy_to_host({at<float>(out) + i * floats, floats},
                             at<const float>(states) + std::size_t(record[i]) * floats,
                             at<CUstream_st>(stream));
    }
}

void backward(int device, Address stream, const std::string& rule, const KeyNumbers& key, int steps,
              const Sizes& sizes, const WeightAddresses& weights, Address states, Address rest,
              const StepAddresses& step_gradients, Address grad_state,
              const WeightAddresses& grad_weights) {
    const Rollout rollout(rule, key, steps, sizes);
    const BorrowedEngine engine(device);
    const Tape tape = engine->open_tape(rollout.rule, weights_at<const float>(weights), sizes[0],
                                        sizes[1], sizes[2], rollout.options,
                                        {at<float>(states), at<std::byte>(rest), false});
    std::vector<StepGradient> gradients;
    for (const auto& [step, address] : step_gradients) {
        gradients.push_back({step, rollout.view<const float>(*engine, address)});
    }
    engine->backward(tape, {.step_gradients = gradients}, rollout.view<float>(*engine, grad_state),
                     weights_at<float>(grad_weights), Accumulate::no, at<CUstream_st>(stream));
}

// --- in double, by the reference ----------------------------------------------------------------

namespace {

using reference::SampleState;
using reference::WeightValues;

constexpr std::array weight_sizes = {w1_size, b1_size, w2_size, b2_size};

std::vector<SampleState<double>> samples_at(const Sizes& sizes, Address address) {
    std::vector<SampleState<double>> samples;
    const double* from = at<const double>(address);
    for (int sample = 0; sample < sizes[0]; ++sample) {
        SampleState<double>& state = samples.emplace_back(sizes[1], sizes[2]);
        std::copy_n(from, state.values.size(), state.values.data());
        from += state.values.size();
    }
    return samples;
}

WeightValues<double> double_weights(const WeightAddresses& weights) {
    WeightValues<double> values(weights[3] != 0);
    double* to = values.all.data();
    for (std::size_t i = 0; i < 4 && weights[i] != 0; ++i) {
        to = std::copy_n(at<const double>(weights[i]), weight_sizes[i], to);
    }
    return values;
}

}  // namespace

void forward_double(const std::string& rule, const KeyNumbers& key, int steps, const Sizes& sizes,
                    const WeightAddresses& weights, Address state, const std::vector<int>& record,
                    Address out) {
    const Rollout rollout(rule, key, steps, sizes);
    const WeightValues<double> values = double_weights(weights);
    const auto samples = samples_at(sizes, state);
    for (std::size_t sample = 0; sample < samples.size(); ++sample) {
        const auto tape = reference::rollout_forward(rollout.rule, values, samples[sample],
                                                     rollout.options, int(sample));
        for (std::size_t i = 0; i < record.size(); ++i) {
            const auto& of_step = tape.states[std::size_t(record[i])].values;
            std::copy(of_step.begin(), of_step.end(),
                      at<double>(out) + i * floats_of(sizes) + sample * of_step.size());
        }
    }
}

void backward_double(const std::string& rule, const KeyNumbers& key, int steps, const Sizes& sizes,
                     const WeightAddresses& weights, Address state, const std::vector<int>& record,
                     Address grad, Address grad_state, const WeightAddresses& grad_weights) {
    const Rollout rollout(rule, key, steps, sizes);
    const WeightValues<double> values = double_weights(weights);
    WeightValues<double> grad_values(weights[3] != 0);
    const auto samples = samples_at(sizes, state);
    for (std::size_t sample = 0; sample < samples.size(); ++sample) {
        const auto tape = reference::rollout_forward(rollout.rule, values, samples[sample],
                                                     rollout.options, int(sample));
        const std::size_t size = samples[sample].values.size();
        std::vector<reference::SampleGradient<double>> gradients;
        for (std::size_t i = 0; i < record.size(); ++i) {
            SampleState<double> of_step(sizes[1], sizes[2]);
            std::copy_n(at<const double>(grad) + i * floats_of(sizes) + sample * size, size,
                        of_step.values.data());
            gradients.push_back({record[i], std::move(of_step)});
        }
        const auto first = reference::rollout_backward(rollout.rule, values, tape,
                                                       SampleState<double>(sizes[1], sizes[2]),
                                                       grad_values, gradients);
        std::copy(first.values.begin(), first.values.end(), at<double>(grad_state) + sample * size);
    }
    const double* from = grad_values.all.data();
    for (std::size_t i = 0; i < 4 && grad_weights[i] != 0; ++i) {
        std::copy_n(from, weight_sizes[i], at<double>(grad_weights[i]));
        from += weight_sizes[i];
    }
}

// --- memory of tapes on the CPU -----------------------------------------------------------------

namespace {

using Bytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

Bytes bytes_of(const std::shared_ptr<TapeBlock>& block, void* data, std::size_t size) {
    auto* owner = new std::shared_ptr<TapeBlock>(block);
    const nb::capsule capsule(owner, [](void* pointer) noexcept {
        delete static_cast<std::shared_ptr<TapeBlock>*>(pointer);
    });
    return Bytes(data, {size}, capsule);
}

// Clean memory for states and rest of a tape; the next tape gets it when both are gone.
std::pair<Bytes, Bytes> take_tape(int steps, const Sizes& sizes) {
    check_tape_size(sizes[0], sizes[1], sizes[2], steps);
    const BorrowedEngine engine(cpu);
    const std::size_t rest = engine->tape_bytes({}, sizes[0], sizes[1], sizes[2], steps);
    const auto block = take_tape_block({sizes[0], sizes[1], sizes[2]}, steps, rest);
    const std::size_t states = (std::size_t(steps) + 1) * floats_of(sizes) * sizeof(float);
    return {bytes_of(block, block->states.as<std::uint8_t>(), states),
            bytes_of(block, block->rest.as<std::uint8_t>(), rest)};
}

// Which cells fire in the first step of a key, [batch, height, width] of 0 and 1.
auto fire_mask(const KeyNumbers& numbers, float fire_rate, const Sizes& sizes) {
    check_tape_size(sizes[0], sizes[1], sizes[2], 0);
    const FireKey key = key_of(numbers);
    std::vector<std::uint8_t> mask;
    {
        const nb::gil_scoped_release release;
        for (int sample = 0; sample < sizes[0]; ++sample) {
            const auto one = reference::fire_mask(key, fire_rate, 0, sample, sizes[1], sizes[2]);
            mask.insert(mask.end(), one.begin(), one.end());
        }
    }
    return array_of(std::move(mask),
                    {std::size_t(sizes[0]), std::size_t(sizes[1]), std::size_t(sizes[2])});
}

}  // namespace

void bind_rollout(nb::module_& module) {
    const nb::call_guard<nb::gil_scoped_release> without_gil;
    module.def("advance", advance, without_gil);
    module.def("tape_bytes", tape_bytes);
    module.def("forward", forward, without_gil);
    module.def("backward", backward, without_gil);
    module.def("forward_double", forward_double, without_gil);
    module.def("backward_double", backward_double, without_gil);
    module.def("take_tape", take_tape);
    module.def("fire_mask", fire_mask);
    module.def("rule_text", [](const std::string& name) {
        if (name == "growing") return text_of({});
        if (name == "notebook") return text_of(notebook_rule());
        if (name == "demo") return text_of(distill_demo_rule());
        throw_error<InvalidArgument>("rule {}: expected growing, notebook or demo", name);
    });
    module.def("check_rule", [](const std::string& rule) { rule_of(rule); });
    module.def("rotated", [](const std::string& rule, double degrees) {
        return text_of(rule_of(rule).rotated(degrees));
    });
}

}  // namespace nca::python
