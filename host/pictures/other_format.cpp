// SPDX-License-Identifier: MIT
#include "host/pictures/other_format.hpp"

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <string_view>

namespace nca {
namespace {

using namespace std::string_view_literals;

// The brands are those of the box `ftyp`, with which a file of this family begins: four bytes each,
// the first of them the main one.
const char* name_brands(std::string_view brands) {
    const auto has = [&](std::initializer_list<std::string_view> wanted) {
        for (std::size_t i = 0; i + 4 <= brands.size(); i += 4) {
            if (std::ranges::find(wanted, brands.substr(i, 4)) != wanted.end()) return true;
        }
        return false;
    };
    if (has({"avif", "avis"})) return "AVIF";
    if (has({"heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs", "mif1", "msf1"})) {
        return "HEIC";
    }
    return nullptr;
}

// Whether the first element is svg. Before it there may be white space, a declaration, comments and
// a document type.
bool is_svg(std::string_view text) {
    constexpr std::size_t far_enough = 4096;
    text = text.substr(0, far_enough);
    if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // the mark of UTF-8
    text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
    while (text.starts_with("<?") || text.starts_with("<!")) {
        text.remove_prefix(text.starts_with("<!--") ? std::min(text.find("-->"), text.size()) : 1);
        text.remove_prefix(std::min(text.find('<'), text.size()));
    }
    return text.starts_with("<svg");
}

}  // namespace

const char* name_other_format(std::span<const std::uint8_t> bytes) {
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    constexpr std::size_t brands_begin = 8;
    if (text.size() > brands_begin && text.substr(4, 4) == "ftyp") {
        // The box has its size in its first four bytes, below 256 in any picture.
        return name_brands(text.substr(brands_begin, std::max<std::size_t>(bytes[3], 12) - 8));
    }
    if (text.starts_with("II*\0"sv) || text.starts_with("MM\0*"sv)) return "TIFF";
    if (text.starts_with("8BPS")) return "PSD";
    if (text.starts_with("\xff\x0a") || text.starts_with("\0\0\0\x0cJXL \r\n"sv)) return "JPEG XL";
    return is_svg(text) ? "SVG" : nullptr;
}

}  // namespace nca
