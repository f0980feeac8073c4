// SPDX-License-Identifier: MIT
#include "host/core/throw_error.hpp"
#include "host/tool/arguments/options.hpp"

#include <nca/version.hpp>

#include <algorithm>
#include <sstream>

namespace nca::tool {

namespace {

// CLI11 takes the value of `--resume= --every 5` from the words that follow.
void require_values(int argc, const char* const* argv) {
    for (int i = 1; i < argc && std::string_view(argv[i]) != "--"; ++i) {
        const std::string_view word = argv[i];
        if (word.starts_with("--") && word.find('=') == word.size() - 1) {
            throw_error<UsageError>("{}: the value is missing, give one or leave the option out",
                                    word);
        }
    }
}

}  // namespace

Arguments parse_arguments(int argc, const char* const* argv) {
    require_values(argc, argv);
    CLI::App app("Grows pictures from one cell: neural cellular automata, trained and run", "nca");
    app.set_version_flag("--version", "nca " NCA_VERSION);
    app.require_subcommand(1);
    app.footer(
        "Example:\n  nca train data/lizard.png -o lizard.safetensors\n"
        "  nca grow lizard.safetensors -o lizard.gif\n"
        "`nca COMMAND --help` says more.");

    const Command commands[] = {add_train(app, {argv, argv + argc}), add_grow(app),
                                add_gradcheck(app), add_info(app), add_convert(app)};
    const auto chosen = [&]() -> std::string {
        const std::vector<CLI::App*> given = app.get_subcommands();
        return given.empty() ? "nca" : "nca " + given.front()->get_name();
    };
    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& request) {  // --help, --version
        std::ostringstream text;
        app.exit(request, text, text);
        return HelpArguments{text.str()};
    } catch (const CLI::ParseError& error) {
        if (argc > 1 && argv[1][0] != '-' && app.get_subcommands().empty()) {
            throw_error<UsageError>(
                "{}: no such command, expected train, grow, gradcheck, info or convert", argv[1]);
        }
        throw_error<UsageError>("{} (see {} --help)", error.what(), chosen());
    }

    const auto parsed = std::ranges::find_if(
        commands, [](const Command& command) { return command.app->parsed(); });
    return parsed->finish();
}

}  // namespace nca::tool
