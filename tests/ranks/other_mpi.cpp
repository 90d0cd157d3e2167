// A library of the name of MPI that is not the one wanted, whatever it calls itself.
#include <cstdlib>
#include <cstring>

extern "C" __attribute__((visibility("default"))) int MPI_Get_library_version(char* version,
                                                                              int* length) {
  const char* text = std::getenv("OLM_OTHER_MPI_VERSION");
  std::strcpy(version, text ? text : "");
  *length = int(std::strlen(version));
  return 0;
}
