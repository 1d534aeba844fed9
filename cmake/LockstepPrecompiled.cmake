# Headers that nearly every test includes are parsed once: they cost half of the time to compile a test. Each file goes on
# including what it uses; without this option it compiles alike. (Not for the libraries: what a header brings along,
# such as std::quoted, would be found there by argument, and the gain is small.)
option(LOCKSTEP_PRECOMPILED_HEADERS "Parse the headers of GoogleTest, fmt and the standard library once for all tests" ON)

# ccache keeps what was compiled with such a header only when told that the header's own macros do not matter; and
# with paths relative to the source folder, two checkouts share what is kept.
foreach(language CXX CUDA)
  if("${CMAKE_${language}_COMPILER_LAUNCHER}" MATCHES "(^|/)ccache$")
    set(CMAKE_${language}_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}
      CCACHE_SLOPPINESS=pch_defines,time_macros ${CMAKE_${language}_COMPILER_LAUNCHER})
    set(lockstep_with_ccache ON)
  endif()
endforeach()

# lockstep_headers_of(kind [OPTIONS …] [HEADERS …] [LIBS …]): a program that does nothing but own the parsed headers of the
# tests of this kind, which are compiled with these options: those that all tests include, and HEADERS, which LIBS bring.
function(lockstep_headers_of kind)
  cmake_parse_arguments(ARG "" "" "OPTIONS;HEADERS;LIBS" ${ARGN})
  if(NOT LOCKSTEP_PRECOMPILED_HEADERS)
    return()
  endif()
  add_executable(lockstep_${kind}_headers EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/tests/support/precompiled.cpp)
  target_link_libraries(lockstep_${kind}_headers PRIVATE lockstep_options fmt::fmt GTest::gmock ${ARG_LIBS})
  target_compile_options(lockstep_${kind}_headers PRIVATE ${ARG_OPTIONS})
  target_precompile_headers(lockstep_${kind}_headers PRIVATE
    <gmock/gmock.h> <gtest/gtest.h> <fmt/format.h> <algorithm> <cmath> <cstdint> <functional> <map> <memory> <set>
    <string> <vector> ${ARG_HEADERS})
endfunction()

# lockstep_use_headers(target kind): the target's files find the headers of that kind parsed. Its compile options must
# be those of the kind; a file with options of its own goes without (SKIP_PRECOMPILE_HEADERS).
function(lockstep_use_headers target kind)
  if(NOT LOCKSTEP_PRECOMPILED_HEADERS)
    return()
  endif()
  target_precompile_headers(${target} REUSE_FROM lockstep_${kind}_headers)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # What GCC's optimizer suspects inside the standard library it keeps to itself, but not where that was parsed
    # before: it then warns of std::string's own copies (as in GCC bug 105651). Shown, but no error.
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-Wno-error=array-bounds;-Wno-error=stringop-overflow;-Wno-error=stringop-overread;-Wno-error=maybe-uninitialized>")
    if(lockstep_with_ccache)
      target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
    endif()
  endif()
endfunction()
