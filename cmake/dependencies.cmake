# SPDX-License-Identifier: MIT
# Finds every library that the build uses. One message names all that are missing, with the command
# that installs them on Debian and Ubuntu; scripts/setup installs the same packages.

# Notes that `package` is missing where `found` is false.
function(nca_require found package)
  if(NOT found)
    set_property(GLOBAL APPEND PROPERTY NCA_MISSING_PACKAGES ${package})
  endif()
endfunction()

function(nca_report_missing_packages)
  get_property(missing GLOBAL PROPERTY NCA_MISSING_PACKAGES)
  if(NOT missing)
    return()
  endif()
  list(REMOVE_DUPLICATES missing)
  list(JOIN missing " " names)
  message(FATAL_ERROR
    "Libraries are missing. On Debian and Ubuntu install them with this command, then run cmake "
    "again:\n"
    "  sudo apt-get install --no-install-recommends ${names}\n"
    "Without tests (-DNCA_BUILD_TESTS=OFF) catch2 and libboost-context-dev are not needed, without "
    "tool and benchmarks (-DNCA_BUILD_TOOL=OFF -DNCA_BUILD_BENCHMARKS=OFF) libcli11-dev is not, and "
    "of the library alone without pictures (-DNCA_BUILD_IMAGES=OFF) libcgif-dev, libwebp-dev and "
    "libzip-dev are not either.")
endfunction()

# --- the library -------------------------------------------------------------------------------
if(NOT NCA_BUILD_FUZZERS)  # they have no engine
  find_package(OpenMP QUIET COMPONENTS CXX)  # g++ brings it
  nca_require("${OpenMP_CXX_FOUND}" libomp-dev)
endif()
find_package(hwy QUIET)
find_package(fmt QUIET)
find_package(nlohmann_json QUIET)
find_path(RANDOM123_INCLUDE_DIR Random123/philox.h)
find_path(STB_INCLUDE_DIR stb_image.h PATH_SUFFIXES stb)
nca_require("${hwy_FOUND}" libhwy-dev)
nca_require("${fmt_FOUND}" libfmt-dev)
nca_require("${nlohmann_json_FOUND}" nlohmann-json3-dev)
nca_require("${RANDOM123_INCLUDE_DIR}" librandom123-dev)
nca_require("${STB_INCLUDE_DIR}" libstb-dev)
if(NCA_BUILD_IMAGES)
  find_path(CGIF_INCLUDE_DIR cgif.h)
  find_library(CGIF_LIBRARY cgif)
  find_path(WEBP_INCLUDE_DIR webp/encode.h)
  find_library(WEBP_LIBRARY webp)
  find_library(WEBPMUX_LIBRARY webpmux)
  find_library(WEBPDEMUX_LIBRARY webpdemux)
  find_path(ZIP_INCLUDE_DIR zip.h)
  find_library(ZIP_LIBRARY zip)
  nca_require("${CGIF_INCLUDE_DIR}" libcgif-dev)
  nca_require("${CGIF_LIBRARY}" libcgif-dev)
  nca_require("${WEBP_INCLUDE_DIR}" libwebp-dev)
  nca_require("${WEBP_LIBRARY}" libwebp-dev)
  nca_require("${WEBPMUX_LIBRARY}" libwebp-dev)
  nca_require("${WEBPDEMUX_LIBRARY}" libwebp-dev)
  nca_require("${ZIP_INCLUDE_DIR}" libzip-dev)
  nca_require("${ZIP_LIBRARY}" libzip-dev)
endif()

# --- the tool and the benchmarks ---------------------------------------------------------------
if(NCA_BUILD_TOOL OR NCA_BUILD_BENCHMARKS OR NCA_BUILD_FUZZERS)
  find_package(CLI11 QUIET)
  nca_require("${CLI11_FOUND}" libcli11-dev)
endif()

# --- the tests ---------------------------------------------------------------------------------
if(NCA_BUILD_TESTS)
  find_package(Threads REQUIRED)
  find_package(Catch2 QUIET)
  if(NCA_EXECUTED_TESTS)
    find_package(Boost QUIET CONFIG COMPONENTS context)  # fibers, for the executor
  endif()
  nca_require("${Catch2_FOUND}" catch2)
  if(NCA_EXECUTED_TESTS AND NOT NCA_EXECUTED_TESTS STREQUAL AUTO)
    nca_require("${Boost_FOUND}" libboost-context-dev)
  endif()
endif()

nca_report_missing_packages()
