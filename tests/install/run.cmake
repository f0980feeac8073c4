# SPDX-License-Identifier: MIT
# Installs the build into a folder of its own, then builds and runs against it the program beside
# this file, by find_package and by pkg-config, and every folder of examples/.
#   cmake -DSOURCE=<repository> -DBUILD=<build folder> -DWORK=<scratch folder> -DCXX=<compiler>
#         [-DCXX_FLAGS=..] [-DGENERATOR=..] [-DPKG_CONFIG=..] [-DHAVE_CUDA=ON] -P run.cmake
cmake_minimum_required(VERSION 3.22)

foreach(variable SOURCE BUILD WORK CXX)
  if(NOT ${variable})
    message(FATAL_ERROR "run.cmake needs -D${variable}=..")
  endif()
endforeach()
set(prefix ${WORK}/installed)
set(moved ${WORK}/moved)
file(REMOVE_RECURSE ${WORK})

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix})
# An installed package is often unpacked elsewhere than where it was made.
file(RENAME ${prefix} ${moved})

# What the library is made of must not reach its users.
function(refuse pattern)
  if(NOT ARGN)
    message(FATAL_ERROR "${moved} lacks the files that should not match ${pattern}")
  endif()
  foreach(file ${ARGN})
    file(READ ${file} text)
    if(text MATCHES "${pattern}")
      message(FATAL_ERROR "${file} asks users of the package for more: ${CMAKE_MATCH_0}")
    endif()
  endforeach()
endfunction()
file(GLOB headers ${moved}/include/nca/*.hpp)
file(GLOB_RECURSE package_files ${moved}/nca_cuda*.cmake ${moved}/nca_cuda.pc)
refuse("#include <(hwy|fmt|nlohmann|Random123|stb|cgif|webp|zip|omp|CLI)" ${headers})
refuse("find_dependency|INTERFACE_LINK_LIBRARIES|Requires:" ${package_files})

if(EXISTS ${moved}/bin/nca)
  run(${moved}/bin/nca --help)
endif()

# Another minor version may be incompatible, so it is refused.
file(GLOB_RECURSE config ${moved}/nca_cuda-config.cmake)
get_filename_component(config_folder ${config} DIRECTORY)
foreach(version 0.1 0.3 1.0)
  find_package(nca_cuda ${version} QUIET PATHS ${config_folder} NO_DEFAULT_PATH)
  if(nca_cuda_FOUND OR NOT nca_cuda_CONSIDERED_CONFIGS)
    message(FATAL_ERROR "find_package(nca_cuda ${version}) was not refused: ${config}")
  endif()
endforeach()

# Builds a project in ${WORK}/name. It is configured for the package that was moved.
if(GENERATOR)
  set(generator -G ${GENERATOR})
endif()
function(build folder name)
  run(${CMAKE_COMMAND} -S ${folder} -B ${WORK}/${name} ${generator} -DCMAKE_PREFIX_PATH=${moved}
      -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_CXX_FLAGS=${CXX_FLAGS})
  file(STRINGS ${WORK}/${name}/CMakeCache.txt found REGEX "^nca_cuda_DIR")
  if(NOT found MATCHES "${moved}")
    message(FATAL_ERROR "find_package took another nca_cuda: ${found}")
  endif()
  run(${CMAKE_COMMAND} --build ${WORK}/${name})
endfunction()

build(${CMAKE_CURRENT_LIST_DIR} consumer)
run(${WORK}/consumer/consumer)

if(PKG_CONFIG)
  file(GLOB_RECURSE pc ${moved}/nca_cuda.pc)
  get_filename_component(folder ${pc} DIRECTORY)
  set(ENV{PKG_CONFIG_PATH} ${folder})
  execute_process(COMMAND ${PKG_CONFIG} --cflags --libs nca_cuda OUTPUT_VARIABLE flags
                  OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  get_filename_component(library_folder ${folder}/.. ABSOLUTE)
  separate_arguments(flags UNIX_COMMAND "${CXX_FLAGS} ${flags}")
  run(${CXX} -std=c++20 ${CMAKE_CURRENT_LIST_DIR}/main.cpp -o ${WORK}/consumer_by_pkg_config
      ${flags} -Wl,-rpath,${library_folder})
  run(${WORK}/consumer_by_pkg_config)
endif()

include(${CMAKE_CURRENT_LIST_DIR}/examples.cmake)
