// SPDX-License-Identifier: MIT
#include "host/import/pickle.hpp"

#include "host/core/throw_error.hpp"
#include "host/files/json_fields.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <utility>

namespace nca {
namespace {

constexpr auto advice =
    "save the tensors alone, with torch.save(module.state_dict(), FILE) or safetensors";

// A value that the pickle makes. Values are numbered, and refer to each other by these numbers,
// because a pickle may make circles.
using Id = std::size_t;
struct Value {
    enum class Kind {
        none,
        integer,     // booleans too
        text,        // a text
        list,        // tuples too
        dictionary,  // items are keys and values in turn
        global,      // text: "module name"
        storage,     // text: its key; number: its size
        tensor,      // number: its place among the tensors
        other,       // what has no meaning here, such as a float
    };
    Kind kind = Kind::other;
    std::int64_t number = 0;
    std::string text;
    std::vector<Id> items;
    NumberType type = NumberType::other;  // of a storage
};
using Kind = Value::Kind;

struct StorageType {
    const char* name;
    std::size_t value_bytes;
    NumberType type;
};
constexpr StorageType storage_types[] = {{"torch FloatStorage", 4, NumberType::float32},
                                         {"torch HalfStorage", 2, NumberType::float16},
                                         {"torch DoubleStorage", 8, NumberType::float64},
                                         {"torch BFloat16Storage", 2, NumberType::bfloat16},
                                         {"torch LongStorage", 8, NumberType::other},
                                         {"torch IntStorage", 4, NumberType::other},
                                         {"torch ShortStorage", 2, NumberType::other},
                                         {"torch CharStorage", 1, NumberType::other},
                                         {"torch ByteStorage", 1, NumberType::other},
                                         {"torch BoolStorage", 1, NumberType::other}};

// What REDUCE may call.
constexpr auto ordered_dictionary = "collections OrderedDict";
constexpr auto counter = "collections Counter";  // schedulers of PyTorch have one
constexpr auto rebuild_tensor = "torch._utils _rebuild_tensor_v2";
constexpr auto rebuild_parameter = "torch._utils _rebuild_parameter";
constexpr const char* known_calls[] = {ordered_dictionary, counter, rebuild_tensor,
                                       rebuild_parameter};

// The names of opcodes that are refused, as Python's pickletools has them.
constexpr std::pair<std::uint8_t, const char*> refused_opcodes[] = {
    {'P', "PERSID"},      {'i', "INST"},         {'o', "OBJ"},
    {0x81, "NEWOBJ"},     {0x92, "NEWOBJ_EX"},   {0x82, "EXT1"},
    {0x83, "EXT2"},       {0x84, "EXT4"},        {'I', "INT"},
    {'L', "LONG"},        {'F', "FLOAT"},        {'S', "STRING"},
    {'V', "UNICODE"},     {'p', "PUT"},          {'g', "GET"},
    {0x96, "BYTEARRAY8"}, {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"},
    {0x90, "ADDITEMS"},   {0x91, "FROZENSET"},   {0x8b, "LONG4"},
    {'1', "POP_MARK"},    {'2', "DUP"}};

class PickleReader {
public:
    PickleReader(std::span<const std::uint8_t>& bytes, const std::string& file)
        : rest_(bytes), file_(file) {}

    Pickle read();

private:
    template <class... Values>
    [[noreturn]] void refuse(fmt::format_string<Values...> why, Values&&... values) const {
        throw_error<FormatError>("{}: its pickle {}", file_,
                                 fmt::format(why, std::forward<Values>(values)...));
    }
    [[noreturn]] void refuse_damaged(const char* what) const {
        refuse("is damaged: {}; copy or download it again", what);
    }

    void run(std::uint8_t opcode);
    void collect(Id dictionary, const std::string& prefix, int depth);

    std::span<const std::uint8_t> take(std::size_t size);
    template <class Number>
    Number number();
    std::string text(std::size_t size);
    std::string line();

    Id make(Value value);
    Id make(Kind kind, std::vector<Id> items = {}) {
        return make(Value{.kind = kind, .text = {}, .items = std::move(items)});
    }
    Id make_integer(std::int64_t value) {
        return make(Value{.kind = Kind::integer, .number = value, .text = {}, .items = {}});
    }
    // A long text is no name; it may be used again and again, each time copied.
    Id make_text(std::string value) {
        constexpr std::size_t longest_name = 1000;
        if (value.size() > longest_name) return make(Kind::other);
        return make(Value{.kind = Kind::text, .text = std::move(value), .items = {}});
    }
    void push(Id id) {
        require_fewer_than_most(stack_.size());
        stack_.push_back(id);
    }
    // What a pickle of tensors has is far less.
    void require_fewer_than_most(std::size_t count) const {
        constexpr std::size_t most = 1'000'000;
        if (count >= most) refuse("has more than {} values; {}", most, advice);
    }
    Id pop();
    Id top() const;
    std::vector<Id> pop_to_mark();
    std::vector<Id> pop_several(std::size_t count);
    void remember(std::size_t place);
    Id remembered(std::size_t place) const;

    Id global(const std::string& module, const std::string& name);
    Id call(const Value& function, const std::vector<Id>& arguments);
    Id storage(const Value& id);
    Id tensor(const std::vector<Id>& arguments);
    void add_to(Id container, Kind kind, const std::vector<Id>& items);
    std::vector<std::int64_t> sides(Id list) const;

    const Value& at(Id id) const { return values_[id]; }
    const Value& require(Id id, Kind kind, const char* what) const {
        if (at(id).kind != kind) refuse_damaged(what);
        return at(id);
    }

    std::span<const std::uint8_t>& rest_;
    const std::string& file_;
    std::vector<Value> values_;
    std::vector<Id> stack_;
    std::vector<std::size_t> marks_;  // sizes of the stack
    std::map<std::size_t, Id> memo_;
    std::vector<PickledTensor> tensors_;
    Pickle pickle_;
    std::size_t items_ = 0;    // that were taken up to a mark
    std::size_t entries_ = 0;  // of dictionaries, that were looked at
};

Pickle PickleReader::read() {
    constexpr std::uint8_t stop = '.';
    for (;;) {
        const std::uint8_t opcode = take(1)[0];
        if (opcode == stop) break;
        run(opcode);
    }
    const Id root = pop();
    switch (at(root).kind) {
        case Kind::dictionary:
            collect(root, "", 0);
            break;
        case Kind::list:
            if (!tensors_.empty()) {
                refuse(
                    "is a list or a tuple, expected a dictionary with a name for each tensor; {}",
                    advice);
            }
            for (const Id item : at(root).items) {
                if (at(item).kind == Kind::text) pickle_.texts.push_back(at(item).text);
            }
            break;
        case Kind::tensor:
            refuse("is one tensor, expected a dictionary; {}", advice);
        default:
            break;
    }
    return std::move(pickle_);
}

void PickleReader::run(std::uint8_t opcode) {
    switch (opcode) {
        case 0x80: {  // PROTO
            const unsigned protocol = take(1)[0];
            if (protocol > 5) refuse("is of protocol {}, expected at most 5", protocol);
            return;
        }
        case 0x95:  // FRAME
            take(8);
            return;
        case '(':  // MARK
            require_fewer_than_most(marks_.size());
            marks_.push_back(stack_.size());
            return;
        case '0':  // POP
            pop();
            return;
        case 'N':  // NONE
            return push(make(Kind::none));
        case 0x88:  // NEWTRUE
            return push(make_integer(1));
        case 0x89:  // NEWFALSE
            return push(make_integer(0));
        case 'J':  // BININT
            return push(make_integer(number<std::int32_t>()));
        case 'K':  // BININT1
            return push(make_integer(number<std::uint8_t>()));
        case 'M':  // BININT2
            return push(make_integer(number<std::uint16_t>()));
        case 0x8a: {  // LONG1: little-endian, with a sign
            const auto bytes = take(number<std::uint8_t>());
            if (bytes.size() > sizeof(std::int64_t)) return push(make(Kind::other));
            std::uint64_t value = !bytes.empty() && bytes.back() >= 0x80 ? ~std::uint64_t{0} : 0;
            std::memcpy(&value, bytes.data(), bytes.size());
            return push(make_integer(std::int64_t(value)));
        }
        case 'G':  // BINFLOAT
            take(8);
            return push(make(Kind::other));
        case 'X':  // BINUNICODE
            return push(make_text(text(number<std::uint32_t>())));
        case 0x8c:  // SHORT_BINUNICODE
        case 'U':   // SHORT_BINSTRING
            return push(make_text(text(number<std::uint8_t>())));
        case 'T':  // BINSTRING
        case 'B':  // BINBYTES
            take(number<std::uint32_t>());
            return push(make(Kind::other));
        case 'C':  // SHORT_BINBYTES
            take(number<std::uint8_t>());
            return push(make(Kind::other));
        case '}':  // EMPTY_DICT
            return push(make(Kind::dictionary));
        case ']':  // EMPTY_LIST
        case ')':  // EMPTY_TUPLE
            return push(make(Kind::list));
        case 0x8f:  // EMPTY_SET
            return push(make(Kind::other));
        case 't':  // TUPLE
        case 'l':  // LIST
            return push(make(Kind::list, pop_to_mark()));
        case 'd':  // DICT
            return push(make(Kind::dictionary, pop_to_mark()));
        case 0x85:  // TUPLE1
        case 0x86:
        case 0x87:  // TUPLE3
            return push(make(Kind::list, pop_several(opcode - 0x84U)));
        case 's': {  // SETITEM
            const std::vector<Id> items = pop_several(2);
            return add_to(top(), Kind::dictionary, items);
        }
        case 'u': {  // SETITEMS
            const std::vector<Id> items = pop_to_mark();
            return add_to(top(), Kind::dictionary, items);
        }
        case 'a': {  // APPEND
            const std::vector<Id> items = pop_several(1);
            return add_to(top(), Kind::list, items);
        }
        case 'e': {  // APPENDS
            const std::vector<Id> items = pop_to_mark();
            return add_to(top(), Kind::list, items);
        }
        case 'q':  // BINPUT
            return remember(number<std::uint8_t>());
        case 'r':  // LONG_BINPUT
            return remember(number<std::uint32_t>());
        case 0x94:  // MEMOIZE
            return remember(memo_.size());
        case 'h':  // BINGET
            return push(remembered(number<std::uint8_t>()));
        case 'j':  // LONG_BINGET
            return push(remembered(number<std::uint32_t>()));
        case 'c': {  // GLOBAL
            const std::string module = line();
            return push(global(module, line()));
        }
        case 0x93: {  // STACK_GLOBAL
            const std::string name = require(pop(), Kind::text, "a name is no text").text;
            const std::string module = require(pop(), Kind::text, "a module is no text").text;
            return push(global(module, name));
        }
        case 'Q': {  // BINPERSID
            const Id id = pop();
            return push(storage(require(id, Kind::list, "a storage is no tuple")));
        }
        case 'R': {  // REDUCE
            const Id arguments = pop();
            require(arguments, Kind::list, "the arguments of a call are no tuple");
            const Id function = pop();
            require(function, Kind::global, "what is called is no function");
            return push(call(at(function), at(arguments).items));
        }
        case 'b':  // BUILD: the attributes of an OrderedDict, which have no meaning here
            pop();
            require(top(), Kind::dictionary, "attributes of what has none");
            return;
        default:
            break;
    }
    const auto known =
        std::ranges::find(refused_opcodes, opcode, [](const auto& entry) { return entry.first; });
    if (known == std::end(refused_opcodes)) {
        refuse("has the byte {:#04x} in place of an opcode; the file is damaged", opcode);
    }
    refuse("has the opcode {}, which plain tensors do not need; {}", known->second, advice);
}

// Names the tensors of the dictionary and of those in it.
void PickleReader::collect(Id dictionary, const std::string& prefix, int depth) {
    constexpr int deepest = 8;
    constexpr std::size_t most_entries = 100'000;  // a dictionary may be in several others
    if (depth > deepest) refuse("is nested deeper than {} levels; {}", deepest, advice);
    const std::vector<Id> items = at(dictionary).items;
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
        if (++entries_ > most_entries) refuse("has more than {} entries; {}", most_entries, advice);
        const Value& key = at(items[i]);
        const Value& value = at(items[i + 1]);
        if (key.kind != Kind::text && key.kind != Kind::integer) continue;
        const std::string name =
            prefix + (key.kind == Kind::integer ? std::to_string(key.number) : key.text);
        if (value.kind == Kind::dictionary) collect(items[i + 1], name + ".", depth + 1);
        if (value.kind != Kind::tensor) continue;
        pickle_.tensors.push_back(tensors_[std::size_t(value.number)]);
        pickle_.tensors.back().name = name;
    }
}

std::span<const std::uint8_t> PickleReader::take(std::size_t size) {
    if (size > rest_.size()) refuse_damaged("it ends too early");
    const auto bytes = rest_.first(size);
    rest_ = rest_.subspan(size);
    return bytes;
}

template <class Number>
Number PickleReader::number() {
    static_assert(std::endian::native == std::endian::little);
    Number value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
}

std::string PickleReader::text(std::size_t size) {
    const auto bytes = take(size);
    return {bytes.begin(), bytes.end()};
}

std::string PickleReader::line() {
    const auto end = std::ranges::find(rest_, std::uint8_t('\n'));
    if (end == rest_.end()) refuse_damaged("it ends too early");
    std::string text(rest_.begin(), end);
    take(text.size() + 1);
    return text;
}

Id PickleReader::make(Value value) {
    require_fewer_than_most(values_.size());
    values_.push_back(std::move(value));
    return values_.size() - 1;
}

Id PickleReader::pop() {
    const Id id = top();
    stack_.pop_back();
    return id;
}

Id PickleReader::top() const {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) refuse_damaged("a value is missing");
    return stack_.back();
}

std::vector<Id> PickleReader::pop_to_mark() {
    if (marks_.empty()) refuse_damaged("a mark is missing");
    const auto first = stack_.begin() + std::ptrdiff_t(marks_.back());
    std::vector<Id> items(first, stack_.end());
    items_ += items.size();
    require_fewer_than_most(items_);
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return items;
}

std::vector<Id> PickleReader::pop_several(std::size_t count) {
    std::vector<Id> items(count);
    for (std::size_t i = count; i-- > 0;) items[i] = pop();
    return items;
}

void PickleReader::remember(std::size_t place) {
    require_fewer_than_most(memo_.size());
    memo_[place] = top();
}

Id PickleReader::remembered(std::size_t place) const {
    const auto found = memo_.find(place);
    if (found == memo_.end()) refuse_damaged("it uses a value that it has not made");
    return found->second;
}

Id PickleReader::global(const std::string& module, const std::string& name) {
    const std::string text = module + " " + name;
    const bool known =
        std::ranges::find(known_calls, text) != std::end(known_calls) ||
        std::ranges::find(storage_types, text, &StorageType::name) != std::end(storage_types);
    if (!known) {
        refuse("needs {}, which is more than plain tensors; {}", printable(module + "." + name),
               advice);
    }
    return make(Value{.kind = Kind::global, .text = text, .items = {}});
}

Id PickleReader::call(const Value& function, const std::vector<Id>& arguments) {
    if (function.text == ordered_dictionary) {
        if (!arguments.empty()) refuse_damaged("an OrderedDict with arguments");
        return make(Kind::dictionary);
    }
    if (function.text == counter) {
        if (arguments.size() != 1) refuse_damaged("a Counter without its counts");
        require(arguments[0], Kind::dictionary, "a Counter without its counts");
        return arguments[0];
    }
    if (function.text == rebuild_tensor) return tensor(arguments);
    if (function.text == rebuild_parameter) {
        if (arguments.empty()) refuse_damaged("a parameter without a tensor");
        require(arguments[0], Kind::tensor, "a parameter of no tensor");
        return arguments[0];
    }
    refuse_damaged("what is called is no function");
}

// ("storage", type, key, device, size), and None in files of old versions
Id PickleReader::storage(const Value& id) {
    const auto& items = id.items;
    if (items.size() == 6 && at(items[5]).kind != Kind::none) {
        refuse("has a storage that is a view of another, as before PyTorch 0.4; {}", advice);
    }
    if (items.size() != 5 && items.size() != 6) refuse_damaged("a storage has not five fields");
    const auto type = std::ranges::find(
        storage_types, require(items[1], Kind::global, "a storage has no type").text,
        &StorageType::name);
    if (type == std::end(storage_types)) refuse_damaged("a storage has no type");
    const std::int64_t size = require(items[4], Kind::integer, "a storage has no size").number;
    constexpr std::int64_t largest = std::int64_t{1} << 40;
    if (size < 0 || size > largest) refuse_damaged("a storage has an impossible size");
    const std::string key = require(items[2], Kind::text, "a storage has no key").text;
    const PickledStorage storage = {std::uint64_t(size), type->value_bytes};
    if (pickle_.storages.try_emplace(key, storage).first->second != storage) {
        refuse_damaged("a storage has two sizes");
    }
    return make(
        Value{.kind = Kind::storage, .number = size, .text = key, .items = {}, .type = type->type});
}

// (storage, offset, shape, strides, ...)
Id PickleReader::tensor(const std::vector<Id>& arguments) {
    if (arguments.size() < 4) refuse_damaged("a tensor has not four fields");
    const Value& of = require(arguments[0], Kind::storage, "a tensor has no storage");
    const std::int64_t offset =
        require(arguments[1], Kind::integer, "a tensor has no offset").number;
    PickledTensor tensor{.name = {},
                         .storage = of.text,
                         .type = of.type,
                         .offset = std::uint64_t(offset),
                         .shape = sides(arguments[2]),
                         .strides = sides(arguments[3])};
    if (tensor.shape.size() != tensor.strides.size()) refuse_damaged("a tensor lacks strides");
    // The last value has to be in the storage.
    bool empty = false;
    std::int64_t last = offset;
    bool fits = offset >= 0;
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
        std::int64_t distance = 0;
        empty |= tensor.shape[i] == 0;
        fits = fits && !__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &distance) &&
               !__builtin_add_overflow(last, distance, &last);
    }
    if (!empty && (!fits || last >= of.number)) refuse_damaged("a tensor reaches past its storage");
    tensors_.push_back(std::move(tensor));
    return make(Value{.kind = Kind::tensor,
                      .number = std::int64_t(tensors_.size()) - 1,
                      .text = {},
                      .items = {}});
}

void PickleReader::add_to(Id container, Kind kind, const std::vector<Id>& items) {
    if (at(container).kind != kind) refuse_damaged("items for what has none");
    if (kind == Kind::dictionary && items.size() % 2 != 0) refuse_damaged("a key without a value");
    auto& all = values_[container].items;
    all.insert(all.end(), items.begin(), items.end());
}

std::vector<std::int64_t> PickleReader::sides(Id list) const {
    constexpr std::size_t most = 16;
    const Value& value = require(list, Kind::list, "a tensor has no shape");
    if (value.items.size() > most) refuse_damaged("a tensor has too many sides");
    std::vector<std::int64_t> sides;
    for (const Id item : value.items) {
        sides.push_back(require(item, Kind::integer, "a side is no number").number);
        if (sides.back() < 0) refuse_damaged("a side is below 0");
    }
    return sides;
}

}  // namespace

Pickle read_pickle(std::span<const std::uint8_t>& bytes, const std::string& file) {
    return PickleReader(bytes, file).read();
}

}  // namespace nca
