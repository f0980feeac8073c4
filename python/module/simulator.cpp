// SPDX-License-Identifier: MIT
// The simulator, with arrays of numpy.
#include "python/module/arrays.hpp"
#include "python/module/bindings.hpp"
#include "python/module/engine_pool.hpp"

#include <nca/image.hpp>
#include <nca/simulator.hpp>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <string>
#include <utility>
#include <vector>

namespace nb = nanobind;

namespace nca::python {

void bind_simulator(nb::module_& module) {
    using Released = nb::call_guard<nb::gil_scoped_release>;
    nb::class_<Simulator>(module, "Simulator")
        .def(
            "__init__",
            [](Simulator* self, const Model& model, int height, int width, std::uint32_t seed,
               const std::string& device) {
                new (self) Simulator(model, {.device = with_settings(Device::parse(device)),
                                             .height = height,
                                             .width = width,
                                             .seed = seed});
            },
            Released())
        .def(
            "plant_seed", [](Simulator& self) { self.plant_seed(); }, Released())
        .def(
            "plant_seed", [](Simulator& self, int y, int x) { self.plant_seed(y, x); }, Released())
        .def("step", &Simulator::step, Released())
        .def("erase_circle", &Simulator::erase_circle, Released())
        .def("erase_rectangle", &Simulator::erase_rectangle, Released())
        .def_prop_ro("steps_done", &Simulator::steps_done)
        .def_prop_ro("device", [](const Simulator& self) { return self.engine().description(); })
        .def(
            "living", [](const Simulator& self) { return self.check().living; }, Released())
        .def("state",
             [](Simulator& self) {
                 const StateView view = self.state();
                 std::vector<float> values;
                 {
                     const nb::gil_scoped_release release;
                     values = self.download();
                 }
                 return array_of(std::move(values),
                                 {std::size_t(view.height), std::size_t(view.width), channels});
             })
        .def("picture", [](const Simulator& self) {
            Image image;
            {
                const nb::gil_scoped_release release;
                image = self.picture();
            }
            const std::size_t height = std::size_t(image.height), width = std::size_t(image.width);
            return array_of(std::move(image.pixels), {height, width, visible_channels});
        });
}

}  // namespace nca::python
