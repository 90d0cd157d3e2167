#include <olm/engine/comm/mpi/api_internal.h>

#include <dlfcn.h>

#include <cstdlib>

#include <olm/engine/comm.h>

static_assert(OMPI_MAJOR_VERSION == 4 || OMPI_MAJOR_VERSION == 5,
              "libolm knows the binary interface of Open MPI 4 and 5");

namespace olm::dist::detail {
namespace {

/// The name of that interface.
constexpr const char* kLibrary = "libmpi.so.40";

void* open_library() {
  // What the program was linked with comes first: there is one MPI in a process.
  if (has_mpi()) return dlopen(nullptr, RTLD_NOW);
  const char* named = std::getenv("OLM_MPI_LIBRARY");
  const char* name = named && *named ? named : kLibrary;
  // Its plug-ins look for its symbols among those of the process.
  if (void* library = dlopen(name, RTLD_NOW | RTLD_GLOBAL)) return library;
  const char* why = dlerror();
  throw CommError("MPI: wanted Open MPI's library, which Debian has in libopenmpi3 (openmpi-bin): ",
                  why ? why : name);
}

template <class T>
void find(void* library, const char* name, T& slot) {
  void* found = dlsym(library, name);
  if (!found) throw CommError("MPI: the library has no ", name, ", which Open MPI 4 and 5 have");
  slot = reinterpret_cast<T>(found);
}

void find_functions(void* library, Mpi& m) {
  find(library, "MPI_Initialized", m.Initialized);
  find(library, "MPI_Finalized", m.Finalized);
  find(library, "MPI_Init_thread", m.Init_thread);
  find(library, "MPI_Query_thread", m.Query_thread);
  find(library, "MPI_Finalize", m.Finalize);
  find(library, "MPI_Comm_rank", m.Comm_rank);
  find(library, "MPI_Comm_size", m.Comm_size);
  find(library, "MPI_Comm_idup", m.Comm_idup);
  find(library, "MPI_Comm_get_attr", m.Comm_get_attr);
  find(library, "MPI_Comm_create_keyval", m.Comm_create_keyval);
  find(library, "MPI_Comm_set_attr", m.Comm_set_attr);
  find(library, "MPI_Comm_set_errhandler", m.Comm_set_errhandler);
  find(library, "MPI_Isend", m.Isend);
  find(library, "MPI_Irecv", m.Irecv);
  find(library, "MPI_Iallreduce", m.Iallreduce);
  find(library, "MPI_Test", m.Test);
  find(library, "MPI_Testsome", m.Testsome);
  find(library, "MPI_Get_count", m.Get_count);
  find(library, "MPI_Cancel", m.Cancel);
  find(library, "MPI_Error_string", m.Error_string);
}

/// What MPI_COMM_WORLD and the like are in Open MPI's header: addresses of these.
void find_objects(void* library, Mpi& m) {
  find(library, "ompi_mpi_comm_world", m.world);
  find(library, "ompi_mpi_comm_self", m.self);
  find(library, "ompi_request_null", m.request_null);
  find(library, "ompi_mpi_byte", m.byte);
  find(library, "ompi_mpi_float", m.float32);
  find(library, "ompi_mpi_double", m.float64);
  find(library, "ompi_mpi_int32_t", m.int32);
  find(library, "ompi_mpi_int64_t", m.int64);
  find(library, "ompi_mpi_op_sum", m.sum);
  find(library, "ompi_mpi_errors_return", m.errors_return);
}

/// "Open MPI 4.1.4" of "Open MPI v4.1.4, package: …"; throws for others.
std::string version_of(const Mpi& m) {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  m.Get_library_version(text, &length);
  const std::string all(text, size_t(length > 0 ? length : 0));
  const std::string first = all.substr(0, all.find_first_of(",\n"));
  const bool fits = first.starts_with("Open MPI v4.") || first.starts_with("Open MPI v5.");
  if (!fits) throw CommError("MPI: wanted Open MPI 4 or 5, got ", first, " in ", m.file);
  return "Open MPI " + first.substr(10);
}

Mpi load() {
  Mpi m;
  void* library = open_library();
  find(library, "MPI_Get_library_version", m.Get_library_version);
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(m.Get_library_version), &info) && info.dli_fname)
    m.file = info.dli_fname;
  m.version = version_of(m);
  find_functions(library, m);
  find_objects(library, m);
  return m;
}

}  // namespace

std::string Mpi::text_of(int error) const {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  if (Error_string(error, text, &length) != MPI_SUCCESS) return "error " + std::to_string(error);
  return std::string(text, size_t(length));
}

void Mpi::check(int error, const char* what) const {
  if (error != MPI_SUCCESS) throw CommError(what, ": ", text_of(error));
}

bool has_mpi() { return dlsym(RTLD_DEFAULT, "MPI_Init_thread") != nullptr; }

const Mpi& mpi() {
  // Never destroyed: the communication thread may go on to the end of the process.
  static const Mpi& loaded = *new Mpi(load());
  return loaded;
}

}  // namespace olm::dist::detail
