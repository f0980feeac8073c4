# SPDX-License-Identifier: MIT
# A page of documentation shows a program of examples/ character by character, but for its first
# line, the licence.
#   cmake -DSOURCE=<repository> -P run.cmake
cmake_minimum_required(VERSION 3.22)

function(require_same page program)
  file(READ ${SOURCE}/${page} text)
  string(REGEX MATCH "```cpp\n([^`]*)```" unused "${text}")  # the first one
  set(shown "${CMAKE_MATCH_1}")
  file(READ ${SOURCE}/${program} text)
  string(REGEX REPLACE "^// SPDX[^\n]*\n" "" text "${text}")
  if(NOT shown STREQUAL text)
    message(FATAL_ERROR "The first C++ block of ${page} is not the text of ${program}: copy the "
                        "file, without its first line, into the block")
  endif()
endfunction()

require_same(README.md examples/heal/main.cpp)
require_same(docs/cuda.md examples/own_memory/main.cpp)
