// SPDX-License-Identifier: MIT
// nca train --report and --pictures.
#include <nca/image.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/page.hpp"
#include "tests/support/tool.hpp"

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

using namespace nca::test;

namespace {

// Iteration and log10 of the loss of each row.
std::vector<std::pair<double, double>> points_of_log(const std::string& path) {
    std::ifstream log(path);
    std::string row;
    std::getline(log, row);
    REQUIRE(row.starts_with("# engine: "));
    std::getline(log, row);
    std::vector<std::pair<double, double>> points;
    while (std::getline(log, row)) {
        const std::size_t comma = row.find(',');
        const double loss = std::strtod(row.c_str() + comma + 1, nullptr);
        if (std::isfinite(loss) && loss > 0) {
            points.emplace_back(std::stod(row), std::log10(loss));
        }
    }
    return points;
}

void require_points(const std::vector<std::pair<double, double>>& drawn,
                    const std::vector<std::pair<double, double>>& expected) {
    REQUIRE(drawn.size() == expected.size());
    REQUIRE_FALSE(drawn.empty());
    for (std::size_t i = 0; i < drawn.size(); ++i) {
        REQUIRE(drawn[i].first == expected[i].first);
        REQUIRE(std::abs(drawn[i].second - expected[i].second) <= 0.51e-5);
    }
}

void require_whole_page(const std::string& page, const std::string& says) {
    REQUIRE(page.starts_with("<!DOCTYPE html>"));
    REQUIRE(page.ends_with("</html>\n"));
    REQUIRE(contains(page, says));
    REQUIRE_FALSE(contains(page, "http-equiv"));
    REQUIRE(page.size() < (1 << 20));
}

// A browser's view of a page, and its messages.
Outcome browse(const std::string& browser, const std::string& page,
               const Words& more = {"--dump-dom"}) {
    const Folder profile;
    return Process(Words{"/usr/bin/env", "timeout", "100", browser, "--headless", "--no-sandbox",
                         "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                         "--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000",
                         "--user-data-dir=" + (profile / "profile"), "--window-size=1200,800"} +
                   more + Words{"file://" + page})
        .wait();
}

}  // namespace

TEST_CASE("a report has the points of the log and needs nothing but itself") {
    const Workshop shop;
    const std::string target = shop / "<b>&\"'.png";
    std::filesystem::copy_file(shop.target, target);
    Words words = shop.train_words() + Words{"-o",           shop / "new.safetensors",
                                             "--preset",     "regenerating",
                                             "--pool",       "9",
                                             "--damage",     "1",
                                             "--iterations", "12",
                                             "--log",        shop / "log.csv",
                                             "--report",     shop / "run.html",
                                             "--pictures",   shop / "new folder/pictures"};
    words[1] = target;
    const Outcome outcome = nca_tool(words);
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(outcome.err.empty());
    const std::string page = read_file(shop / "run.html");
    require_whole_page(page, "Training is done.");
    for (const char* outside : {"http:", "https:", "url(", "@import", "<script", "<b>&"}) {
        INFO(outside);
        REQUIRE_FALSE(contains(page, outside));
    }
    REQUIRE(nca::test::all_between(page, "href=", ">") == Words{"\"data:,\""});
    REQUIRE(contains(page, "<h1>&lt;b&gt;&amp;&quot;&#39;.png</h1>"));
    for (const char* part : {"12 of 12", "regenerating", "cpu", "64 steps", "1000 steps",
                             "9 of 9 states", "Nothing."}) {
        INFO(part);
        REQUIRE(contains(page, part));
    }
    REQUIRE(nca::test::curve_of(page).size() == 12);
    require_points(nca::test::curve_of(page), points_of_log(shop / "log.csv"));

    // The target, four grown states, two samples before and after, the pool.
    const std::vector<nca::Image> images = nca::test::images_of(page);
    REQUIRE(images.size() == 10);
    for (std::size_t i = 0; i < 9; ++i) {
        REQUIRE(images[i].height == 12);
        REQUIRE(images[i].width == 12);
    }
    REQUIRE(images[9].height == 2 * 12 + 1);
    REQUIRE(images[9].width == 8 * 12 + 7);
    const std::string pictures = shop / "new folder/pictures/";
    const auto saved = [&](const char* name) { return nca::load_image(pictures + name).pixels; };
    REQUIRE(saved("target.png") == nca::enlarge(images[0], 4).pixels);
    REQUIRE(saved("pool.png") == nca::enlarge(images[9], 4).pixels);
    REQUIRE(saved("grown.png").size() == std::size_t{4} * 48 * (4 * 48 + 3 * 4));
    REQUIRE(saved("batch_before.png").size() == std::size_t{4} * 48 * (2 * 48 + 4));
    REQUIRE(saved("batch_after.png").size() == std::size_t{4} * 48 * (2 * 48 + 4));
    REQUIRE(saved("batch_before.png") != saved("batch_after.png"));
}

TEST_CASE("a report does not change what is trained, and pictures come without one") {
    const Workshop shop;
    const Words words = shop.train_words() + Words{"--iterations", "6"};
    REQUIRE(nca_tool(words + Words{"-o", shop / "plain.safetensors"}).code == 0);
    REQUIRE(
        nca_tool(words + Words{"-o", shop / "shown.safetensors", "--pictures", shop / "pictures"})
            .code == 0);
    REQUIRE(read_file(shop / "plain.safetensors") == read_file(shop / "shown.safetensors"));
    REQUIRE(std::filesystem::exists(shop / "pictures/grown.png"));
    REQUIRE_FALSE(std::filesystem::exists(shop / "pictures/pool.png"));
}

TEST_CASE("a resumed report goes on with the points of the log, without one with its own") {
    const Workshop shop;
    const Words words =
        shop.train_words() + Words{"-o", shop / "new.safetensors", "--report", shop / "run"};
    const Words log = {"--log", shop / "log.csv"};
    REQUIRE(nca_tool(words + log + Words{"--iterations", "5", "--checkpoint", shop / "c"}).code ==
            0);
    const Words resumed = words + Words{"--iterations", "8", "--resume", shop / "c"};
    REQUIRE(nca_tool(resumed + log).code == 0);
    const std::string page = read_file(shop / "run");
    REQUIRE(nca::test::curve_of(page).size() == 8);
    require_points(nca::test::curve_of(page), points_of_log(shop / "log.csv"));
    REQUIRE_FALSE(contains(page, "on.</p>"));
    REQUIRE(nca_tool(resumed + Words{"--overwrite"}).code == 0);
    const auto points = nca::test::curve_of(read_file(shop / "run"));
    REQUIRE(points.size() == 3);
    REQUIRE(points[0].first == 5);
    REQUIRE(contains(read_file(shop / "run"), "from iteration 5 on"));
}

TEST_CASE("a report can be read while training goes on, and is whole after a signal") {
    const Workshop shop;
    const std::string path = shop / "run.html";
    Process process(tool_command(shop.train_words() + Words{"-o", shop / "new.safetensors",
                                                            "--iterations", "100000000", "--log",
                                                            shop / "log.csv", "--report", path}));
    REQUIRE(nca::test::eventually([&] { return std::filesystem::exists(path); }));
    const std::string first = read_file(path);
    REQUIRE(first.ends_with("</html>\n"));
    REQUIRE(contains(first, "Training goes on."));
    REQUIRE(contains(first, "<meta http-equiv=\"refresh\" content=\""));
    REQUIRE(nca::test::eventually([&] { return read_file(path) != first; }));
    process.kill(SIGINT);
    REQUIRE(process.wait().code == 1);
    const std::string page = read_file(path);
    require_whole_page(page, "Training was stopped.");
    const auto points = points_of_log(shop / "log.csv");
    REQUIRE(nca::test::curve_of(page).back().first == points.back().first);
    REQUIRE(nca::test::images_of(page).size() == 9);
}

TEST_CASE("the report of a training that fails for good says why") {
    const Workshop shop;
    const Outcome outcome =
        nca_tool(shop.train_words() + Words{"-o", shop / "new.safetensors", "--lr", "1e30",
                                            "--iterations", "50", "--report", shop / "run.html"});
    REQUIRE(outcome.code == 1);
    const std::string page = read_file(shop / "run.html");
    require_whole_page(page, "Training failed: training failed 13 times in a row");
    REQUIRE(nca::test::all_between(page, "<li>iteration ", ":").size() == 12);
    REQUIRE(nca::test::all_between(page, "<title>recovery in iteration ", "<").size() == 12);
}

TEST_CASE("a report that cannot be written any more is said once and does not end training") {
    const Workshop shop;
    std::filesystem::create_directory(shop / "folder");
    const std::string path = shop / "folder/run.html";
    const std::string log = shop / "log.csv";
    Process process(tool_command(
        shop.train_words() + Words{"-o", shop / "new.safetensors", "--iterations", "100000000",
                                   "--report", path, "--pictures", shop / "folder", "--log", log}));
    // The last file of a report, so that the next one fails at its first.
    REQUIRE(nca::test::eventually(
        [&] { return std::filesystem::exists(shop / "folder/batch_after.png"); }));
    std::filesystem::rename(shop / "folder", shop / "gone");
    REQUIRE(
        nca::test::eventually([&] { return contains(process.err_so_far(), "training goes on"); }));
    const auto size = std::filesystem::file_size(log);
    REQUIRE(nca::test::eventually([&] { return std::filesystem::file_size(log) > size; }));
    process.kill(SIGINT);
    const Outcome outcome = process.wait();
    INFO(outcome.err);
    REQUIRE(outcome.code == 1);
    REQUIRE(nca::test::all_between(outcome.err, "cannot write " + path, "\n").size() == 1);
    REQUIRE(std::filesystem::exists(shop / "new.safetensors"));
    REQUIRE_FALSE(std::filesystem::exists(shop / "folder"));
}

TEST_CASE("a browser shows the report, on a phone too") {
    std::string browser = find_program("chromium");
    browser = browser.empty() ? find_program("google-chrome") : browser;
    if (browser.empty()) {
        WARN("skipped: no chromium to open the page with");
        return;
    }
    const Workshop shop;
    const Outcome trained = nca_tool(shop.train_words() +
                                     Words{"-o", shop / "new.safetensors", "--preset", "persistent",
                                           "--pool", "9", "--iterations", "12", "--log",
                                           shop / "log.csv", "--report", shop / "run.html"});
    INFO(trained.err);
    REQUIRE(trained.code == 0);
    const Outcome shown = browse(browser, shop / "run.html");
    INFO(shown.err);
    REQUIRE(shown.code == 0);
    REQUIRE_FALSE(contains(shown.err, "CONSOLE"));
    require_points(nca::test::curve_of(shown.out), points_of_log(shop / "log.csv"));

    // The same page with a question to the browser at its end, in a frame as wide as a phone,
    // because no window can be that narrow.
    const std::string question =
        "<script>addEventListener('load', () => {"
        "const images = [...document.images].filter(i => i.complete && i.naturalWidth > 0);"
        "const curve = document.querySelector('.each').getBoundingClientRect();"
        "console.log(`window ${innerWidth} page ${document.documentElement.scrollWidth} "
        "images ${images.length} curve ${curve.width > 0.7 * innerWidth}`)})</script>";
    write_file(shop / "asked.html", read_file(shop / "run.html") + question);
    write_file(shop / "phone.html",
               "<iframe src=\"asked.html\" width=\"360\" height=\"800\" "
               "style=\"border:0\"></iframe>");
    const std::string screenshot = shop / "screenshot.png";
    const Outcome phone = browse(browser, shop / "phone.html", {"--screenshot=" + screenshot});
    INFO(phone.err);
    REQUIRE(contains(phone.err, "window 360 page 360 images 10 curve true"));
    REQUIRE(nca::test::all_between(phone.err, "CONSOLE", "\n").size() == 1);
    REQUIRE(nca::load_image(screenshot).width == 1200);

    write_file(shop / "broken.html", read_file(shop / "run.html") + "<script>no.such()</script>");
    REQUIRE(contains(browse(browser, shop / "broken.html").err, "CONSOLE"));
}
