// SPDX-License-Identifier: MIT
#include "host/pictures/exif.hpp"
#include "host/pictures/image_reader.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace nca {
namespace {

constexpr unsigned end_of_image = 0xd9;
constexpr unsigned start_of_scan = 0xda;
constexpr unsigned application_data = 0xe1;  // EXIF or others

// A channel of the picture. It has across x down blocks of 8 x 8 samples in each unit of the
// picture; the unit is as large as the channel with the most blocks makes it.
struct Component {
    unsigned id = 0;
    unsigned across = 0;
    unsigned down = 0;
    unsigned quantisation = 0;  // the index of its table
    bool coded = false;         // whether a scan had its blocks
};

// Walks the segments of a JPEG. stb_image meets no segment that this does not: it may only stop
// earlier.
class JpegHeader {
public:
    explicit JpegHeader(ImageReader file) : file_(file) {}
    ImageHeader read();

private:
    unsigned next_marker();
    void read_quantisation_tables(ImageReader segment);
    void read_huffman_tables(ImageReader segment);
    void read_frame(ImageReader segment);
    void read_application_data(ImageReader segment);
    std::size_t read_scan(ImageReader segment);
    Component& component(unsigned id);
    std::uint64_t blocks_alone(const Component& component) const;
    void require(const std::array<bool, 4>& tables, unsigned index, const char* kind) const;
    void add_work(std::uint64_t blocks);

    ImageReader file_;
    ImageHeader header_;
    int orientation_ = 0;  // 0: no EXIF data yet
    bool progressive_ = false;
    unsigned across_ = 1;  // blocks in a unit
    unsigned down_ = 1;
    std::vector<Component> components_;
    // Which tables there are.
    std::array<bool, 4> quantisation_ = {};
    std::array<bool, 4> dc_ = {};
    std::array<bool, 4> ac_ = {};
    std::uint64_t work_ = 0;  // in blocks that stb_image decodes
};

std::uint64_t ceiling(std::uint64_t value, std::uint64_t divisor) {
    return (value + divisor - 1) / divisor;
}

// Goes past the data of a scan, if there are, to the next segment. In data, ff 00 is a byte and ff
// with d0..d7 divides the data. Any number of ff may come before a marker.
unsigned JpegHeader::next_marker() {
    for (;;) {
        file_.seek(0xff);
        unsigned marker = file_.byte();
        while (marker == 0xff) marker = file_.byte();
        if (marker != 0 && (marker < 0xd0 || marker > 0xd7)) return marker;
    }
}

ImageHeader JpegHeader::read() {
    next_marker();               // the start of the image
    std::size_t least_data = 0;  // bytes before the next segment
    for (;;) {
        const std::size_t left = file_.left();
        const unsigned marker = next_marker();
        if (left - file_.left() < std::exchange(least_data, 0)) file_.ends_too_early();
        if (marker == end_of_image) break;
        const unsigned length = file_.big16();
        if (length < 2) file_.refuse("a segment has a length of {}", length);
        ImageReader segment = file_.take(length - 2);
        if (marker == 0xdb) {
            read_quantisation_tables(segment);
        } else if (marker == 0xc4) {
            read_huffman_tables(segment);
        } else if (marker >= 0xc0 && marker <= 0xc2) {
            progressive_ = marker == 0xc2;
            read_frame(segment);
        } else if (marker == start_of_scan) {
            least_data = read_scan(segment);
        } else if (marker == application_data) {
            read_application_data(segment);
        } else if (marker < 0xdc) {
            file_.refuse("it is neither baseline nor progressive, but has the marker ff{:02x}",
                         marker);
        }
    }
    if (components_.empty()) file_.refuse("it has no picture");
    for (const Component& component : components_) {
        if (!component.coded) file_.refuse("channel {} has no data", component.id);
    }
    if (orientation_ != 0) header_.orientation = orientation_;
    return header_;
}

void JpegHeader::read_quantisation_tables(ImageReader segment) {
    while (segment.left() > 0) {
        const unsigned what = segment.byte();
        const std::size_t size = what < 16 ? 64 : 128;
        if ((what >> 4) > 1 || (what & 15) > 3 || size > segment.left()) {
            file_.refuse("a quantisation table is malformed");
        }
        segment.skip(size);
        quantisation_[what & 15] = true;
        add_work(1);
    }
}

void JpegHeader::read_huffman_tables(ImageReader segment) {
    while (segment.left() > 0) {
        const unsigned what = segment.byte();
        if ((what >> 4) > 1 || (what & 15) > 3 || segment.left() < 16) {
            file_.refuse("a Huffman table is malformed");
        }
        unsigned codes = 0;
        for (int i = 0; i < 16; ++i) codes += segment.byte();
        // stb_image has memory for 256.
        if (codes > 256) {
            file_.refuse("a Huffman table has {} codes, expected at most 256", codes);
        }
        if (codes > segment.left()) file_.refuse("a Huffman table is cut off");
        segment.skip(codes);
        (what < 16 ? dc_ : ac_)[what & 15] = true;
        constexpr std::uint64_t blocks_in_the_same_time = 32;
        add_work(blocks_in_the_same_time);
    }
}

void JpegHeader::read_frame(ImageReader segment) {
    if (!components_.empty()) file_.refuse("it has two frames");
    if (segment.left() < 6) file_.refuse("its frame is malformed");
    segment.skip(1);
    const unsigned height = segment.big16();
    header_ = file_.header(segment.big16(), height);
    const unsigned count = segment.byte();
    if (count < 1 || count > 4 || segment.left() != std::size_t{3} * count) {
        file_.refuse("its frame has {} channels", count);
    }
    for (unsigned i = 0; i < count; ++i) {
        Component component;
        component.id = segment.byte();
        const unsigned blocks = segment.byte();
        component.across = blocks >> 4;
        component.down = blocks & 15;
        component.quantisation = segment.byte();
        if (component.across < 1 || component.across > 4 || component.down < 1 ||
            component.down > 4 || component.quantisation > 3) {
            file_.refuse("channel {} is malformed", component.id);
        }
        across_ = std::max(across_, component.across);
        down_ = std::max(down_, component.down);
        components_.push_back(component);
    }
}

// The first EXIF data count.
void JpegHeader::read_application_data(ImageReader segment) {
    if (skip_exif_prefix(segment) && orientation_ == 0) orientation_ = read_orientation(segment);
}

// Returns how many bytes of data the scan has at least.
std::size_t JpegHeader::read_scan(ImageReader segment) {
    if (components_.empty()) file_.refuse("it has data before its frame");
    const unsigned count = segment.left() > 0 ? segment.byte() : 0;
    if (count < 1 || count > components_.size() || segment.left() != std::size_t{2} * count + 3) {
        file_.refuse("a scan of {} channels is malformed", count);
    }
    ImageReader rest = segment;
    rest.skip(std::size_t{2} * count);
    // A progressive scan has the first coefficient of the blocks or others, some bits of it first
    // and one more in each scan that refines it.
    const bool first_coefficient = rest.byte() == 0;
    rest.skip(1);
    const bool refines = progressive_ && (rest.byte() >> 4) > 0;

    std::uint64_t blocks = 0;
    for (unsigned i = 0; i < count; ++i) {
        Component& coded = component(segment.byte());
        const unsigned tables = segment.byte();
        require(quantisation_, coded.quantisation, "quantisation");
        if (first_coefficient && !refines) require(dc_, tables >> 4, "Huffman (DC)");
        if (!progressive_ || !first_coefficient) require(ac_, tables & 15, "Huffman (AC)");
        if (!progressive_ && coded.coded) file_.refuse("channel {} has data twice", coded.id);
        if (first_coefficient) coded.coded = true;
        blocks += std::uint64_t{coded.across} * coded.down;
        if (count == 1) blocks = blocks_alone(coded);
    }
    if (count > 1) {
        blocks *= ceiling(std::uint64_t(header_.width), std::uint64_t{8} * across_) *
                  ceiling(std::uint64_t(header_.height), std::uint64_t{8} * down_);
    }
    add_work(blocks + 1);
    // Of the first coefficient each block has a bit or more. Others may be 0 in all blocks.
    return first_coefficient ? std::size_t(blocks / 8) : 0;
}

Component& JpegHeader::component(unsigned id) {
    const auto found = std::ranges::find(components_, id, &Component::id);
    if (found == components_.end()) file_.refuse("a scan has a channel {}, its frame has not", id);
    return *found;
}

// The number of blocks in a scan of this channel alone, which has no filling up to whole units.
std::uint64_t JpegHeader::blocks_alone(const Component& component) const {
    const auto along = [](int pixels, unsigned blocks, unsigned most) {
        return ceiling(ceiling(std::uint64_t(pixels) * blocks, most), 8);
    };
    return along(header_.width, component.across, across_) *
           along(header_.height, component.down, down_);
}

void JpegHeader::require(const std::array<bool, 4>& tables, unsigned index,
                         const char* kind) const {
    if (index > 3 || !tables[index])
        file_.refuse("a scan uses the {} table {}, which is missing", kind, index);
}

// A scan takes stb_image time for each block, also where it has hardly any data. The most that an
// encoder makes by itself is libjpeg's 18 scans of four channels: 24 * 2^20 blocks at the largest
// size. The rest is for tables.
void JpegHeader::add_work(std::uint64_t blocks) {
    constexpr std::uint64_t most = std::uint64_t{25} << 20;
    work_ += blocks;
    if (work_ > most) file_.refuse("it has far more scans or tables than a picture needs");
}

}  // namespace

ImageHeader read_jpeg_header(ImageReader file) { return JpegHeader(file).read(); }

}  // namespace nca
