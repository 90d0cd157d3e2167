#pragma once
// What OLM_CUDA_EMULATOR asks for; the words are explained in emulator.h.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace olm::cuda_emulator {

struct Options {
  std::string words;  ///< that ask for the rest
  bool eager = false;
  uint64_t seed = 0;  ///< 0: everything runs in order
  int devices = 1;
  size_t memory = size_t(2048) << 20;  ///< bytes of each device
  bool no_driver = false, no_card = false, old_card = false;
  int64_t fail_launch = 0;  ///< counts down to the launch that fails; 0: none
  int64_t lost = -1;        ///< calls that are left; negative: any number
};

/// Throws std::invalid_argument that names the word and those there are.
Options parse_options(std::string_view words);

/// The options in force, at first those of the environment.
Options& options();
/// Puts others in force; the sequence of draw() begins anew.
void set_options(const Options& all);
/// What is wrong with the environment's words; empty where nothing is.
const std::string& options_problem();

/// Uniform in [0, n), from the seed.
uint64_t draw(uint64_t n);

}  // namespace olm::cuda_emulator
