// SPDX-License-Identifier: MIT
// The parts of a training report; tool_report_test.cpp tests the whole.
#include "host/tool/training_report.hpp"
#include "host/tool/training_log.hpp"
#include "host/training/config_fields.hpp"
#include "support/catch.hpp"
#include "support/page.hpp"
#include "support/process.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

using namespace nca::tool;
using nca::IterationReport;
using nca::test::curve_of;

namespace {

// A loss that falls, with a spike up or down here and there.
std::vector<LossPoint> falling_losses(std::int64_t count) {
    std::vector<LossPoint> points;
    for (std::int64_t i = 0; i < count; ++i) {
        const double spike = i % 1009 == 500 ? 7 : i % 1013 == 400 ? 1.0 / 7 : 1;
        points.push_back({i, spike / (1 + 0.01 * static_cast<double>(i))});
    }
    return points;
}

TrainingPage small_page() {
    TrainingPage page;
    page.target = "target.png";
    page.engine = "cpu";
    page.version = "0";
    page.config = nca::preset("regenerating");
    page.done = 3;
    page.wanted = 10;
    page.refresh_seconds = 12;
    return page;
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a curve of few points has them all, one of many has every spike and both ends") {
    const std::vector<LossPoint> few = falling_losses(1000);
    REQUIRE(thin_out(few, 1000) == few);
    for (const std::int64_t count : {1001, 8000, 123'457}) {
        const std::vector<LossPoint> points = falling_losses(count);
        const std::vector<LossPoint> thin = thin_out(points, 1000);
        REQUIRE(thin.size() <= 1000);
        REQUIRE(thin.size() > 700);
        REQUIRE(thin.front() == points.front());
        REQUIRE(thin.back() == points.back());
        REQUIRE(std::is_sorted(thin.begin(), thin.end(), [](const auto& a, const auto& b) {
            return a.iteration < b.iteration;
        }));
        for (const LossPoint& point : thin) {
            REQUIRE(points[static_cast<std::size_t>(point.iteration)] == point);
        }
        for (const LossPoint& point : points) {
            if (point.iteration % 1009 == 500 && count < 20'000) {
                REQUIRE(std::count(thin.begin(), thin.end(), point) == 1);
            }
        }
    }
}

TEST_CASE("a page is known for one of ours, and no other page is") {
    const nca::test::Folder folder;
    const std::string path = folder / "page.html";
    const std::string page = html_page(small_page(), {}, nullptr);
    const std::size_t footer = page.find("<footer>");
    REQUIRE(footer != std::string::npos);
    for (const auto& [text, expected] :
         {std::pair(page, true),
          {page.substr(0, footer), false},
          {page.substr(footer), false},
          {"<!DOCTYPE html>\n<html><body>mine</body></html>\n", false},
          {"", false},
          {page + std::string(20'000'000, ' '), false}}) {
        nca::test::write_file(path, text);
        REQUIRE(is_training_page(path) == expected);
    }
}

TEST_CASE("the median line is the median of the last 51 losses") {
    const std::vector<LossPoint> points = falling_losses(2000);
    const std::vector<LossPoint> medians = running_medians(points, 100);
    REQUIRE(medians.size() == 100);
    for (const LossPoint& median : medians) {
        std::vector<double> losses;
        for (std::int64_t i = std::max<std::int64_t>(0, median.iteration - 50);
             i <= median.iteration; ++i) {
            losses.push_back(points[static_cast<std::size_t>(i)].loss);
        }
        std::sort(losses.begin(), losses.end());
        REQUIRE(median.loss == losses[(losses.size() - 1) / 2]);
    }
    REQUIRE(running_medians(std::span(points).first(3), 100).size() == 3);
}

TEST_CASE("the curve is drawn in units of the iteration and the loss's logarithm") {
    const std::vector<LossPoint> points = {{5, 0.1}, {6, 1e20}, {7, 0.01}, {9, 0.02}};
    const std::vector<std::int64_t> recoveries = {6};
    const std::string curve = loss_curve(points, recoveries);
    REQUIRE(curve_of(curve) ==
            std::vector<std::pair<double, double>>{{5, -1}, {6, 20}, {7, -2}, {9, -1.69897}});
    REQUIRE(curve_of(curve, "median").size() == 4);
    // The failed iteration is a quarter from the left, and does not stretch the scale.
    REQUIRE(contains(curve, "class=\"recovery\" d=\"M250.0 0V1000\""));
    REQUIRE(contains(curve, ">0.01<"));
    REQUIRE(contains(curve, ">0.1<"));
    REQUIRE_FALSE(contains(curve, ">1<"));
}

TEST_CASE("a curve is bounded in size, and drawn of one point and of none") {
    std::vector<std::int64_t> recoveries(5000);
    for (std::size_t i = 0; i < recoveries.size(); ++i) {
        recoveries[i] = static_cast<std::int64_t>(i);
    }
    REQUIRE(loss_curve(falling_losses(1'000'000), recoveries).size() < 60'000);
    for (const double loss : {1e-30, 0.5, 1e30}) {
        const std::vector<LossPoint> one = {{8, loss}};
        const std::string curve = loss_curve(one, {});
        REQUIRE(curve_of(curve).size() == 1);
        REQUIRE_FALSE(contains(curve, "nan"));
        REQUIRE_FALSE(contains(curve, "inf"));
    }
    REQUIRE(contains(loss_curve({}, {}), "no loss yet"));
}

TEST_CASE("text from outside is escaped in a page") {
    const std::string evil = "<b>&\"'\x1b\n";
    const std::string good = "&lt;b&gt;&amp;&quot;&#39;??";
    REQUIRE(escaped(evil) == good);
    TrainingPage page = small_page();
    page.state = RunState::failed;
    page.target = page.engine = page.error = page.config.preset = page.version = evil;
    RunHistory history;
    history.recoveries = {{2, evil}};
    const std::string text = html_page(page, history, nullptr);
    REQUIRE_FALSE(contains(text, evil));
    REQUIRE_FALSE(contains(text, "<b>&"));
    const auto found = nca::test::all_between(text, good, "<");
    REQUIRE(found.size() == 8);  // target and preset twice
}

TEST_CASE("a page shows every field of the configuration") {
    const std::string page = html_page(small_page(), {}, nullptr);
    for (const nca::ConfigField& field : nca::config_fields) {
        INFO(field.name);
        const bool has_row = std::string_view(field.row.label).empty() ||
                             page.find("<dt>" + escaped(field.row.label)) != std::string::npos;
        REQUIRE(has_row);
        if (const nca::ConfigField* second = nca::second_field(field)) {
            REQUIRE(std::string_view(second->row.label).empty());
            REQUIRE(second->option.name == nullptr);
        }
    }
}

TEST_CASE("a page shows at which steps the loss is") {
    TrainingPage page = small_page();
    REQUIRE(contains(html_page(page, {}, nullptr), "<dt>steps of the loss</dt><dd>last</dd>"));
    page.config.earliest_loss_step = 48;
    page.config.latest_loss_step = 96;
    REQUIRE(contains(html_page(page, {}, nullptr), "<dt>steps of the loss</dt><dd>48 to 95</dd>"));
}

TEST_CASE("a page shows start cells where they were given") {
    nca::tool::TrainingPage page = small_page();
    REQUIRE(html_page(page, {}, nullptr).find("start cells") == std::string::npos);
    page.config.start_cells = {{3, 11}, {4, 0}};
    REQUIRE(html_page(page, {}, nullptr)
                .find("<dt>start cells (column, row)</dt><dd>11,3 and 0,4</dd>") !=
            std::string::npos);
}

TEST_CASE("only the page of a run that goes on refreshes itself") {
    for (const RunState state :
         {RunState::running, RunState::done, RunState::stopped, RunState::failed}) {
        TrainingPage page = small_page();
        page.state = state;
        const bool refreshes =
            contains(html_page(page, {}, nullptr), "<meta http-equiv=\"refresh\" content=\"12\">");
        REQUIRE(refreshes == (state == RunState::running));
    }
}

TEST_CASE("a page lists recoveries and counts, the last fifty of many") {
    RunHistory history;
    for (int i = 0; i < 120; ++i) {
        history.recoveries.push_back({i, fmt::format("reason {};", i)});
    }
    history.dead = 4711;
    history.reset = 815;
    const std::string text = html_page(small_page(), history, nullptr);
    for (const char* part : {"reason 119;", "reason 70;", "70 earlier", ">4711<", ">815<",
                             ">3 of 10<", ">1024 states<"}) {
        INFO(part);
        REQUIRE(contains(text, part));
    }
    REQUIRE_FALSE(contains(text, "reason 69;"));
}

TEST_CASE("pictures of a large grid are scaled down until the page is small") {
    nca::Image noise;
    noise.height = noise.width = 300;
    std::uint32_t word = 1;
    for (int i = 0; i < 300 * 300 * 4; ++i) {
        word = word * 1664525 + 1013904223;
        noise.pixels.push_back(static_cast<std::uint8_t>(word >> 24));
    }
    TrainingPictures pictures;
    pictures.target = noise;
    pictures.before.assign(8, noise);
    pictures.after.assign(8, noise);
    pictures.pool.assign(64, noise);
    pictures.grown.assign(4, {.steps = 64, .loss = 0.1, .picture = noise});
    const std::string text = html_page(small_page(), {}, &pictures);
    const std::vector<nca::Image> images = nca::test::images_of(text);
    REQUIRE(images.size() == 22);
    REQUIRE(images[0].width <= 96);
    REQUIRE(images[21].width <= 600);
    REQUIRE(text.size() < 800'000);
}

TEST_CASE("reports are due at once, then rarely enough to cost two percent at most") {
    for (const double cost : {0.001, 0.3, 5.0}) {
        ReportPace pace;
        REQUIRE(pace.due(0.05));
        int made = 0;
        double longest = 0;
        double last = 0;
        for (double now = 0.05; now < 5000; now += 0.05) {
            if (!pace.due(now)) {
                continue;
            }
            longest = std::max(longest, now - last);
            last = now;
            pace.made(now, now + cost);
            ++made;
            now += cost;
            const bool cheap_enough = pace.spent() <= ReportPace::share * now + 1e-9;
            REQUIRE((made == 1 || cheap_enough));
        }
        INFO(cost << " seconds each: " << made << " reports");
        REQUIRE(made > std::min(5000 / 10.2, 0.9 * ReportPace::share * 5000 / cost) - 1);
        REQUIRE(longest <= std::max(10.1, 2.1 * cost / ReportPace::share));
    }
}

TEST_CASE("a log that is continued gives back its iterations") {
    const nca::test::Folder folder;
    const std::filesystem::path path = folder / "log.csv";
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const IterationReport reports[] = {{0, 64, 0.25, 2e-3, 1.5, 0, 1, ""},
                                       {1, 70, nan, 2e-3, nan, 8, 16, "bad, \"very\": back"},
                                       {2, 71, 0.125, 1e-3, 0.5, 1, 1, ""}};
    {
        TrainingLog log(path, 0, "an engine");
        for (const IterationReport& report : reports) {
            REQUIRE(log.add(report));
        }
        REQUIRE(log.sync());
        REQUIRE(log.earlier().empty());
    }
    const TrainingLog log(path, 2, "an engine");
    REQUIRE(log.earlier().size() == 2);
    for (std::size_t i = 0; i < 2; ++i) {
        const IterationReport& read = log.earlier()[i];
        REQUIRE(read.iteration == reports[i].iteration);
        REQUIRE(read.steps == reports[i].steps);
        REQUIRE(read.dead == reports[i].dead);
        REQUIRE(read.reset == reports[i].reset);
        REQUIRE(read.recovery == reports[i].recovery);
    }
    REQUIRE(log.earlier()[0].loss == 0.25);
    REQUIRE(std::isnan(log.earlier()[1].loss));
}

TEST_CASE("each engine's rows in a log have a comment on top, and old logs have none") {
    const nca::test::Folder folder;
    const std::filesystem::path path = folder / "log.csv";
    const auto append = [&](std::int64_t first, std::int64_t end, const char* engine) {
        TrainingLog log(path, first, engine);
        for (std::int64_t i = first; i < end; ++i) {
            REQUIRE(log.add({i, 64, 0.5, 2e-3, 1.5, 0, 0, ""}));
        }
        REQUIRE(log.sync());
        return log.earlier().size();
    };
    // Comments, and of each row its iteration; the header's is "iteration".
    const auto outline = [&] {
        std::ifstream file(path);
        std::vector<std::string> lines;
        for (std::string line; std::getline(file, line);) {
            lines.push_back(line.starts_with('#') ? line : line.substr(0, line.find(',')));
        }
        return lines;
    };
    using Lines = std::vector<std::string>;

    append(0, 2, "a; b\n");
    REQUIRE(outline() == Lines{"# engine: a; b?", "iteration", "0", "1"});
    REQUIRE(append(2, 3, "a; b\n") == 2);
    REQUIRE(outline() == Lines{"# engine: a; b?", "iteration", "0", "1", "2"});
    REQUIRE(append(3, 5, "other") == 3);
    const Lines two = {"# engine: a; b?", "iteration", "0", "1", "2", "# engine: other", "3", "4"};
    REQUIRE(outline() == two);
    // After going back to before the other engine began, nothing of it is left.
    REQUIRE(append(2, 3, "a; b\n") == 2);
    REQUIRE(outline() == Lines{"# engine: a; b?", "iteration", "0", "1", "2"});
    append(0, 1, "other");
    REQUIRE(outline() == Lines{"# engine: other", "iteration", "0"});

    std::string old = nca::test::read_file(path);
    nca::test::write_file(path, old.substr(old.find('\n') + 1));
    REQUIRE(append(1, 2, "a") == 1);
    REQUIRE(outline() == Lines{"iteration", "0", "# engine: a", "1"});
    REQUIRE(append(2, 3, "b") == 2);
    REQUIRE(outline() == Lines{"iteration", "0", "# engine: a", "1", "# engine: b", "2"});
}
