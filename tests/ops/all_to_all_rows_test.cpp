#include <doctest/doctest.h>

#include <tests/support/cases/all_to_all_rows.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/all_to_all_rows", all_to_all_rows_case())
