# cudnn-frontend, which is headers alone: the target CudnnFrontend::headers, CudnnFrontend_VERSION. Found in a system
# install, in Python's site-packages, or where launch/packages.sh unpacks the wheel of PyPI.
# CudnnFrontend_ROOT or LOCKSTEP_NVIDIA_ROOT name a place of one's own.
include(${CMAKE_CURRENT_LIST_DIR}/NvidiaRoots.cmake)
if(DEFINED ENV{XDG_CACHE_HOME})
  set(cache "$ENV{XDG_CACHE_HOME}/lockstep/cudnn-frontend")
else()
  set(cache "$ENV{HOME}/.cache/lockstep/cudnn-frontend")
endif()
find_path(CudnnFrontend_INCLUDE_DIR NAMES cudnn_frontend.h HINTS "${cache}" PATH_SUFFIXES include)
lockstep_find_nvidia_header(CudnnFrontend_INCLUDE_DIR cudnn_frontend.h)
foreach(part MAJOR MINOR PATCH)
  lockstep_header_number(frontend_${part} "${CudnnFrontend_INCLUDE_DIR}/cudnn_frontend_version.h"
    CUDNN_FRONTEND_${part}_VERSION)
endforeach()
if(NOT frontend_MAJOR STREQUAL "")
  set(CudnnFrontend_VERSION ${frontend_MAJOR}.${frontend_MINOR}.${frontend_PATCH})
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CudnnFrontend REQUIRED_VARS CudnnFrontend_INCLUDE_DIR
  VERSION_VAR CudnnFrontend_VERSION)
mark_as_advanced(CudnnFrontend_INCLUDE_DIR)
if(CudnnFrontend_FOUND AND NOT TARGET CudnnFrontend::headers)
  add_library(CudnnFrontend::headers INTERFACE IMPORTED)
  # Its JSON support doubles the time to compile a file that includes it.
  set_target_properties(CudnnFrontend::headers PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${CudnnFrontend_INCLUDE_DIR}"
    INTERFACE_COMPILE_DEFINITIONS CUDNN_FRONTEND_SKIP_JSON_LIB)
endif()
