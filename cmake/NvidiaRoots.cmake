# Where NVIDIA's libraries may lie besides the places that CMake searches by itself: the toolkit, and the folders
# nvidia/<library> that Python wheels make in a site-packages. Python is only asked where they are; nothing that is
# built needs it.

# lockstep_nvidia_roots(out): prefixes, each with include/ and lib/ or lib64/, best first. LOCKSTEP_NVIDIA_ROOT, a list
# of prefixes, of folders that hold such prefixes, or of site-packages, comes before all others.
function(lockstep_nvidia_roots out)
  set(folders ${LOCKSTEP_NVIDIA_ROOT} $ENV{LOCKSTEP_NVIDIA_ROOT})
  set(packages)
  if(NOT DEFINED CACHE{LOCKSTEP_SITE_PACKAGES})
    find_program(lockstep_python3 NAMES python3 NO_CACHE)
    if(lockstep_python3)
      execute_process(COMMAND ${lockstep_python3} -c
        "import site, sys; print(';'.join(dict.fromkeys(p for p in sys.path + site.getsitepackages() + [site.getusersitepackages()] if p.endswith('-packages'))))"
        OUTPUT_VARIABLE packages OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
    file(GLOB more /usr/lib/python3*/*-packages /usr/local/lib/python3*/*-packages)
    list(APPEND packages ${more})
    set(LOCKSTEP_SITE_PACKAGES "${packages}" CACHE INTERNAL "Folders that Python installs packages into")
  endif()
  set(roots ${folders} ${CUDAToolkit_LIBRARY_ROOT} ${CUDAToolkit_TARGET_DIR} /usr/local/cuda)
  foreach(folder ${folders} ${LOCKSTEP_SITE_PACKAGES})
    file(GLOB inside LIST_DIRECTORIES true ${folder}/nvidia/* ${folder}/*/include)
    foreach(path ${inside})
      string(REGEX REPLACE "/include$" "" path "${path}")
      if(IS_DIRECTORY "${path}/include" OR IS_DIRECTORY "${path}/lib")
        list(APPEND roots "${path}")
      endif()
    endforeach()
    # The wheel of cudnn-frontend puts its headers straight into site-packages/include.
    list(APPEND roots "${folder}")
  endforeach()
  list(REMOVE_DUPLICATES roots)
  set(${out} "${roots}" PARENT_SCOPE)
endfunction()

# lockstep_find_nvidia_library(variable name): finds lib<name>.so, or the versioned file alone, which is all that a
# wheel holds, into the cache variable.
function(lockstep_find_nvidia_library variable name)
  if(${variable})
    return()
  endif()
  lockstep_nvidia_roots(roots)
  set(versions)
  foreach(version 20 19 18 17 16 15 14 13 12 11 10 9 2)
    list(APPEND versions lib${name}.so.${version})
  endforeach()
  find_library(${variable} NAMES ${name} ${versions} HINTS ${roots} PATH_SUFFIXES lib64 lib lib/x86_64-linux-gnu
    lib/stubs NAMES_PER_DIR)
endfunction()

# lockstep_find_nvidia_header(variable file)
function(lockstep_find_nvidia_header variable file)
  lockstep_nvidia_roots(roots)
  find_path(${variable} NAMES ${file} HINTS ${roots} PATH_SUFFIXES include)
endfunction()

# lockstep_header_number(out file macro): the number that a header defines for `macro`.
function(lockstep_header_number out file macro)
  set(number)
  if(EXISTS "${file}")
    file(STRINGS "${file}" line REGEX "^#[ \t]*define[ \t]+${macro}[ \t]+[0-9]+" LIMIT_COUNT 1)
    string(REGEX MATCH "[0-9]+[ \t]*$" number "${line}")
    string(REGEX MATCH "[0-9]+" number "${number}")
  endif()
  set(${out} "${number}" PARENT_SCOPE)
endfunction()

# lockstep_imported_library(target library include): a shared library found by the above.
function(lockstep_imported_library target library include)
  if(NOT TARGET ${target})
    add_library(${target} UNKNOWN IMPORTED)
    set_target_properties(${target} PROPERTIES IMPORTED_LOCATION "${library}")
    if(include)
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${include}")
    endif()
  endif()
endfunction()
