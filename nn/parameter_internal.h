#pragma once
// What parameters, and leaves that follow them, are made of.
#include <olm/engine/tensor.h>

namespace olm::nn {

/// Puts other memory behind a handle; whoever holds the handle sees it.
inline void reseat(const Tensor& handle, const Tensor& values) {
  TensorImpl& impl = handle.impl();
  impl.storage = values.impl().storage;
  impl.shape = values.shape();
  impl.strides = values.strides();
  impl.offset = values.storage_offset();
  impl.dtype = values.dtype();
}

}  // namespace olm::nn
