// SPDX-License-Identifier: MIT
// PyTorch's files: what is read, and that nothing is run.
#include "host/import/pytorch_file.hpp"
#include "host/import/pickle.hpp"

#include <nca/error.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/costs.hpp"
#include "tests/support/foreign_files.hpp"

#include <algorithm>
#include <string>
#include <vector>

using namespace nca;
using namespace nca::test;
using Catch::Matchers::ContainsSubstring;

namespace {

std::span<const std::uint8_t> bytes_of_text(const std::string& text) {
    return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

Pickle unpickled(const std::string& pickle) {
    std::span<const std::uint8_t> bytes = bytes_of_text(pickle);
    return read_pickle(bytes, "m.pth");
}

std::string refused(const std::string& pickle) {
    return message_of<FormatError>([&] { unpickled(pickle); });
}

std::vector<TestTensor> two_tensors() {
    return {{"a", {2, 3}, {1, 2, 3, 4, 5, 6}}, {"b.weight", {4}, {7, 8, 9, 10}}};
}

void require_two_tensors(const std::vector<ForeignTensor>& tensors) {
    const std::vector<TestTensor> expected = two_tensors();
    REQUIRE(tensors.size() == expected.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        REQUIRE(tensors[i].name == expected[i].name);
        REQUIRE(tensors[i].shape == expected[i].shape);
        REQUIRE(tensors[i].type == NumberType::float32);
        REQUIRE(tensors[i].read() == expected[i].values);
    }
}

std::string with_tensor(const PickleWriter& tensor) {
    return PickleWriter().op("\x80\x02}").text("t").op(tensor.str()).op("s.").str();
}

}  // namespace

TEST_CASE("the tensors of a PyTorch file are read, from a file and from memory") {
    const TemporaryDirectory folder;
    const auto bytes = pytorch_file(two_tensors());
    require_two_tensors(open_pytorch_file(bytes, "m.pth"));
    write_bytes(folder / "m.pth", bytes);
    require_two_tensors(open_pytorch_file(folder / "m.pth"));
    REQUIRE(open_pytorch_file(pytorch_file({}), "m.pth").empty());
}

TEST_CASE("the tensors of a PyTorch file from before version 1.6 are read") {
    const auto bytes = old_pytorch_file(two_tensors());
    require_two_tensors(open_old_pytorch_file(bytes, "m.pth"));
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        CAPTURE(size);
        const auto part = std::span(bytes).first(size);
        REQUIRE_THROWS_AS(
            [&] {
                for (const ForeignTensor& tensor : open_old_pytorch_file(part, "m.pth")) {
                    tensor.read();
                }
            }(),
            FormatError);
    }
    auto big_endian = bytes;  // the size of the first storage
    const std::string size = PickleWriter().number(std::uint64_t{6}).str();
    const auto at = std::ranges::search(big_endian, size);
    std::reverse(at.begin(), at.end());
    REQUIRE_THAT(message_of<FormatError>([&] { open_old_pytorch_file(big_endian, "m.pth"); }),
                 ContainsSubstring("big-endian"));
}

TEST_CASE("a storage of another size than the pickle says is damaged") {
    const std::string good = [] {
        const auto bytes = old_pytorch_file(two_tensors());
        return std::string(bytes.begin(), bytes.end());
    }();
    std::string other = good;
    const std::string size = PickleWriter().number(std::uint64_t{6}).str();
    other[other.find(size)] = 5;
    REQUIRE_THAT(
        message_of<FormatError>([&] { open_old_pytorch_file(bytes_of_text(other), "m.pth"); }),
        ContainsSubstring("two sizes"));
}

TEST_CASE("a tensor is read through its offset and strides, in every type") {
    std::vector<double> doubles = {0.5, -1, 2, 3, 4, 5, 6, 7};
    std::string storage(64, '\0');
    std::memcpy(storage.data(), doubles.data(), 64);
    // The transpose of a [2, 3] matrix that begins at the second value.
    const auto file = zip_of({{"data.pkl", with_tensor(PickleWriter().tensor(
                                               "k", 8, 1, {3, 2}, {1, 3}, false, "DoubleStorage"))},
                              {"data/k", storage}});
    const auto tensors = open_pytorch_file(file, "m.pth");
    REQUIRE(tensors.at(0).type == NumberType::float64);
    REQUIRE(tensors.at(0).read() == std::vector<float>{-1, 4, 2, 5, 3, 6});

    const auto half =
        zip_of({{"data.pkl",
                 with_tensor(PickleWriter().tensor("k", 4, 0, {4}, {1}, false, "HalfStorage"))},
                {"data/k", {"\x00\x3c\x00\xc0\x01\x00\xff\x7b", 8}}});
    REQUIRE(open_pytorch_file(half, "m.pth").at(0).read() ==
            std::vector<float>{1, -2, 0x1p-24F, 65504});
}

TEST_CASE("nested dictionaries give names with dots, and other values are passed over") {
    PickleWriter pickle;
    pickle.op("\x80\x02}(").text("epoch").op("K\x03").text("loss").op("G").number(0.5);
    pickle.text("name").text("lizard").text("flags").op("](\x88\x89Ne");
    pickle.text("state").op("ccollections\nOrderedDict\n)R(").integer(7);
    pickle.tensor("0", 1, 0, {}, {}).op("u}").text("_metadata").op("}sbu.");
    const Pickle read = unpickled(pickle.str());
    REQUIRE(read.tensors.size() == 1);
    REQUIRE(read.tensors[0].name == "state.7");
    REQUIRE(read.tensors[0].shape.empty());
}

TEST_CASE("the counts that a scheduler keeps are passed over") {
    PickleWriter pickle;
    pickle.op("\x80\x02}(").text("milestones").op("ccollections\nCounter\n}").integer(9);
    pickle.integer(1).op("s\x85R").text("w").tensor("0", 1, 0, {}, {}).op("u.");
    const Pickle read = unpickled(pickle.str());
    REQUIRE(read.tensors.size() == 1);
    REQUIRE(read.tensors[0].name == "w");
    REQUIRE_THAT(refused("ccollections\nCounter\n)R."), ContainsSubstring("without its counts"));
}

TEST_CASE("protocol 4 and values that are used again are read") {
    PickleWriter pickle;
    pickle.op("\x80\x04\x95").number(std::uint64_t{1}).op("}\x94(").text("a").op("\x94");
    pickle.text("torch._utils").text("_rebuild_parameter").op("\x93(");
    pickle.tensor("0", 2, 0, {2}, {1}).op("q\x09\x88}tR");
    pickle.text("b").op("h\x09u.");
    const Pickle read = unpickled(pickle.str());
    REQUIRE(read.tensors.size() == 2);
    REQUIRE(read.tensors[1].name == "b");
    REQUIRE(read.tensors[1].storage == "0");
}

TEST_CASE("whatever could run something is refused by its name") {
    using namespace std::string_literals;
    REQUIRE_THAT(refused("\x80\x02"s
                         "cos\nsystem\n(X\x04\x00\x00\x00true\x85R."s),
                 ContainsSubstring("\"os.system\", which is more than plain tensors"));
    REQUIRE_THAT(refused("\x80\x02"s
                         "c__main__\nCA\n)\x81."s),
                 ContainsSubstring("__main__.CA"));
    REQUIRE_THAT(refused("\x80\x04\x8c\x08"s
                         "builtins\x8c\x04"s
                         "eval\x93."s),
                 ContainsSubstring("builtins.eval"));
    REQUIRE_THAT(refused("cnumpy.core.multiarray\nscalar\n."s),
                 ContainsSubstring("numpy.core.multiarray.scalar"));
    for (const auto& [opcode, name] :
         {std::pair("i"s, "INST"), std::pair("o"s, "OBJ"), std::pair("\x81"s, "NEWOBJ"),
          std::pair("\x92"s, "NEWOBJ_EX"), std::pair("\x82"s, "EXT1"), std::pair("P"s, "PERSID")}) {
        REQUIRE_THAT(refused("\x80\x02)" + opcode + "."),
                     ContainsSubstring("has the opcode "s + name + ","));
    }
    REQUIRE_THAT(refused("\x80\x02\xfe."s), ContainsSubstring("has the byte 0xfe"));
    // A storage or a function where a tensor's maker is expected is not called.
    REQUIRE_THAT(refused("ctorch\nFloatStorage\n)R."s), ContainsSubstring("damaged"));
    REQUIRE_THAT(refused("X\x01\x00\x00\x00"s
                         "a)R."s),
                 ContainsSubstring("damaged"));
}

TEST_CASE("a damaged pickle is one message and no crash") {
    using namespace std::string_literals;
    const std::string good = pickle_of(two_tensors());
    REQUIRE(unpickled(good).tensors.size() == 2);
    for (std::size_t size = 0; size < good.size(); ++size) {
        CAPTURE(size);
        REQUIRE_FALSE(refused(good.substr(0, size)).empty());
    }
    for (const std::string& pickle :
         {"."s, "0."s, "u."s, "}s."s, "]a."s, "}(Nu."s, "h\x01."s, "t."s, "\x85."s, "Q."s, "R."s,
          "b."s, "(Ns."s, "N)R."s, "\x80\x06N."s, "\x8a\xff."s, "X\xff\xff\xff\xff."s}) {
        CAPTURE(pickle);
        REQUIRE_FALSE(refused(pickle).empty());
    }
    REQUIRE_THAT(refused(PickleWriter().tensor("0", 1, 0, {1}, {1}).op(".").str()),
                 ContainsSubstring("is one tensor"));
    REQUIRE_THAT(refused(PickleWriter().op("](").tensor("0", 1, 0, {1}, {1}).op("e.").str()),
                 ContainsSubstring("is a list or a tuple, expected a dictionary"));
    const auto tensor = [&](std::int64_t size, std::int64_t offset, const Shape& shape,
                            const Shape& strides) {
        return refused(with_tensor(PickleWriter().tensor("0", size, offset, shape, strides)));
    };
    REQUIRE(tensor(6, 0, {2, 3}, {3, 1}).empty());
    REQUIRE(tensor(6, 9, {0, 3}, {3, 1}).empty());
    REQUIRE_THAT(tensor(5, 0, {2, 3}, {3, 1}), ContainsSubstring("past its storage"));
    REQUIRE_THAT(tensor(6, 1, {2, 3}, {3, 1}), ContainsSubstring("past its storage"));
    REQUIRE_THAT(tensor(6, -1, {1}, {1}), ContainsSubstring("past its storage"));
    REQUIRE_THAT(tensor(6, 0, {2, 3}, {-3, 1}), ContainsSubstring("below 0"));
    REQUIRE_THAT(tensor(6, 0, {-2, 3}, {3, 1}), ContainsSubstring("below 0"));
    REQUIRE_THAT(tensor(6, 0, {2, 3}, {3}), ContainsSubstring("lacks strides"));
    REQUIRE_THAT(tensor(-6, 0, {1}, {1}), ContainsSubstring("impossible size"));
    const std::int64_t large = std::numeric_limits<std::int32_t>::max();
    REQUIRE_THAT(tensor(6, 0, Shape(8, large), Shape(8, large)), ContainsSubstring("past its"));
    // So many values that their bytes pass 2^64.
    PickleWriter huge;
    huge.op("}").text("t").op("ctorch._utils\n_rebuild_tensor_v2\n((").text("storage");
    huge.op("ctorch\nFloatStorage\n").text("0").text("cpu").op("\x8a\x08");
    huge.number(std::int64_t{1} << 62).op("tQ\x8a\x08").number((std::int64_t{1} << 62) - 1);
    huge.tuple({1}).tuple({1}).op("\x89NtRs.");
    REQUIRE_THAT(refused(huge.str()), ContainsSubstring("impossible size"));
    REQUIRE_THAT(tensor(6, 0, Shape(17, 1), Shape(17, 1)), ContainsSubstring("too many sides"));
}

TEST_CASE("a pickle that holds itself, or many values, ends soon") {
    using namespace std::string_literals;
    REQUIRE_THAT(refused("}q\x01X\x01\x00\x00\x00"s
                         "ah\x01s."s),
                 ContainsSubstring("nested deeper"));
    std::string layers = "}q\x01";  // each dictionary has the one before it ten times
    for (int i = 0; i < 7; ++i) {
        layers += "}(";
        for (int j = 0; j < 10; ++j) layers += "K"s + char('0' + j) + "h\x01";
        layers += "uq\x01";
    }
    REQUIRE_THAT(refused(layers + "."), ContainsSubstring("more than 100000 entries"));
    REQUIRE_THAT(refused(std::string(1'100'000, 'N') + "."),
                 ContainsSubstring("more than 1000000 values"));
    REQUIRE_THAT(refused("N" + std::string(1'100'000, '\x94') + "."),
                 ContainsSubstring("more than 1000000 values"));
    REQUIRE_THAT(refused(std::string(1'100'000, '(') + "."),
                 ContainsSubstring("more than 1000000 values"));
    // A long text that is used for many keys, and keys that are neither texts nor numbers.
    PickleWriter keys;
    keys.op("}(").text(std::string(3'000'000, 'x')).op("q\x01");
    keys.tensor("0", 1, 0, {1}, {1}).op("q\x02");
    for (int i = 0; i < 50'000; ++i) keys.op("h\x01h\x02");
    test::require_cheap(50e6, [&] { REQUIRE(unpickled(keys.op("u.").str()).tensors.empty()); });
    REQUIRE(unpickled("}(G" + std::string(8, '\0') + "Nu.").tensors.empty());
}

TEST_CASE("a damaged archive, and one of another kind, is named") {
    const auto refused_file = [](std::span<const std::uint8_t> bytes) {
        return message_of<FormatError>([&] {
            for (const ForeignTensor& tensor : open_pytorch_file(bytes, "m.pth")) tensor.read();
        });
    };
    const auto bytes = pytorch_file(two_tensors());
    for (std::size_t size = 0; size < bytes.size(); size += 7) {
        CAPTURE(size);
        REQUIRE_THAT(refused_file(std::span(bytes).first(size)), ContainsSubstring("m.pth"));
    }
    auto changed = bytes;  // a value: the archive's checksum says so
    const auto value =
        std::ranges::search(changed, bytes_of_text(bytes_of(two_tensors()[0].values)));
    value.front() ^= 1;
    REQUIRE_THAT(refused_file(changed), ContainsSubstring("damaged"));

    const auto with = [&](const std::string& name, const std::string& contents) {
        Entries entries = pytorch_entries(two_tensors());
        for (auto& entry : entries) {
            if (entry.first == name) entry.second = contents;
        }
        return refused_file(zip_of(entries));
    };
    REQUIRE_THAT(with("m/data/1", "short"), ContainsSubstring("needs the first 4 values") &&
                                                ContainsSubstring("which has 5 bytes"));
    REQUIRE_THAT(with("m/byteorder", "big"), ContainsSubstring("big-endian"));
    REQUIRE_THAT(refused_file(zip_of({{"w.npy", "x"}})), ContainsSubstring("NumPy arrays (npz)"));
    REQUIRE_THAT(refused_file(zip_of({{"model.weights.h5", "x"}})), ContainsSubstring("Keras"));
    REQUIRE_THAT(refused_file(zip_of({{"a.txt", "x"}})), ContainsSubstring("without the data.pkl"));
    REQUIRE_THAT(refused_file(zip_of({{"m/data.pkl", "x"}, {"m/constants.pkl", "x"}})),
                 ContainsSubstring("TorchScript"));
    REQUIRE_THAT(refused_file(zip_of({{"m/data.pkl", std::string(5 << 20, 'N')}})),
                 ContainsSubstring("expected at most"));
}
