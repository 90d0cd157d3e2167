#include <olm/nn/version.h>

namespace olm {

const char* version() { return OLM_VERSION; }

}  // namespace olm
