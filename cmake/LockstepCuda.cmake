# Whether and how CUDA is built. Sets LOCKSTEP_WITH_CUDA, and where it is on enables the language and makes the target
# lockstep_cuda_libraries. There is no such flag in any source: what is built in is decided by lists of files.
set(LOCKSTEP_CUDA AUTO CACHE STRING "Build the CUDA device: AUTO (where everything for it is found), ON, OFF")
set_property(CACHE LOCKSTEP_CUDA PROPERTY STRINGS AUTO ON OFF)
set(LOCKSTEP_NVIDIA_ROOT "" CACHE STRING "Where to look for cuDNN, NCCL and cudnn-frontend first: prefixes or site-packages")

# LOCKSTEP_CUDA_MISSING says why not, for doctor.
set(LOCKSTEP_WITH_CUDA OFF)
if(NOT LOCKSTEP_CUDA)
  set(LOCKSTEP_CUDA_MISSING "LOCKSTEP_CUDA was ${LOCKSTEP_CUDA}")
  message(STATUS "CUDA: not built, as LOCKSTEP_CUDA = ${LOCKSTEP_CUDA} says")
  return()
endif()
if(NOT LOCKSTEP_CUDA MATCHES "^(AUTO|ON|YES|TRUE|1)$")
  message(FATAL_ERROR "LOCKSTEP_CUDA is \"${LOCKSTEP_CUDA}\", which is none of AUTO, ON and OFF")
endif()

include(${CMAKE_CURRENT_LIST_DIR}/LockstepCudaLibraries.cmake)
set(lockstep_missing)

find_package(CUDAToolkit QUIET)
if(NOT CUDAToolkit_FOUND OR NOT CUDAToolkit_NVCC_EXECUTABLE)
  list(APPEND lockstep_missing "the CUDA toolkit 12 or later with nvcc (CUDAToolkit_ROOT may name it)")
elseif(CUDAToolkit_VERSION VERSION_LESS 12)
  list(APPEND lockstep_missing "the CUDA toolkit 12 or later, since the one found is ${CUDAToolkit_VERSION}")
endif()
lockstep_find_cuda_libraries(lockstep_missing)
lockstep_find_nvidia_package(CudnnFrontend 1.8 "cudnn-frontend 1.8 or later (cudnn_frontend.h)" lockstep_missing)

if(NOT lockstep_missing)
  if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    set(CMAKE_CUDA_COMPILER "${CUDAToolkit_NVCC_EXECUTABLE}")
  endif()
  if(NOT DEFINED CMAKE_CUDA_HOST_COMPILER AND NOT DEFINED ENV{CUDAHOSTCXX})
    set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}" CACHE STRING "Host compiler of nvcc")
  endif()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    # Machine code for A100, H100 and B200, where the compiler knows them, and what runs on later ones.
    execute_process(COMMAND ${CUDAToolkit_NVCC_EXECUTABLE} --list-gpu-arch OUTPUT_VARIABLE known ERROR_QUIET)
    set(architectures)
    foreach(architecture 80 90 100)
      if(known MATCHES "compute_${architecture}[\r\n]")
        list(APPEND architectures ${architecture}-real)
        set(newest ${architecture})
      endif()
    endforeach()
    if(architectures)
      set(CMAKE_CUDA_ARCHITECTURES "${architectures};${newest}-virtual" CACHE STRING "GPU architectures to compile for")
    endif()
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    list(APPEND lockstep_missing "an nvcc that compiles (${CUDAToolkit_NVCC_EXECUTABLE} with ${CMAKE_CXX_COMPILER} does not)")
  endif()
endif()

if(lockstep_missing)
  list(JOIN lockstep_missing ", " lockstep_missing)
  if(LOCKSTEP_CUDA STREQUAL "AUTO")
    set(LOCKSTEP_CUDA_MISSING "this was missing: ${lockstep_missing}")
    message(STATUS "CUDA: not built, because this is missing: ${lockstep_missing}")
    return()
  endif()
  message(FATAL_ERROR "LOCKSTEP_CUDA = ${LOCKSTEP_CUDA}, but this is missing: ${lockstep_missing}. "
    "Install it, name its folder by LOCKSTEP_NVIDIA_ROOT, or build without CUDA (LOCKSTEP_CUDA=OFF). See docs/cuda.md.")
endif()

enable_language(CUDA)
# CMake 3.25 does not know that nvcc 12 and later have C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(LOCKSTEP_WITH_CUDA ON)

# Linked by its full path, as the other libraries are: a wheel has no libcudart.so that the compiler would find.
set(CMAKE_CUDA_RUNTIME_LIBRARY None)
# Never the driver's own library (CUDA::cuda_driver): the program would not start where there is no driver.
add_library(lockstep_cuda_libraries INTERFACE)
target_link_libraries(lockstep_cuda_libraries INTERFACE lockstep_found::cudart lockstep_found::cublasLt
  lockstep_found::nvrtc CUDNN::cudnn NCCL::nccl $<BUILD_INTERFACE:CudnnFrontend::headers>)
# cuBLASLt and NVRTC are named for their folders alone: model/cuda/library/on_first_use.cpp has their functions, so that
# a program needs no symbol of them, and is not to load them at its start.
target_link_options(lockstep_cuda_libraries INTERFACE LINKER:--as-needed)
# What "native", "all" and the like stand for is not known here: then no GPU is called too old.
string(REGEX MATCHALL "[0-9]+" lockstep_architectures "${CMAKE_CUDA_ARCHITECTURES}")
set(LOCKSTEP_LOWEST_CUDA_ARCHITECTURE 0)
if(lockstep_architectures)
  list(SORT lockstep_architectures COMPARE NATURAL)
  list(GET lockstep_architectures 0 LOCKSTEP_LOWEST_CUDA_ARCHITECTURE)
endif()
message(STATUS "CUDA: built with toolkit ${CUDAToolkit_VERSION}, cuDNN ${CUDNN_VERSION}, NCCL ${NCCL_VERSION}, "
  "cudnn-frontend ${CudnnFrontend_VERSION}, for ${CMAKE_CUDA_ARCHITECTURES}")
