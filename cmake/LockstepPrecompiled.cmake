# Headers that nearly every file includes are parsed once for the libraries and once for the tests: half of the time to
# compile a test goes into them. Each file goes on including what it uses; without this option it compiles alike.
option(LOCKSTEP_PRECOMPILED_HEADERS "Parse the headers of the standard library, fmt and GoogleTest once for many files" ON)

set(lockstep_common_headers
  <algorithm> <array> <atomic> <chrono> <cmath> <cstddef> <cstdint> <cstdlib> <cstring> <exception> <filesystem>
  <fstream> <functional> <limits> <map> <memory> <mutex> <numeric> <optional> <set> <span> <sstream> <string>
  <string_view> <system_error> <thread> <tuple> <type_traits> <utility> <variant> <vector> <fmt/format.h>)

# ccache keeps what was compiled with such a header only when told that the header's own macros do not matter; and
# with paths relative to the source folder, two checkouts share what is kept.
foreach(language CXX CUDA)
  if("${CMAKE_${language}_COMPILER_LAUNCHER}" MATCHES "(^|/)ccache$")
    set(CMAKE_${language}_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}
      CCACHE_SLOPPINESS=pch_defines,time_macros ${CMAKE_${language}_COMPILER_LAUNCHER})
    set(lockstep_with_ccache ON)
  endif()
endforeach()

# lockstep_headers_of(kind type source headers…): a target that does nothing but own the precompiled headers of its kind.
function(lockstep_headers_of kind type source)
  if(NOT LOCKSTEP_PRECOMPILED_HEADERS)
    return()
  endif()
  if(type STREQUAL "EXECUTABLE")  # compiled as what is linked into programs
    add_executable(lockstep_${kind}_headers EXCLUDE_FROM_ALL ${source})
  else()
    add_library(lockstep_${kind}_headers OBJECT EXCLUDE_FROM_ALL ${source})
  endif()
  target_link_libraries(lockstep_${kind}_headers PRIVATE lockstep_options fmt::fmt)
  target_precompile_headers(lockstep_${kind}_headers PRIVATE ${lockstep_common_headers} ${ARGN})
endfunction()

# lockstep_use_headers(target kind): the target's files find the headers of that kind parsed. Its compile options must
# be those of the kind; a file with options of its own goes without.
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
