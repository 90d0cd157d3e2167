#pragma once
// All of libolm.
#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/engine/tensor.h>
#include <olm/nn/version.h>
