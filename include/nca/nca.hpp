// SPDX-License-Identifier: MIT
#pragma once

// The whole public interface. Simulator runs a trained automaton. Trainer trains one. Both use
// Engine, which also gives the gradients of a loss of your own.
#include <nca/device.hpp>
#include <nca/engine.hpp>
#include <nca/error.hpp>
#include <nca/image.hpp>
#include <nca/model.hpp>
#include <nca/random.hpp>
#include <nca/rule.hpp>
#include <nca/simulator.hpp>
#include <nca/sizes.hpp>
#include <nca/state.hpp>
#include <nca/trainer.hpp>
#include <nca/training_config.hpp>
#include <nca/version.hpp>
#include <nca/weights.hpp>
