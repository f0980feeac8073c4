# SPDX-License-Identifier: MIT
# The target docs: the API reference, made by Doxygen from the public headers. A warning fails it.

find_package(Doxygen 1.9.4 QUIET)
if(DOXYGEN_FOUND)
  if(DOXYGEN_VERSION VERSION_GREATER_EQUAL 1.9.8)
    set(NCA_WARN_OF_ENUMERATORS "WARN_IF_UNDOC_ENUM_VAL = YES")  # 1.9.4 does not have it
  endif()
  set(NCA_DOXYFILE ${PROJECT_BINARY_DIR}/docs/Doxyfile)
  configure_file(cmake/Doxyfile.in ${NCA_DOXYFILE} @ONLY)
  add_custom_target(docs
    COMMAND ${DOXYGEN_EXECUTABLE} ${NCA_DOXYFILE}
    COMMAND ${CMAKE_COMMAND} -E echo "API reference: ${PROJECT_BINARY_DIR}/docs/html/index.html"
    COMMENT "Making the API reference" VERBATIM)
else()
  nca_add_missing_tool(docs "doxygen 1.9.4 or later")
endif()
