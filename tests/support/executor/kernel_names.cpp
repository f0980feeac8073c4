// SPDX-License-Identifier: MIT
#include "tests/support/executor/executor.hpp"

#include <cxxabi.h>
#include <elf.h>
#include <sys/auxv.h>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

namespace nca::executor {
namespace {

// The symbols of this program's functions by their addresses, those with internal linkage too.
std::map<std::uintptr_t, std::string> read_functions() {
    std::ifstream file("/proc/self/exe", std::ios::binary);
    const std::vector<char> program{std::istreambuf_iterator<char>(file), {}};
    const auto at = [&]<class T>(std::size_t offset, std::size_t count) {
        return std::span(reinterpret_cast<const T*>(program.data() + offset), count);
    };
    const Elf64_Ehdr& header = at.operator()<Elf64_Ehdr>(0, 1)[0];
    const auto sections = at.operator()<Elf64_Shdr>(header.e_shoff, header.e_shnum);
    const std::uintptr_t loaded_at = getauxval(AT_ENTRY) - header.e_entry;
    std::map<std::uintptr_t, std::string> functions;
    for (const Elf64_Shdr& section : sections) {
        if (section.sh_type != SHT_SYMTAB) continue;
        const char* const names = program.data() + sections[section.sh_link].sh_offset;
        const std::size_t count = section.sh_size / sizeof(Elf64_Sym);
        for (const Elf64_Sym& symbol : at.operator()<Elf64_Sym>(section.sh_offset, count)) {
            if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC) continue;
            functions.emplace(loaded_at + symbol.st_value, names + symbol.st_name);
        }
    }
    return functions;
}

// "void nca::(anonymous namespace)::some_kernel<1, 2>(float*)" becomes "some_kernel".
std::string short_name(const std::string& function) {
    std::string name;
    int depth = 0;
    for (const char c : function) {
        if (c == '<' || c == '(') ++depth;
        if (depth == 0) name += c;
        if (c == '>' || c == ')') --depth;
    }
    return name.substr(name.find_last_of(" :") + 1);
}

}  // namespace

std::string name_of_kernel(const void* kernel) {
    static const std::map<std::uintptr_t, std::string> functions = read_functions();
    const auto found = functions.find(reinterpret_cast<std::uintptr_t>(kernel));
    if (found == functions.end()) {
        throw std::logic_error("a kernel without a name: the program has no symbol table");
    }
    const std::string symbol = found->second.substr(0, found->second.find('.'));
    const std::unique_ptr<char, decltype(&std::free)> function(
        abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, nullptr), std::free);
    return function ? short_name(function.get()) : symbol;
}

}  // namespace nca::executor
