// SPDX-License-Identifier: MIT
#include "host/import/found_weights.hpp"

#include "host/core/throw_error.hpp"
#include "host/files/json_fields.hpp"
#include "host/files/model_file.hpp"
#include "host/files/safetensors.hpp"

#include <algorithm>
#include <iterator>

namespace nca {
namespace {

using Shape = std::vector<std::int64_t>;

// The shape without sides of 1.
Shape without_ones(const Shape& shape) {
    Shape sides;
    std::ranges::copy_if(shape, std::back_inserter(sides), [](auto side) { return side != 1; });
    return sides;
}

// "fc0.weight [128, 48], fc1.weight [16, 128] and 3 more", as many as fit into a message. Numbers
// that cannot be read are said to be such.
std::string list_of(const std::vector<const ForeignTensor*>& tensors) {
    constexpr std::size_t most_bytes = 200;
    std::string text;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const bool readable = tensors[i]->type != NumberType::other;
        const std::string next = fmt::format(
            "{}{} {}{}", i == 0 ? "" : ", ", printable(tensors[i]->name),
            shape_text(tensors[i]->shape), readable ? "" : " of integers or 8-bit numbers");
        if (text.size() + next.size() > most_bytes && i > 0) {
            return text + fmt::format(" and {} more", tensors.size() - i);
        }
        text += next;
    }
    return text;
}

// Whether an optimiser or a trainer keeps the tensor beside the weights.
bool is_of_training(std::string_view name) {
    constexpr std::string_view words[] = {"optimizer", "optim.", "exp_avg", "momentum_buffer"};
    return is_checkpoint_tensor(name) || std::ranges::any_of(words, [&](std::string_view word) {
               return name.find(word) != std::string_view::npos;
           });
}

// What the tensors of a file are.
struct Parts {
    std::vector<const ForeignTensor*> w1, b1, w2, b2;
    std::vector<const ForeignTensor*> filters;
    std::vector<const ForeignTensor*> perception_biases;
    std::vector<const ForeignTensor*> of_training, without_meaning, unknown;
};

Parts sort_by_shape(const std::vector<ForeignTensor>& tensors) {
    Parts parts;
    for (const ForeignTensor& tensor : tensors) {
        const Shape shape = without_ones(tensor.shape);
        // The shape of a convolution in PyTorch begins with the outputs.
        const bool may_be_transposed = tensor.shape.empty() || tensor.shape.back() != 1;
        const auto is = [&](int outputs, int inputs) {
            return shape == Shape{outputs, inputs} ||
                   (may_be_transposed && shape == Shape{inputs, outputs});
        };
        const bool empty = std::ranges::count(shape, 0) > 0;
        // A vector that is called a weight is a normalisation's, not a bias.
        const bool may_be_bias = !tensor.name.ends_with("weight");
        auto& part = is_of_training(tensor.name) ? parts.of_training
                     : tensor.type == NumberType::other || shape.empty() || empty
                         ? parts.without_meaning
                     : is(hidden, perception)                    ? parts.w1
                     : is(channels, hidden)                      ? parts.w2
                     : shape == Shape{hidden} && may_be_bias     ? parts.b1
                     : shape == Shape{channels} && may_be_bias   ? parts.b2
                     : shape == Shape{perception} && may_be_bias ? parts.perception_biases
                     : shape.size() >= 2 && shape.size() <= 3 && shape.back() == 3 &&
                             shape[shape.size() - 2] == 3
                         ? parts.filters
                         : parts.unknown;
        part.push_back(&tensor);
    }
    return parts;
}

// Where two tensors could be the two layers of an automaton of another size: [hidden, n * channels]
// and [channels, hidden], or transposed. Throws FormatError then.
void refuse_other_size(const std::vector<ForeignTensor>& tensors, const std::string& file) {
    constexpr std::size_t most = 64;  // more matrices are of something else
    std::vector<const ForeignTensor*> matrices;
    for (const ForeignTensor& tensor : tensors) {
        const bool real = tensor.type != NumberType::other;
        if (real && without_ones(tensor.shape).size() == 2) matrices.push_back(&tensor);
        if (matrices.size() > most) return;
    }
    for (const ForeignTensor* first : matrices) {
        for (const ForeignTensor* second : matrices) {
            if (first == second) continue;
            const Shape a = without_ones(first->shape);
            const Shape b = without_ones(second->shape);
            for (const bool transposed : {false, true}) {
                const auto [units, inputs] =
                    transposed ? std::pair(a[1], a[0]) : std::pair(a[0], a[1]);
                const auto [outputs, units_again] =
                    transposed ? std::pair(b[1], b[0]) : std::pair(b[0], b[1]);
                if (units != units_again || outputs < 4 || inputs % outputs != 0 ||
                    inputs / outputs < 2 || inputs / outputs > 5) {
                    continue;
                }
                throw_error<FormatError>(
                    "{} has an automaton of {} channels, {} filters and {} hidden units "
                    "({} and {}); only automata of {} channels, {} filters and {} hidden units are "
                    "supported",
                    file, outputs, inputs / outputs, units, printable(first->name),
                    printable(second->name), channels, filter_count, hidden);
            }
        }
    }
}

// Moves to the unknown ones what cannot be the bias of this layer by its name. Where that ends in
// "weight" or "kernel", its bias has the same begin.
void keep_bias_of(const std::vector<const ForeignTensor*>& layer,
                  std::vector<const ForeignTensor*>& biases, Parts& parts) {
    constexpr std::string_view ends[] = {"weight", "kernel"};
    if (layer.size() != 1) return;
    const std::string& name = layer.front()->name;
    const auto end = std::ranges::find_if(ends, [&](auto text) { return name.ends_with(text); });
    if (end == std::end(ends)) return;
    const std::string wanted = name.substr(0, name.size() - end->size()) + "bias";
    std::erase_if(biases, [&](const ForeignTensor* bias) {
        if (bias->name == wanted) return false;
        parts.unknown.push_back(bias);
        return true;
    });
}

std::vector<float> read_finite(const ForeignTensor& tensor, const std::string& file) {
    std::vector<float> values = tensor.read();
    if (const float* bad = find_not_finite(values)) {
        throw_error<FormatError>(
            "{}: tensor {} has the value {} at index {}, expected finite numbers; its training "
            "failed, use an earlier file",
            file, printable(tensor.name), *bad, bad - values.data());
    }
    return values;
}

// Fills [rows, columns], which the file may have transposed.
void read_matrix(float* values, const ForeignTensor& tensor, std::int64_t rows,
                 std::int64_t columns, const std::string& file) {
    const std::vector<float> stored = read_finite(tensor, file);
    const bool transposed = without_ones(tensor.shape).front() != rows;
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t column = 0; column < columns; ++column) {
            values[row * columns + column] =
                stored[std::size_t(transposed ? column * rows + row : row * columns + column)];
        }
    }
}

void read_vector(float* values, const std::vector<const ForeignTensor*>& tensors,
                 const std::string& file) {
    if (tensors.empty()) return;  // zeros
    const std::vector<float> stored = read_finite(*tensors.front(), file);
    std::ranges::copy(stored, values);
}

bool is_sobel_x(const Filter& f) {
    for (std::size_t row = 0; row < 3; ++row) {
        if (f[row * 3] != -f[row * 3 + 2] || f[row * 3 + 1] != 0) return false;
    }
    return f[0] == f[6] && f[3] != 0;
}
Filter transposed(const Filter& f) {
    return {f[0], f[3], f[6], f[1], f[4], f[7], f[2], f[5], f[8]};
}
bool is_identity(const Filter& f) { return f == Rule().filters[0]; }

// Reads [n, 3, 3].
std::vector<Filter> read_filters(const ForeignTensor& tensor, const std::string& file) {
    const std::vector<float> values = read_finite(tensor, file);
    std::vector<Filter> filters(values.size() / std::tuple_size_v<Filter>);
    for (std::size_t i = 0; i < values.size(); ++i) {
        filters[i / std::tuple_size_v<Filter>][i % std::tuple_size_v<Filter>] = values[i];
    }
    return filters;
}

// A convolution over all channels: the three filters of every channel, or each filter for all.
bool take_whole_convolution(FoundWeights& found, const std::vector<Filter>& filters) {
    if (filters.size() != std::size_t{perception}) return false;
    for (const InputOrder order : {InputOrder::channel, InputOrder::filter}) {
        const auto filter_of = [&](std::size_t i) {
            return order == InputOrder::channel ? i % filter_count : i / channels;
        };
        std::array<Filter, filter_count> three;
        for (std::size_t i = filters.size(); i-- > 0;) three[filter_of(i)] = filters[i];
        bool same = true;
        for (std::size_t i = 0; i < filters.size(); ++i) same &= filters[i] == three[filter_of(i)];
        if (!same) continue;
        found.filters = three;
        // One filter after the other for all channels is what a convolution of 48 groups does with
        // the state three times. One of 16 groups would be another automaton.
        if (order == InputOrder::channel) found.input_order = order;
        return true;
    }
    return false;
}

// One tensor for each filter, in any order: recognised by their values. The identity may be
// missing, because a program needs no filter for it.
bool take_single_filters(FoundWeights& found, const std::vector<Filter>& filters) {
    std::optional<Filter> x, y;
    for (const Filter& filter : filters) {
        const bool is_x = is_sobel_x(filter);
        const bool is_y = is_sobel_x(transposed(filter));
        if (is_identity(filter)) continue;
        if (!is_x && !is_y) return false;
        std::optional<Filter>& place = is_x ? x : y;
        if (place && *place != filter) return false;
        place = filter;
    }
    if (!x || !y) return false;
    found.filters = {Rule().filters[0], *x, *y};
    return true;
}

// False where the filters cannot be those of a rule.
bool take_filters(FoundWeights& found, const std::vector<const ForeignTensor*>& tensors,
                  const std::string& file) {
    constexpr std::size_t most = 2 * filter_count;  // a graph may have one several times
    if (tensors.size() > most) return false;
    std::vector<Filter> single;
    for (const ForeignTensor* tensor : tensors) {
        const Shape shape = without_ones(tensor->shape);
        const std::int64_t count = shape.size() == 2 ? 1 : shape.front();
        if (count > perception) return false;
        const std::vector<Filter> filters = read_filters(*tensor, file);
        const bool alone = tensors.size() == 1;
        if (alone && count == perception) return take_whole_convolution(found, filters);
        if (alone && count == filter_count) {
            found.filters.emplace();
            std::ranges::copy(filters, found.filters->begin());
            return true;
        }
        // [16, 1, 3, 3]: one filter, once for each channel
        if ((count != 1 && count != channels) ||
            std::ranges::any_of(filters, [&](const Filter& f) { return f != filters[0]; })) {
            return false;
        }
        single.push_back(filters.front());
    }
    return take_single_filters(found, single);
}

void note_types(FoundWeights& found, const Parts& parts) {
    for (const auto* tensors : {&parts.w1, &parts.b1, &parts.w2, &parts.b2}) {
        for (const ForeignTensor* tensor : *tensors) {
            if (tensor->type == NumberType::float32) continue;
            found.notes.push_back(conversion_note(tensor->type));
            return;
        }
    }
}

void note_left_out(FoundWeights& found, const char* what,
                   const std::vector<const ForeignTensor*>& tensors) {
    if (tensors.empty()) return;
    found.notes.push_back(fmt::format("{} left out: {}", what, list_of(tensors)));
}

// Whether a constant of a graph is as large as a layer.
bool may_be_layer(const ForeignTensor& tensor) {
    return std::ranges::count_if(tensor.shape, [](auto side) { return side >= channels; }) >= 2;
}

// Throws FormatError where the tensors are not the layers of one automaton.
void require_one_automaton(const Parts& parts, const std::vector<ForeignTensor>& tensors,
                           const std::string& file) {
    std::vector<const ForeignTensor*> all;
    for (const ForeignTensor& tensor : tensors) {
        if (!is_of_training(tensor.name)) all.push_back(&tensor);
    }
    const char* nothing = tensors.empty() ? "none" : "none but those of an optimiser";
    if (parts.w1.empty() || parts.w2.empty()) {
        refuse_other_size(tensors, file);
        throw_error<FormatError>(
            "{} lacks the two layers of an automaton, [{}, {}] and [{}, {}]; its tensors are: {}",
            file, hidden, perception, channels, hidden, all.empty() ? nothing : list_of(all));
    }
    for (const auto* candidates :
         {&parts.w1, &parts.b1, &parts.w2, &parts.b2, &parts.perception_biases}) {
        if (candidates->size() <= 1) continue;
        throw_error<FormatError>(
            "{}: {} cannot be told apart: save a file with the tensors of one automaton only", file,
            list_of(*candidates));
    }
}

}  // namespace

std::vector<ForeignTensor> tensors_of(const SafetensorsReader& file) {
    std::vector<ForeignTensor> tensors;
    for (const TensorEntry& entry : file.tensors()) {
        const auto read = [&file, &entry] {
            std::vector<float> values(entry.size());
            file.read(values, entry);
            return values;
        };
        tensors.push_back({entry.name, entry.shape, entry.type, read});
    }
    return tensors;
}

FoundWeights find_weights(const std::vector<ForeignTensor>& tensors, const std::string& file,
                          OtherTensors others) {
    Parts parts = sort_by_shape(tensors);
    if (others == OtherTensors::refused) {  // a graph has no such names
        keep_bias_of(parts.w1, parts.b1, parts);
        keep_bias_of(parts.w2, parts.b2, parts);
    }
    require_one_automaton(parts, tensors, file);
    FoundWeights found;
    std::vector<const ForeignTensor*> unknown = parts.unknown;
    const bool has_filters = !parts.filters.empty() && take_filters(found, parts.filters, file);
    if (has_filters) {
        found.notes.push_back("the filters are those of " + list_of(parts.filters));
    } else if (!parts.filters.empty() && others == OtherTensors::refused) {
        throw_error<FormatError>(
            "{}: {}: these are not three filters that are the same for every channel, such as "
            "identity, Sobel x and Sobel y; automata with other filters are not supported",
            file, list_of(parts.filters));
    }
    for (const ForeignTensor* bias : parts.perception_biases) {
        const std::vector<float> values = read_finite(*bias, file);
        if (std::ranges::any_of(values, [](float value) { return value != 0; })) {
            unknown.push_back(bias);
        }
    }
    if (others == OtherTensors::ignored) {
        std::erase_if(unknown, [](const ForeignTensor* tensor) { return !may_be_layer(*tensor); });
    }
    if (!unknown.empty()) {
        throw_error<FormatError>(
            "{}: unknown beside the two layers of an automaton: {}; if they are no part of it, "
            "save a file without them",
            file, list_of(unknown));
    }

    found.weights = Weights(!parts.b2.empty());
    const WeightsView weights = found.weights.view();
    read_matrix(weights.w1, *parts.w1.front(), hidden, perception, file);
    read_vector(weights.b1, parts.b1, file);
    read_matrix(weights.w2, *parts.w2.front(), channels, hidden, file);
    if (weights.b2 != nullptr) read_vector(weights.b2, parts.b2, file);
    note_types(found, parts);
    if (others == OtherTensors::refused) {
        note_left_out(found, "what training keeps is", parts.of_training);
        note_left_out(found, "without a meaning here and", parts.without_meaning);
    }
    return found;
}

}  // namespace nca
