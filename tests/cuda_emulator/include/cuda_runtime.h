#pragma once
// The CUDA emulator's stand-in for the toolkit's header of this name: the names that libolm's CUDA
// code uses, with NVIDIA's meaning, for the host compiler. Its folder comes first in the include
// path; kernels and host code are compiled as they are.
#include <cuda_emulator/atomics.h>
#include <cuda_emulator/device_functions.h>
#include <cuda_emulator/launch.h>
#include <cuda_emulator/runtime_api.h>
#include <cuda_emulator/vector_types.h>
