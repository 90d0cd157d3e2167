#include <olm/tools/program.h>

int main(int argc, char** argv) { return olm::tools::run(argc, argv); }
