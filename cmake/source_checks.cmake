# SPDX-License-Identifier: MIT
# Targets that look at the sources: format-check (clang-format), format, which formats them, and
# tidy (clang-tidy). Other versions of both tools want other things, so it has to be version 14.
find_program(CLANG_FORMAT clang-format-14)
find_program(CLANG_TIDY clang-tidy-14)

# A target that only says what to install. cmake/docs.cmake uses it, too.
function(nca_add_missing_tool target package)
  add_custom_target(${target}
    COMMAND ${CMAKE_COMMAND} -E echo "${target} needs ${package}: install it and run cmake again"
    COMMAND ${CMAKE_COMMAND} -E false
    COMMENT "Looking for ${package}" VERBATIM)
endfunction()

# --- format ------------------------------------------------------------------------------------
if(CLANG_FORMAT)
  foreach(target format format-check)
    if(target STREQUAL format)
      set(options -i)
    else()
      set(options --dry-run --Werror)
    endif()
    add_custom_target(${target}
      COMMAND find include host cuda python tests benchmarks examples
              "(" -name "*.[ch]pp" -o -name "*.cu" -o -name "*.cuh" ")"
              -exec ${CLANG_FORMAT} ${options} {} +
      WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} COMMENT "clang-format" VERBATIM)
  endforeach()
else()
  nca_add_missing_tool(format clang-format-14)
  nca_add_missing_tool(format-check clang-format-14)
endif()

# --- tidy --------------------------------------------------------------------------------------
# Library and tool. Many files are one translation unit, in which the headers of libraries are read
# once. That takes a small part of the time. So no two of them may give one name to two things.
# The CUDA engine's host code is compiled against the executor's cuda_runtime.h. Left out: kernels,
# which nvcc checks; what includes stb and Highway, whose macros are full of findings; what stands in
# for parts that are not built; tests, benchmarks and examples.
if(NOT CLANG_TIDY)
  nca_add_missing_tool(tidy clang-tidy-14)
  return()
endif()
file(GLOB_RECURSE headers CONFIGURE_DEPENDS include/*.hpp host/*.hpp cuda/*.hpp)
set(stamps "")
file(GLOB_RECURSE all CONFIGURE_DEPENDS host/*.cpp cuda/*.cpp)
list(FILTER all EXCLUDE REGEX "/(stb|resample|kernels|not_compiled|no_pytorch_file)[.]cpp$")
set(of_cuda "/cuda/")
set(of_arguments "/host/tool/arguments/")
set(of_tool "/host/tool/")
set(of_files "/host/(files|training)/")
set(of_engine "")  # the rest
foreach(name cuda arguments tool files engine)
  set(sources ${all})
  list(FILTER sources INCLUDE REGEX "${of_${name}}")
  list(FILTER all EXCLUDE REGEX "${of_${name}}")
  set(unit ${PROJECT_BINARY_DIR}/tidy/${name}.cpp)
  list(TRANSFORM sources REPLACE "(.+)" "#include \"\\1\"\n" OUTPUT_VARIABLE includes)
  list(JOIN includes "" includes)
  file(CONFIGURE OUTPUT ${unit} CONTENT "${includes}" @ONLY)
  set(stamp ${PROJECT_BINARY_DIR}/tidy/${name}.stamp)
  add_custom_command(OUTPUT ${stamp}
    COMMAND ${CLANG_TIDY} --quiet --config-file=${PROJECT_SOURCE_DIR}/.clang-tidy ${unit} --
            -std=c++20 -I${PROJECT_SOURCE_DIR} -I${PROJECT_SOURCE_DIR}/include
            -I${PROJECT_BINARY_DIR}/include -isystem ${PROJECT_SOURCE_DIR}/tests/support/executor
            -idirafter ${STB_INCLUDE_DIR} -idirafter ${CGIF_INCLUDE_DIR}
            -idirafter ${WEBP_INCLUDE_DIR} -idirafter ${RANDOM123_INCLUDE_DIR}
    COMMAND ${CMAKE_COMMAND} -E touch ${stamp}
    DEPENDS ${sources} ${headers} ${unit} .clang-tidy
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} COMMENT "clang-tidy: ${name}" VERBATIM)
  list(APPEND stamps ${stamp})
endforeach()
add_custom_target(tidy DEPENDS ${stamps})
