# SPDX-License-Identifier: MIT
# Runs every `nca grow` line of docs/reproduce.md as it stands there, in the repository's root but
# with its output in a folder of its own.
#   cmake -DSOURCE=<repository> -DTOOL=<folder of nca> -DWORK=<scratch folder> -P run.cmake
cmake_minimum_required(VERSION 3.22)

file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK}/out)
file(CREATE_LINK ${SOURCE}/data ${WORK}/data SYMBOLIC)
set(ENV{PATH} "${TOOL}:$ENV{PATH}")

file(READ ${SOURCE}/docs/reproduce.md text)
string(REPLACE "\\\n" " " text "${text}")  # a command over two lines
string(REGEX MATCHALL "\nnca grow [^\n]*" commands "${text}")
list(LENGTH commands count)
if(count LESS 8)
  message(FATAL_ERROR "docs/reproduce.md has ${count} commands, expected 8 or more")
endif()
foreach(command IN LISTS commands)
  string(STRIP "${command}" command)
  execute_process(COMMAND sh -c "${command}" WORKING_DIRECTORY ${WORK} COMMAND_ECHO STDOUT
                  COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCH "-o (out/[^ ]*)" unused "${command}")
  if(NOT EXISTS ${WORK}/${CMAKE_MATCH_1})
    message(FATAL_ERROR "${command}: made no ${CMAKE_MATCH_1}")
  endif()
endforeach()
