// SPDX-License-Identifier: MIT
#include "host/tool/training_page.hpp"

#include "host/core/start_cells.hpp"
#include "host/files/base64.hpp"
#include "host/files/open_file.hpp"
#include "host/tool/console.hpp"
#include "host/tool/rule_text.hpp"
#include "host/training/config_fields.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>

namespace nca::tool {
namespace {

// The largest picture; larger ones are scaled down. Bytes are limited too, because states that
// exploded are noise, which does not compress.
struct Limit {
    int side;           // pixels
    std::size_t bytes;  // of its PNG
};
constexpr Limit one_state = {96, 16'000};
constexpr Limit whole_pool = {600, 250'000};

constexpr std::size_t most_recoveries = 50;

// At the begin and near the end of every page of every version.
constexpr std::string_view page_begin = "<!DOCTYPE html>\n";
constexpr std::string_view footer_begin = "<footer><p class=\"quiet\">nca ";
constexpr std::uint64_t longest_page = 16 << 20;  // bytes; a page has less than a tenth of that

// Each colour has a value for light and one for dark screens. Print is light.
constexpr std::string_view style = R"(<style>
:root{color-scheme:light dark;--paper:#fff;--card:#f3f5f8;--text:#1b2330;--quiet:#5b6675;
--line:#d5dae1;--faint:#9dbde6;--strong:#1f5fa8;--bad:#c2410c}
@media screen and (prefers-color-scheme:dark){:root{--paper:#12161c;--card:#1d232c;--text:#e6e9ee;
--quiet:#a3adba;--line:#37404c;--faint:#4f7bb0;--strong:#8cb8ee;--bad:#f0895a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:62rem;padding:1rem;background:var(--paper);color:var(--text);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .25rem}
h2{font-size:1.15rem;margin:1.75rem 0 .5rem}
p{margin:.25rem 0}
.quiet,figcaption{color:var(--quiet);font-size:.9rem}
.bad{color:var(--bad)}
progress{width:100%;height:1rem;margin:.75rem 0 0;accent-color:var(--strong)}
.numbers{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.5rem;
margin:.75rem 0 0}
.numbers div{background:var(--card);border-radius:.5rem;padding:.4rem .7rem}
dt{color:var(--quiet);font-size:.9rem}
dd{margin:0}
.numbers dd{font-size:1.15rem;font-variant-numeric:tabular-nums}
.plot{position:relative;height:18rem;margin:.5rem 0 2rem 3.25rem}
.plot svg{display:block;width:100%;height:100%;border:solid var(--line);border-width:0 0 1px 1px}
.plot span{position:absolute;color:var(--quiet);font-size:.85rem;white-space:nowrap}
.plot .y{right:100%;transform:translateY(-50%);padding-right:.4rem}
.plot .x{top:100%;transform:translateX(-50%);padding-top:.2rem}
.plot polyline,.plot path{fill:none;vector-effect:non-scaling-stroke}
.grid{stroke:var(--line);stroke-width:1;opacity:.6}
.each{stroke:var(--faint);stroke-width:1}
.median{stroke:var(--strong);stroke-width:2}
.recovery{stroke:var(--bad);stroke-width:1;stroke-dasharray:4 3}
b.each,b.median,b.recovery{font-weight:600;stroke:none}
b.each{color:var(--faint)}b.median{color:var(--strong)}b.recovery{color:var(--bad)}
figure{margin:0}
img{display:block;width:100%;image-rendering:pixelated;background:#fff;border-radius:.25rem;outline:1px solid var(--line)}
.strip{display:grid;grid-template-columns:repeat(8,1fr);gap:.35rem;margin:.25rem 0 .75rem}
.grown{display:grid;grid-template-columns:repeat(5,1fr);gap:.6rem}
.pool{max-width:38rem}
.rows{columns:2;column-gap:2rem;margin:0}
.rows div{display:flex;justify-content:space-between;gap:1rem;padding:.15rem 0;
border-bottom:1px solid var(--line);break-inside:avoid}
.rows dt{flex:none}
.rows dd{text-align:right}
ul{margin:.25rem 0;padding-left:1.25rem}
@media(max-width:40rem){.strip{grid-template-columns:repeat(4,1fr)}
.grown{grid-template-columns:repeat(3,1fr)}.rows{columns:1}.plot{height:14rem}}
@media print{@page{margin:12mm}body{max-width:none;padding:0;font-size:10.5pt}
h2{break-after:avoid}figure,.plot,.numbers,.strip,.grown{break-inside:avoid}
.strip{grid-template-columns:repeat(8,1fr)}.grown{grid-template-columns:repeat(5,1fr)}
.plot{height:13rem}.pool{max-width:9.5cm}.rows{break-inside:avoid}.numbers div{border:1px solid var(--line)}}
</style>
)";

std::string number(double value) {
    return std::isfinite(value) ? fmt::format("{:.3g}", value) : "unknown";
}

// As in "12.3 million".
std::string large_number(double value) {
    constexpr std::pair<double, const char*> units[] = {
        {1e9, " billion"}, {1e6, " million"}, {1e3, " thousand"}, {1, ""}};
    for (const auto& [unit, name] : units) {
        if (value >= unit) return fmt::format("{:.3g}{}", value / unit, name);
    }
    return number(value);
}

std::string row(std::string_view name, std::string_view value) {
    return fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", escaped(name), escaped(value));
}

std::string section(std::string_view title, std::string_view contents) {
    return fmt::format("<section><h2>{}</h2>\n{}</section>\n", title, contents);
}

std::vector<std::uint8_t> small_png(const Image& image, const Limit& limit) {
    const int longest = std::max(image.height, image.width);
    std::vector<std::uint8_t> png;
    for (int length = std::min(longest, limit.side); length >= 1; length = length * 3 / 4) {
        png = encode_png(length == longest
                             ? image
                             : resize(image, std::max(1, image.height * length / longest),
                                      std::max(1, image.width * length / longest)));
        if (png.size() <= limit.bytes) break;
    }
    return png;
}

std::string img(const Image& image, std::string_view description, const Limit& limit = one_state) {
    return fmt::format("<img alt=\"{}\" src=\"data:image/png;base64,{}\">", escaped(description),
                       encode_base64(small_png(image, limit)));
}

std::string head(const TrainingPage& page) {
    const std::string refresh =
        page.state == RunState::running
            ? fmt::format("<meta http-equiv=\"refresh\" content=\"{}\">\n", page.refresh_seconds)
            : "";
    return fmt::format(
        "{}<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n{}"
        "<link rel=\"icon\" href=\"data:,\">\n<title>{}, iteration {}</title>\n{}</head>\n",
        page_begin, refresh, escaped(page.target), page.done, style);
}

std::string state_text(const TrainingPage& page) {
    switch (page.state) {
        case RunState::running:
            return "<p>Training goes on.</p>\n";
        case RunState::done:
            return "<p>Training is done.</p>\n";
        case RunState::stopped:
            return "<p class=\"bad\">Training was stopped.</p>\n";
        case RunState::failed:
            break;
    }
    return fmt::format("<p class=\"bad\">Training failed: {}</p>\n", escaped(page.error));
}

std::string numbers(const TrainingPage& page, const RunHistory& history) {
    std::string rows = row("iterations", fmt::format("{} of {}", page.done, page.wanted)) +
                       row("loss, mean of 100", number(page.loss)) +
                       row("iterations / s", number(page.iterations_per_second)) +
                       row("cell-steps / s", large_number(page.cell_steps_per_second)) +
                       row("time so far", duration(page.seconds));
    if (page.state == RunState::running && page.iterations_per_second > 0) {
        rows += row("time left",
                    duration(double(page.wanted - page.done) / page.iterations_per_second));
    }
    rows += row("samples that died", std::to_string(history.dead)) +
            row("recoveries", std::to_string(history.recoveries.size()));
    if (page.config.pool > 0) rows += row("pool states reset", std::to_string(history.reset));
    return fmt::format(
        "<progress max=\"{}\" value=\"{}\"></progress>\n<dl class=\"numbers\">\n"
        "{}</dl>\n",
        page.wanted, page.done, rows);
}

std::string curve(const RunHistory& history) {
    std::vector<std::int64_t> recoveries;
    for (const RunHistory::Recovery& recovery : history.recoveries) {
        recoveries.push_back(recovery.iteration);
    }
    std::string contents =
        loss_curve(history.losses, recoveries) +
        "<p class=\"quiet\">Mean squared error of colours and alpha: <b class=\"each\">each "
        "iteration</b>, <b class=\"median\">median of 51</b>";
    if (!recoveries.empty()) contents += ", <b class=\"recovery\">recovery</b>";
    if (history.first_iteration > 0) {
        contents += fmt::format("; from iteration {} on", history.first_iteration);
    }
    return section("Loss", contents + ".</p>\n");
}

std::string strip(std::string_view title, std::span<const Image> pictures) {
    std::string imgs;
    for (std::size_t i = 0; i < pictures.size(); ++i) {
        imgs += img(pictures[i], fmt::format("{}, sample {}", title, i)) + "\n";
    }
    return fmt::format(
        "<figure><figcaption>{}</figcaption><div class=\"strip\">\n{}</div>"
        "</figure>\n",
        title, imgs);
}

std::string grown(const TrainingPictures& pictures) {
    std::string figures = fmt::format("<figure>{}<figcaption>target</figcaption></figure>\n",
                                      img(pictures.target, "target"));
    for (const GrownState& state : pictures.grown) {
        figures += fmt::format("<figure>{}<figcaption>{} steps<br>loss {}</figcaption></figure>\n",
                               img(state.picture, fmt::format("after {} steps", state.steps)),
                               state.steps, number(state.loss));
    }
    return fmt::format("<div class=\"grown\">\n{}</div>\n", figures);
}

std::string picture_sections(const TrainingPage& page, const TrainingPictures& pictures) {
    std::string result =
        section(page.config.start_cells.size() > 1 ? "Grown from the start cells"
                                                   : "Grown from one cell",
                grown(pictures)) +
        section("The last batch", strip("before the iteration", pictures.before) +
                                      strip("after the iteration", pictures.after));
    if (!pictures.pool.empty()) {
        const std::string title =
            fmt::format("{} of {} states", pictures.pool.size(), page.config.pool);
        result +=
            section("The pool", fmt::format("<figure class=\"pool\">{}<figcaption>{}</figcaption>"
                                            "</figure>\n",
                                            img(pool_picture(pictures), title, whole_pool), title));
    }
    return result;
}

std::string failures(const RunHistory& history) {
    if (history.recoveries.empty()) return section("What went wrong", "<p>Nothing.</p>\n");
    const std::size_t skipped =
        history.recoveries.size() - std::min(history.recoveries.size(), most_recoveries);
    std::string items;
    for (const RunHistory::Recovery& recovery : std::span(history.recoveries).subspan(skipped)) {
        items +=
            fmt::format("<li>iteration {}: {}</li>\n", recovery.iteration, escaped(recovery.text));
    }
    const std::string earlier =
        skipped > 0 ? fmt::format("<p>{} earlier ones, and:</p>\n", skipped) : "";
    return section("What went wrong", fmt::format("{}<ul>\n{}</ul>\n", earlier, items));
}

std::string rule_rows(const TrainingConfig& config) {
    std::string rows;
    for (const auto& [name, value] : rule_table(config.rule, config.preset)) {
        rows += row(name, value);
    }
    for (std::size_t i = 0; i < config.rule.filters.size(); ++i) {
        rows += row(fmt::format("filter {}", i + 1), filter_text(config.rule.filters[i]));
    }
    return rows;
}

std::string value_text(const ConfigField& field, const TrainingConfig& config) {
    const auto text = [&]<class Value>(const Value& value) {
        if constexpr (std::is_same_v<Value, bool> || std::is_enum_v<Value>) {
            return std::string(field.row.shown[int(value)]);
        } else if constexpr (std::is_same_v<Value, int>) {
            return fmt::format("{}", value - field.exclusive);
        } else {
            return fmt::format("{}", value);
        }
    };
    return std::visit([&](auto member) { return text(config.*member); }, field.member);
}

std::string config_row(const ConfigField& field, const TrainingConfig& config) {
    const ConfigField* next = second_field(field);
    if (field.option.none != nullptr && value_text(field, config) == "0") {
        return row(field.row.label, field.option.none);
    }
    const std::string second = next != nullptr ? value_text(*next, config) : "";
    return row(field.row.label,
               fmt::format(fmt::runtime(field.row.format), value_text(field, config), second));
}

// The order of the rows: picture, regime, optimiser.
std::string configuration(const TrainingPage& page) {
    const TrainingConfig& config = page.config;
    constexpr std::string_view names[] = {"preset",
                                          "target_size",
                                          "padding",
                                          "batch",
                                          "fewest_steps",
                                          "earliest_loss_step",
                                          "warmup",
                                          "pool",
                                          "damaged",
                                          "damage_centre",
                                          "smallest_damage",
                                          "learning_rate",
                                          "schedule",
                                          "beta1",
                                          "normalise_gradients",
                                          "initialisation",
                                          "output_bias",
                                          "seed"};
    std::string rows = page.init.empty() ? "" : row("started from", page.init);
    for (const std::string_view name : names) {
        rows += config_row(*std::ranges::find(config_fields, name, &ConfigField::name), config);
        if (name == "preset") {
            rows += row("grid", fmt::format("{}x{} cells", config.grid(), config.grid()));
            if (!config.start_cells.empty()) {
                rows += row("start cells (column, row)", start_cells_text(config.start_cells));
            }
        }
    }
    return section("Configuration",
                   fmt::format("<dl class=\"rows\">\n{}</dl>\n", rows + rule_rows(config)));
}

}  // namespace

std::string escaped(std::string_view text) {
    constexpr std::pair<char, const char*> entities[] = {
        {'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&quot;"}, {'\'', "&#39;"}};
    std::string result;
    for (const char c : without_controls(text)) {
        const auto entity = std::ranges::find(entities, c, &std::pair<char, const char*>::first);
        result += entity != std::end(entities) ? entity->second : std::string(1, c);
    }
    return result;
}

std::string html_page(const TrainingPage& page, const RunHistory& history,
                      const TrainingPictures* pictures) {
    const std::string title =
        fmt::format("<h1>{}</h1>\n<p class=\"quiet\">preset {}, on {}</p>\n", escaped(page.target),
                    escaped(preset_text(page.config)), escaped(page.engine));
    const std::string footer = fmt::format(
        "{}{}, written {}. Pages and pictures took {:.1f} % of the time.</p></footer>\n",
        footer_begin, escaped(page.version), escaped(page.written), 100 * page.own_share);
    return head(page) + "<body>\n<header>" + title + state_text(page) + "</header>\n" +
           numbers(page, history) + curve(history) +
           (pictures != nullptr ? picture_sections(page, *pictures) : "") + failures(history) +
           configuration(page) + footer + "</body>\n</html>\n";
}

bool is_training_page(const std::filesystem::path& path) {
    const OpenFile file(path);
    if (file.size() > longest_page) return false;
    std::vector<std::uint8_t> bytes(std::size_t(file.size()));
    bytes.resize(file.read(bytes, 0));
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return text.starts_with(page_begin) && text.find(footer_begin) != std::string_view::npos;
}

}  // namespace nca::tool
