// SPDX-License-Identifier: MIT
// Training by the library's own loop.
#include "host/core/rule_names.hpp"
#include "host/core/throw_error.hpp"
#include "python/module/arrays.hpp"
#include "python/module/bindings.hpp"
#include "python/module/engine_pool.hpp"
#include "python/module/numbers.hpp"
#include "python/module/options.hpp"

#include <nca/error.hpp>
#include <nca/image.hpp>
#include <nca/trainer.hpp>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace nb = nanobind;

namespace nca::python {
namespace {

using Picture =
    nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 4>, nb::c_contig, nb::device::cpu>;

// The fields of a configuration that Python may set, by their names in C++.
template <class Visit>
void visit_fields(TrainingConfig& config, Visit visit) {
    visit("output_bias", config.output_bias);
    visit("normalise_gradients", config.normalise_gradients);
    visit("learning_rate", config.learning_rate);
    visit("beta1", config.beta1);
    visit("beta2", config.beta2);
    visit("batch", config.batch);
    visit("fewest_steps", config.fewest_steps);
    visit("most_steps", config.most_steps);
    visit("earliest_loss_step", config.earliest_loss_step);
    visit("latest_loss_step", config.latest_loss_step);
    visit("warmup", config.warmup);
    visit("pool", config.pool);
    visit("damaged", config.damaged);
    visit("damage_centre", config.damage_centre);
    visit("smallest_damage", config.smallest_damage);
    visit("largest_damage", config.largest_damage);
    visit("target_size", config.target_size);
    visit("padding", config.padding);
    visit("seed", config.seed);
}

TrainingConfig config_of(const std::string& name, const nb::dict& options) {
    TrainingConfig config = preset(name);
    for (const auto& [key, value] : options) {
        const auto wanted = nb::cast<std::string>(key);
        if (wanted == "rule") {
            config.rule = rule_of(nb::cast<std::string>(value));
            continue;
        }
        if (wanted == "start_cells") {
            std::vector<std::pair<int, int>> places;
            if (!nb::try_cast(value, places)) {
                throw nb::type_error("start_cells: expected a list of (y, x)");
            }
            config.start_cells.clear();
            for (const auto& [y, x] : places) config.start_cells.push_back({y, x});
            continue;
        }
        bool known = false;
        std::string names = "rule, start_cells";
        visit_fields(config, [&](const char* field, auto& to) {
            names += fmt::format(", {}", field);
            if (wanted != field) return;
            known = true;
            take_option(to, field, value);
        });
        if (!known) throw_error<InvalidArgument>("no such option: {}; there are {}", wanted, names);
    }
    config.validate();
    return config;
}

Image image_of(const Picture& picture) {
    constexpr std::size_t largest = 2 * std::size_t{largest_image_side};
    if (picture.shape(0) > largest || picture.shape(1) > largest) {
        throw_error<InvalidArgument>("a picture of {} x {} pixels: expected at most {} on a side",
                                     picture.shape(0), picture.shape(1), largest);
    }
    return {.height = int(picture.shape(0)),
            .width = int(picture.shape(1)),
            .pixels = {picture.data(), picture.data() + picture.size()}};
}

// [batch, grid, grid, channels]
auto states_array(const Trainer& trainer, std::vector<float> states) {
    const auto side = std::size_t(trainer.config().grid());
    const std::size_t batch = states.size() / (side * side * channels);
    return array_of(std::move(states), {batch, side, side, std::size_t{channels}});
}

double mean_loss(const Trainer& trainer) {
    double sum = 0;
    for (const double loss : trainer.recent_losses()) sum += loss;
    const std::size_t count = trainer.recent_losses().size();
    return count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / double(count);
}

}  // namespace

void bind_trainer(nb::module_& module) {
    using Released = nb::call_guard<nb::gil_scoped_release>;
    nb::class_<IterationReport>(module, "IterationReport")
        .def_ro("iteration", &IterationReport::iteration)
        .def_ro("steps", &IterationReport::steps)
        .def_ro("loss", &IterationReport::loss)
        .def_ro("learning_rate", &IterationReport::learning_rate)
        .def_ro("gradient_norm", &IterationReport::gradient_norm)
        .def_ro("dead", &IterationReport::dead)
        .def_ro("reset", &IterationReport::reset)
        .def_ro("recovery", &IterationReport::recovery)
        .def("__repr__", [](const IterationReport& report) {
            return fmt::format("IterationReport(iteration={}, steps={}, loss={:.6g})",
                               report.iteration, report.steps, report.loss);
        });
    nb::class_<Trainer>(module, "Trainer")
        .def("__init__",
             [](Trainer* self, const Picture& picture, const std::string& preset,
                const nb::dict& options, const std::string& device) {
                 const TrainingConfig config = config_of(preset, options);
                 const Image image = image_of(picture);
                 const nb::gil_scoped_release release;
                 new (self) Trainer(image, config, with_settings(Device::parse(device)));
             })
        .def_static(
            "from_checkpoint",
            [](const std::string& path, const std::string& device) {
                return Trainer::from_checkpoint(path, with_settings(Device::parse(device)));
            },
            Released())
        .def("start_from", &Trainer::start_from, Released())
        .def(
            "iterate", [](Trainer& self, int most) { return self.iterate(most); }, Released())
        .def_prop_ro("iteration", &Trainer::iteration)
        .def_prop_ro("loss", mean_loss)
        .def_prop_ro("blank_loss", &Trainer::blank_loss)
        .def_prop_ro("device", [](const Trainer& self) { return self.engine().description(); })
        .def("target",
             [](const Trainer& self) {
                 const auto side = std::size_t(self.config().grid());
                 return array_of(std::vector<float>(self.target()),
                                 {side, side, std::size_t{visible_channels}});
             })
        .def("states",
             [](const Trainer& self) {
                 std::vector<float> states;
                 {
                     const nb::gil_scoped_release release;
                     states = self.states_after();
                 }
                 return states_array(self, std::move(states));
             })
        .def("model", &Trainer::model, Released())
        .def(
            "save_checkpoint",
            [](const Trainer& self, const std::string& path) { self.save_checkpoint(path); },
            Released());
}

}  // namespace nca::python
