#pragma once
// What the emulator's tests share.
#include <cuda_runtime.h>

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

#include <tests/cuda_emulator/emulator.h>

namespace olm::cuda_emulator::test {

/// The emulator in a mode, without earlier reports, for one test.
class Mode {
 public:
  explicit Mode(const std::string& words = "") : before_(configuration()) {
    configure(words);
    reset();
    clear_statistics();
  }
  ~Mode() {
    configure(before_);
    reset();
  }

 private:
  std::string before_;
};

/// Device memory with the values of the host's.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n) : size_(n) { REQUIRE(cudaMalloc(&data_, n * sizeof(T)) == 0); }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    REQUIRE(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice) == 0);
  }
  ~DeviceArray() {
    if (cudaFree(data_) != cudaSuccess) {  // after a failure that was asked for
      reset();
      cudaFree(data_);
    }
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  operator T*() const { return data_; }
  /// What it holds when all work is done, even where a kernel has shown a defect.
  std::vector<T> values() const {
    std::vector<T> all(size_);
    if (cudaMemcpy(all.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost) != cudaSuccess)
      all.clear();
    return all;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

template <class T = float>
std::vector<T> random_values(size_t n, unsigned seed = 1) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> values(-1, 1);
  std::vector<T> all(n);
  for (T& v : all) v = T(values(generator));
  return all;
}

/// The sentences of all reports.
inline std::string report_text() {
  std::string text;
  for (const Report& report : reports()) text += report.sentence + "\n";
  return text;
}
inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Runs f in a child process: how it ended, and what it wrote.
struct Ending {
  int signal = 0, status = 0;
  std::string output;
};
Ending run_in_child(void (*f)());

}  // namespace olm::cuda_emulator::test
