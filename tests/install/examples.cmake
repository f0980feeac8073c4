# SPDX-License-Identifier: MIT
# Builds and runs the examples; included by run.cmake, whose functions and variables it uses.

set(model ${SOURCE}/data/models/lizard_growing.safetensors)
set(nca ${moved}/bin/nca)  # where the tool is built

# Runs a command that has to end with this exit code and to print what the pattern says.
function(expect code pattern)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT RESULT_VARIABLE result
                  OUTPUT_VARIABLE output ERROR_VARIABLE output)
  message("${output}")
  if(NOT result EQUAL code OR NOT output MATCHES "${pattern}")
    message(FATAL_ERROR "exit code ${result}, expected ${code} and a text that matches: ${pattern}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# The bytes of a file, in hexadecimal.
function(require_bytes file offset bytes)
  string(LENGTH ${bytes} digits)
  math(EXPR count "${digits} / 2")
  file(READ ${file} found OFFSET ${offset} LIMIT ${count} HEX)
  if(NOT found MATCHES "^${bytes}$")
    message(FATAL_ERROR "${file} has at ${offset} the bytes ${found}, expected ${bytes}")
  endif()
endfunction()

file(GLOB names RELATIVE ${SOURCE}/examples ${SOURCE}/examples/*/CMakeLists.txt)
list(TRANSFORM names REPLACE "/.*" "")
if(NOT names STREQUAL "heal;own_memory;train;watch")
  message(FATAL_ERROR "examples/ has ${names}: add to this file what is to be checked of a new one")
endif()
if(NOT HAVE_CUDA)
  message("own_memory is left out: the library was built without CUDA")
  list(REMOVE_ITEM names own_memory)
endif()
foreach(name IN LISTS names)
  build(${SOURCE}/examples/${name} ${name})
  expect(2 "^usage: ${name} [^\n]*\n$" ${WORK}/${name}/${name})
endforeach()

# heal: the picture of the tool, which is 576 pixels wide and high, in every byte.
set(picture ${WORK}/healed.png)
expect(1 "^[^\n]*no such file[^\n]*\n$" ${WORK}/heal/heal "no such file" ${picture})
run(${WORK}/heal/heal ${model} ${picture})
require_bytes(${picture} 0 89504e470d0a1a0a0000000d494844520000024000000240)
if(EXISTS ${nca})
  run(${nca} grow ${model} -o ${WORK}/expected.png --transparent --size 72x72 --steps 200
      --seed-at 36,36 --damage 100:circle,30,30,8)
  run(${CMAKE_COMMAND} -E compare_files ${picture} ${WORK}/expected.png)
endif()

# own_memory: only a machine with a GPU can run it.
if(HAVE_CUDA)
  execute_process(COMMAND ${WORK}/own_memory/own_memory ${model} RESULT_VARIABLE result
                  OUTPUT_VARIABLE output ERROR_VARIABLE error)
  if(result EQUAL 1 AND error MATCHES "CUDA device|no NVIDIA driver")
    message("own_memory is built, but not run: ${error}")
  elseif(NOT result EQUAL 0 OR NOT output MATCHES "gradient of the first weight -?[0-9]")
    message(FATAL_ERROR "own_memory: exit code ${result}, ${output}${error}")
  endif()
endif()

# watch: three frames of the same size, which differ; it ends well where nobody reads on.
set(watch ${WORK}/watch/watch)
set(frames ${WORK}/frames.ppm)
expect(2 "^usage: [^\n]*\n$" ${watch} ${model} many)
execute_process(COMMAND ${watch} ${model} 3 OUTPUT_FILE ${frames} COMMAND_ERROR_IS_FATAL ANY)
string(HEX "P6\n576 576\n255\n" header)
math(EXPR frame_size "15 + 576 * 576 * 3")
math(EXPR expected_size "3 * ${frame_size}")
file(SIZE ${frames} size)
if(NOT size EQUAL expected_size)
  message(FATAL_ERROR "three frames have ${size} bytes, expected ${expected_size}")
endif()
foreach(frame 0 1 2)
  math(EXPR offset "${frame} * ${frame_size}")
  require_bytes(${frames} ${offset} ${header})
  file(READ ${frames} pixels_${frame} OFFSET ${offset} LIMIT ${frame_size} HEX)
endforeach()
if(pixels_0 STREQUAL pixels_2)
  message(FATAL_ERROR "the automaton of ${frames} does not grow")
endif()
# In lists of CMake a semicolon separates, so scripts of sh have lines.
expect(0 "^exit code 0\n$" sh -c "{ \"$0\" \"$1\"
  echo exit code $? >&2
  } | head -c 9 > /dev/null" ${watch} ${model})
expect(1 "^cannot write to standard output: No space left on device\n$"
  sh -c "\"$0\" \"$1\" > /dev/full" ${watch} ${model})

# train: the loss falls, and Ctrl-C ends it with a model that has fewer iterations.
set(train ${WORK}/train/train)
set(heart ${WORK}/heart.safetensors ${WORK}/heart.webp)
expect(1 "^[^\n]*nowhere[^\n]*\n$" ${train} ${WORK}/nowhere/heart.safetensors ${WORK}/heart.webp)
expect(0 "^iteration 0: loss ([0-9.]+)\niteration 19: loss ([0-9.]+)\n20 iterations: "
  ${train} ${heart} 20)
string(REGEX MATCHALL "loss [0-9.]+" losses "${output}")
list(TRANSFORM losses REPLACE "loss " "")
list(GET losses 0 first)
list(GET losses 1 last)
if(NOT first GREATER 0.08 OR NOT last LESS 0.05)
  message(FATAL_ERROR "the loss went from ${first} to ${last}, expected from 0.089 to below 0.05")
endif()
# A WebP with transparency and animation, 36 x 36 cells of 8 pixels.
require_bytes(${WORK}/heart.webp 0 52494646........57454250565038580a000000........1f01001f0100)
# The pipe is closed as well, as that of `train ... | tee log` is.
expect(0 "^iteration 0: loss 0[.][0-9]+\n$" sh -c "mkfifo \"$3\"
  \"$0\" \"$1\" \"$2\" 2000 > \"$3\" &
  read line < \"$3\"
  kill -INT $!
  echo \"$line\"
  wait $!" ${train} ${heart} ${WORK}/pipe)
if(EXISTS ${nca})
  expect(0 "iterations +[1-9]" ${nca} info ${WORK}/heart.safetensors)
  if(output MATCHES "iterations +2000")
    message(FATAL_ERROR "Ctrl-C did not end the training")
  endif()
endif()
