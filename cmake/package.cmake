# SPDX-License-Identifier: MIT
# What cpack makes: a Debian package (target `package`, in the build folder) and an archive of the
# sources (target `package_source`). tests/package lists what is in them.
set(CPACK_PACKAGE_NAME libnca-cuda)
set(CPACK_PACKAGE_VENDOR "The libnca_cuda authors")
# Debian wants an address. Who gives the package to others puts a real one here.
set(CPACK_PACKAGE_CONTACT "The libnca_cuda authors <nobody@libnca-cuda.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_VERBATIM_VARIABLES ON)

# The Debian package is for the release that it is built on: the libraries that it depends on have
# other names in other releases.
set(CPACK_GENERATOR DEB)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${PROJECT_BINARY_DIR})
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
  "The command-line tool nca trains and grows automata; the library does the
same in C++20 programs. An engine for CPUs, and one with hand-written kernels
for NVIDIA GPUs where the package was built with CUDA. Trained models and
pictures to train on are in /usr/share/nca_cuda.")

# The archive has what git has: everything but what .gitignore names.
set(CPACK_SOURCE_GENERATOR TGZ)
set(CPACK_SOURCE_PACKAGE_FILE_NAME ${PROJECT_NAME}-${PROJECT_VERSION})
string(REGEX REPLACE "([][+.*()^$?|\\])" "\\\\\\1" sources ${PROJECT_SOURCE_DIR})
set(CPACK_SOURCE_IGNORE_FILES
  "^${sources}/build[^/]*/" "^${sources}/(out|[.]deps|[.]gpu)/" "^${sources}/[.]git(/|$)"
  "/__pycache__/" "[.]so$")
include(CPack)
