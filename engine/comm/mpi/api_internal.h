#pragma once
// Open MPI, loaded when it is needed: its header gives types and constants, and the library is
// opened at run time, so that a program starts where there is none.
#include <string>

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

namespace olm::dist::detail {

/// The functions of libmpi that are called, by their names without MPI_, and its objects.
struct Mpi {
  decltype(&MPI_Get_library_version) Get_library_version = nullptr;
  decltype(&MPI_Initialized) Initialized = nullptr;
  decltype(&MPI_Finalized) Finalized = nullptr;
  decltype(&MPI_Init_thread) Init_thread = nullptr;
  decltype(&MPI_Query_thread) Query_thread = nullptr;
  decltype(&MPI_Finalize) Finalize = nullptr;
  decltype(&MPI_Comm_rank) Comm_rank = nullptr;
  decltype(&MPI_Comm_size) Comm_size = nullptr;
  decltype(&MPI_Comm_idup) Comm_idup = nullptr;
  decltype(&MPI_Comm_get_attr) Comm_get_attr = nullptr;
  decltype(&MPI_Comm_create_keyval) Comm_create_keyval = nullptr;
  decltype(&MPI_Comm_set_attr) Comm_set_attr = nullptr;
  decltype(&MPI_Comm_set_errhandler) Comm_set_errhandler = nullptr;
  decltype(&MPI_Isend) Isend = nullptr;
  decltype(&MPI_Irecv) Irecv = nullptr;
  decltype(&MPI_Iallreduce) Iallreduce = nullptr;
  decltype(&MPI_Test) Test = nullptr;
  decltype(&MPI_Testsome) Testsome = nullptr;
  decltype(&MPI_Get_count) Get_count = nullptr;
  decltype(&MPI_Cancel) Cancel = nullptr;
  decltype(&MPI_Error_string) Error_string = nullptr;
  MPI_Comm world = nullptr, self = nullptr;
  MPI_Request request_null = nullptr;
  MPI_Datatype byte = nullptr, float32 = nullptr, float64 = nullptr, int32 = nullptr,
               int64 = nullptr;
  MPI_Op sum = nullptr;
  MPI_Errhandler errors_return = nullptr;
  std::string version;  ///< "Open MPI 4.1.4"
  std::string file;     ///< where it was found

  /// What an error code means.
  std::string text_of(int error) const;
  /// Throws CommError unless `error` is none; `what` failed.
  void check(int error, const char* what) const;
};

/// The library that the process has already, or the one that the environment's OLM_MPI_LIBRARY
/// names, or Open MPI's. Throws CommError where there is none or it is another than this library
/// was built for.
const Mpi& mpi();
/// True where the program itself was linked with some MPI.
bool has_mpi();

}  // namespace olm::dist::detail
