// SPDX-License-Identifier: MIT
#pragma once

#include <nca/device.hpp>
#include <nca/engine.hpp>
#include <nca/error.hpp>
#include <nca/image.hpp>
#include <nca/model.hpp>
#include <nca/place.hpp>
#include <nca/random.hpp>
#include <nca/rule.hpp>
#include <nca/simulator.hpp>
#include <nca/sizes.hpp>
#include <nca/state.hpp>
#include <nca/trainer.hpp>
#include <nca/training_config.hpp>
#include <nca/version.hpp>
#include <nca/weights.hpp>

/// @mainpage
/// The library runs and trains Growing Neural Cellular Automata (Mordvintsev et al., Distill 2020),
/// on a CPU or on a CUDA device. This reference is made from its headers; `#include <nca/nca.hpp>`
/// includes all of them. README.md and docs/ have programs to begin with.
///
/// - nca::Simulator runs a trained automaton on one grid: plants, steps, damages, shows.
/// - nca::Trainer trains an automaton to grow an image. nca::preset has the configurations of the
///   article's experiments.
/// - nca::Engine runs rollouts forward and backward on memory and streams of your own, and so gives
///   the gradients of a loss of your own. Simulator and Trainer use it.
/// - nca::Model is a rule and its weights. It reads and writes files.
/// - nca::Image is a picture: what is trained on and what is shown.
///
/// The @ref nca "namespace nca" has all classes and functions. Whatever fails throws an nca::Error.

/// Everything in the library. Sizes of grids are in cells. Arrays are contiguous and row-major: in
/// [height, width, channels] the channels of a cell lie side by side. Only Engine, Simulator and
/// Trainer compute on a CUDA device, and say which of their functions wait for it; all other
/// functions work in host memory. Functions that allocate memory may throw std::bad_alloc.
namespace nca {}
