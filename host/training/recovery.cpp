// SPDX-License-Identifier: MIT
#include "host/training/recovery.hpp"

#include <nca/random.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include "host/core/median.hpp"

namespace nca {
namespace {

constexpr std::size_t loss_window = 100;     // losses in the mean and the median
constexpr int anchor_interval = 50;          // good iterations between anchors
constexpr int enough_good_iterations = 100;  // after these, earlier failures are forgiven
constexpr int most_failures = 12;  // after more, training gives up; a rate of 10 is then 2.4e-3
// In multiples of a blank image's loss. Below learnt_share, a run has learnt something. Above
// stuck_share it is stuck: at once where it has learnt something before, otherwise after `patience`
// good iterations.
constexpr double learnt_share = 0.5;
constexpr double stuck_share = 0.95;
constexpr int patience = 500;

double scheduled_rate(const TrainingConfig& config, std::int64_t iteration) {
    switch (config.schedule) {
        case Schedule::exponential:
            return config.learning_rate * std::pow(0.9999, double(iteration));
        case Schedule::drop:
            return config.learning_rate * (iteration < 2000 ? 1.0 : 0.1);
    }
    return config.learning_rate;
}

}  // namespace

std::uint32_t Recovery::seed() const {
    return config_.seed + 0x9e3779b9U * std::uint32_t(progress_.recoveries);
}

double Recovery::learning_rate(std::int64_t iteration) const {
    return std::ldexp(scheduled_rate(config_, iteration), -progress_.recoveries);
}

int Recovery::steps(int ahead) const {
    const auto iteration = std::uint32_t(progress_.iteration + ahead);
    const auto words = philox(config_.seed, Purpose::step_count, {0, 0, 0, iteration});
    const int choices = config_.most_steps - config_.fewest_steps;
    const int steps = config_.fewest_steps + int(words[0] * 0x1p-32 * choices);
    const int good = progress_.good_iterations + ahead;
    if (good >= config_.warmup) return steps;
    const double share = 0.125 + 0.875 * good / config_.warmup;
    return std::max(1, int(std::lround(steps * share)));
}

bool Recovery::sets_anchor(int ahead) const {
    // A run that is losing what it had learnt keeps its older anchor.
    const bool worth_keeping = !progress_.learnt || usual_loss() < learnt_share * blank_loss_;
    return (progress_.good_iterations + ahead) % anchor_interval == 0 && worth_keeping;
}

int Recovery::iterations_to_anchor() const {
    return anchor_interval - progress_.good_iterations % anchor_interval;
}

double Recovery::recent_loss() const {
    const std::vector<double>& losses = progress_.recent_losses;
    if (losses.empty()) return std::numeric_limits<double>::quiet_NaN();
    double mean = 0;
    for (const double loss : losses) mean += loss / double(losses.size());
    return mean;
}

double Recovery::usual_loss() const {
    return progress_.recent_losses.empty() ? 0 : median(progress_.recent_losses);
}

bool Recovery::grows_nothing() const { return usual_loss() >= stuck_share * blank_loss_; }

void Recovery::add_good(double loss) {
    TrainingProgress& p = progress_;
    p.recent_losses.push_back(loss);
    if (p.recent_losses.size() > loss_window) p.recent_losses.erase(p.recent_losses.begin());
    ++p.good_iterations;
    p.learnt = p.learnt ||
               (p.good_iterations >= int(loss_window) && usual_loss() < learnt_share * blank_loss_);
    const int enough = config_.warmup + enough_good_iterations + (p.learnt ? 0 : patience);
    if (p.good_iterations >= enough && !grows_nothing()) p.failures = 0;
}

bool Recovery::stuck() const {
    const TrainingProgress& p = progress_;
    const int wait = config_.warmup + (p.learnt ? int(loss_window) : patience);
    return p.good_iterations >= wait && p.good_iterations % anchor_interval == 0 && grows_nothing();
}

bool Recovery::add_failure() {
    ++progress_.recoveries;
    progress_.good_iterations = 0;
    return ++progress_.failures <= most_failures;
}

}  // namespace nca
