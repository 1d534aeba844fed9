# Compile options shared by every target of Lockstep.
add_library(lockstep_options INTERFACE)
set(lockstep_warnings -Wall -Wextra -Wconversion -Wno-sign-conversion)
if(LOCKSTEP_WERROR)
  list(APPEND lockstep_warnings -Werror)
endif()
# A fused multiply-add rounds once where a multiply and an add round twice. Bits must not depend on what the optimiser
# chose to contract, so contraction is off everywhere.
target_compile_options(lockstep_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:${lockstep_warnings};-ffp-contract=off>)
if(LOCKSTEP_WITH_CUDA)
  # What nvcc hands to the host compiler has passed through a generator of its own, whose conversions are no findings.
  target_compile_options(lockstep_options INTERFACE
    $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false;-Xcompiler=-Wall,-Wextra,-ffp-contract=off;-Xcudafe=--display_error_number>)
  if(LOCKSTEP_WERROR)
    target_compile_options(lockstep_options INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
  endif()
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 warns of overlaps inside std::string that cannot be (GCC bug 105651).
  target_compile_options(lockstep_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(LOCKSTEP_SANITIZE)
  target_compile_options(lockstep_options INTERFACE -fsanitize=${LOCKSTEP_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(lockstep_options INTERFACE -fsanitize=${LOCKSTEP_SANITIZE})
  if(LOCKSTEP_SANITIZE MATCHES "undefined")
    target_compile_options(lockstep_options INTERFACE -fno-sanitize-recover=undefined)
  endif()
endif()

# lockstep_layer(name DEPENDS ...): a static library lockstep_<name>, alias lockstep::<name>, of the
# sources in the current folder. The dependencies are the arrows of docs/architecture.md: a layer
# that uses what it does not name here does not link.
function(lockstep_layer name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;PRIVATE_DEPENDS;SOURCES" ${ARGN})
  add_library(lockstep_${name} STATIC ${ARG_SOURCES})
  add_library(lockstep::${name} ALIAS lockstep_${name})
  # Installed headers include one another as the sources do; users write <lockstep/lockstep.h>.
  target_include_directories(lockstep_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/lockstep>)
  target_compile_features(lockstep_${name} PUBLIC cxx_std_20)
  target_link_libraries(lockstep_${name} PUBLIC ${ARG_DEPENDS} PRIVATE $<BUILD_INTERFACE:lockstep_options> ${ARG_PRIVATE_DEPENDS})
  set_target_properties(lockstep_${name} PROPERTIES EXPORT_NAME ${name})
  if(LOCKSTEP_WITH_CUDA)
    # Device code of one file calls none of another, so nothing is linked on the device.
    set_target_properties(lockstep_${name} PROPERTIES CUDA_SEPARABLE_COMPILATION OFF)
  endif()
endfunction()
