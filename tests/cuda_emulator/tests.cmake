# The emulator's own tests, one program for each of its flavours.
set(emulator ${CMAKE_CURRENT_LIST_DIR})
file(GLOB emulator_tests CONFIGURE_DEPENDS ${emulator}/*_test.cpp)
list(APPEND emulator_tests ${emulator}/main.cpp ${emulator}/support.cpp)
set_source_files_properties(${emulator}/kernels.cu PROPERTIES LANGUAGE CXX)
foreach(flavour plain asan race)
  set(suffix "")
  if(NOT flavour STREQUAL "plain")
    set(suffix _${flavour})
  endif()
  set(kernels olm_cuda_emulator_test_kernels${suffix})
  add_library(${kernels} OBJECT ${emulator}/kernels.cu)
  add_executable(olm_cuda_emulator_tests${suffix} ${emulator_tests} $<TARGET_OBJECTS:${kernels}>
    $<TARGET_OBJECTS:olm_cuda_emulator${suffix}>)
  foreach(target ${kernels} olm_cuda_emulator_tests${suffix})
    target_include_directories(${target} BEFORE PRIVATE ${emulator}/include)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}
      $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include/kernels>
      $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include/engine>)
    target_link_libraries(${target} PRIVATE olm_flags)
    target_compile_options(${target} PRIVATE -Wno-unknown-pragmas)
  endforeach()
  target_link_libraries(olm_cuda_emulator_tests${suffix} PRIVATE olm doctest::doctest)
  add_test(NAME cuda_emulator/${flavour} COMMAND olm_cuda_emulator_tests${suffix})
  set_tests_properties(cuda_emulator/${flavour} PROPERTIES TIMEOUT 300)
endforeach()
set(sanitized -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
target_compile_options(olm_cuda_emulator_test_kernels_asan PRIVATE -O1 -g1 ${sanitized})
target_link_options(olm_cuda_emulator_tests_asan PRIVATE -fsanitize=address,undefined)
target_compile_options(olm_cuda_emulator_test_kernels_race PRIVATE -O1 -g1 -fsanitize=thread
  --param=tsan-instrument-func-entry-exit=0)

# Ranks on several cards, where copies come late, where they come early, and in a drawn order.
foreach(words lazy eager seed=1)
  string(REGEX REPLACE "=.*" "" mode ${words})
  set(cases "")
  if(mode STREQUAL "eager")  # training would say nothing new
    set(cases "--test-case=oper*,a rank*")
  endif()
  add_test(NAME cuda_emulator/ranks_${mode} COMMAND olm_tests --test-suite=engine/cuda/ranks --no-intro ${cases})
  set_tests_properties(cuda_emulator/ranks_${mode} PROPERTIES TIMEOUT 300
    ENVIRONMENT "OLM_CUDA_EMULATOR=${words},devices=3")
endforeach()
