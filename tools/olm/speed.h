#pragma once
// How fast a rank is: of cards by what their maker says, of this machine by what is measured.
#include <string>
#include <vector>

#include <olm/engine/comm.h>
#include <olm/engine/device.h>
#include <olm/nn/module.h>

namespace olm::tools {

/// A GPU as its maker describes it.
struct Card {
  const char* name;
  double bf16, f32;       ///< TFLOP/s of matrices, dense; f32 without TF32
  double memory;          ///< GB
  double memory_rate;     ///< GB/s
  double neighbour_rate;  ///< GB/s that it sends to those of its machine
  int64_t per_machine;    ///< in a usual machine
};
/// Throws listing the known names.
const Card& find_card(const std::string& name);
std::string card_names();

/// A matrix that multiplies rows of activations.
struct MatrixShape {
  int64_t rows = 0, columns = 0;
};
/// Of a model's matrices the shape in which most of the operations are.
MatrixShape usual_matrix(nn::Module& model);

/// FLOP/s of products of [rows, k] with such a matrix, in about a third of a second.
double measure_matrix_rate(Device device, DType dtype, int64_t rows, MatrixShape matrix);
/// Bytes per second that a pass over large arrays reads and writes.
double measure_memory_rate(Device device);
/// Bytes per second that each rank sends while all send to all. Collective.
double measure_link(const dist::Comm& comm, Device device);
/// Bytes of memory that a rank on this machine may use, where `ranks` share it.
double memory_of(Device device, int64_t ranks);

}  // namespace olm::tools
