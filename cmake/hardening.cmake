# SPDX-License-Identifier: MIT
# Release builds, but for those with sanitizers, are hardened: a mistake in memory ends the program
# before it lets anyone in. tests/hardening/run reads all this back from what was built.
include(CheckCXXCompilerFlag)
include(CheckPIESupported)

check_pie_supported()  # POSITION_INDEPENDENT_CODE then links programs with -pie as well
check_cxx_compiler_flag(-fcf-protection NCA_HAVE_CF_PROTECTION)  # x86 only

set(NCA_HARDENED $<CONFIG:Release>)
if("${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_RELEASE}" MATCHES "-fsanitize")
  set(NCA_HARDENED 0)
endif()

# Ubuntu's compiler defines _FORTIFY_SOURCE itself, and would warn of a second definition.
set(hardening -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
if(NCA_HAVE_CF_PROTECTION)
  list(APPEND hardening -fcf-protection)
endif()
list(JOIN hardening "," host_hardening)
target_compile_options(nca_build_flags INTERFACE
  "$<$<AND:${NCA_HARDENED},$<COMPILE_LANGUAGE:CXX>>:${hardening}>"
  "$<$<AND:${NCA_HARDENED},$<COMPILE_LANGUAGE:CUDA>>:SHELL:-Xcompiler=${host_hardening}>")
# The linker looks up every function at the start; their addresses are then read-only.
target_link_options(nca_build_flags INTERFACE
  "$<${NCA_HARDENED}:LINKER:-z,relro,-z,now,-z,noexecstack>")
