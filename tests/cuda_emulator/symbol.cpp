// Names of functions, from the symbol table of the program's file: kernels are local to their
// source, so the dynamic linker does not know them.
#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include <tests/cuda_emulator/report.h>

namespace olm::cuda_emulator {
namespace {

struct Symbol {
  uintptr_t address;
  std::string name;
};

uintptr_t load_address() {
  uintptr_t base = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        *static_cast<uintptr_t*>(out) = info->dlpi_addr;
        return 1;  // the first is the program
      },
      &base);
  return base;
}

std::vector<Symbol> read_symbols() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  std::vector<Symbol> symbols;
  if (bytes.size() < sizeof(ElfW(Ehdr))) return symbols;
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(bytes.data());
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(bytes.data() + header->e_shoff);
  const uintptr_t base = load_address();
  for (int s = 0; s < header->e_shnum; ++s) {
    if (sections[s].sh_type != SHT_SYMTAB) continue;
    const char* names = bytes.data() + sections[sections[s].sh_link].sh_offset;
    const auto* first = reinterpret_cast<const ElfW(Sym)*>(bytes.data() + sections[s].sh_offset);
    for (size_t i = 0; i < sections[s].sh_size / sizeof(ElfW(Sym)); ++i)
      if (ELF64_ST_TYPE(first[i].st_info) == STT_FUNC && first[i].st_value != 0)
        symbols.push_back({base + first[i].st_value, names + first[i].st_name});
  }
  return symbols;
}

/// Without arguments, return type and namespaces: "norm<float>" of "void olm::norm<float>(float*)".
std::string short_name(const std::string& name) {
  int depth = 0;  // of template arguments
  size_t begin = 0;
  std::string plain = name;
  const std::string anonymous = "(anonymous namespace)::";
  for (size_t at; (at = plain.find(anonymous)) != std::string::npos;)
    plain.erase(at, anonymous.size());
  for (size_t i = 0; i < plain.size(); ++i) {
    if (plain[i] == '<') ++depth;
    if (plain[i] == '>') --depth;
    if (depth != 0) continue;
    if (plain[i] == '(') return plain.substr(begin, i - begin);
    if (plain[i] == ' ' || plain[i] == ':') begin = i + 1;
  }
  return plain.substr(begin);
}

}  // namespace

std::string function_name(const void* function) {
  const auto address = reinterpret_cast<uintptr_t>(function);
  static const std::vector<Symbol>& symbols = *new std::vector<Symbol>(read_symbols());
  for (const Symbol& symbol : symbols) {
    if (symbol.address != address) continue;
    int status = 0;
    const std::unique_ptr<char, void (*)(void*)> plain(
        abi::__cxa_demangle(symbol.name.c_str(), nullptr, nullptr, &status), std::free);
    return plain ? short_name(plain.get()) : symbol.name;
  }
  char text[32];
  std::snprintf(text, sizeof(text), "at %p", function);
  return text;
}

}  // namespace olm::cuda_emulator
