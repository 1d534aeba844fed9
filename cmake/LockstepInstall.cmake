# cmake --install: the program, the static libraries with their headers, ready configs and examples, and a package for
# find_package(lockstep). The package may be moved to another place; it holds no path of this build.
include(CMakePackageConfigHelpers)

set(lockstep_layers core device comm model trainer)
set(lockstep_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/lockstep)
set(lockstep_share_dir ${CMAKE_INSTALL_DATADIR}/lockstep)

list(TRANSFORM lockstep_layers PREPEND lockstep_ OUTPUT_VARIABLE lockstep_libraries)
install(TARGETS ${lockstep_libraries} EXPORT lockstep_targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(LOCKSTEP_WITH_CUDA)
  install(TARGETS lockstep_cuda_libraries EXPORT lockstep_targets)
  install(FILES ${PROJECT_SOURCE_DIR}/cmake/LockstepCudaLibraries.cmake ${PROJECT_SOURCE_DIR}/cmake/NvidiaRoots.cmake
    ${PROJECT_SOURCE_DIR}/cmake/FindCUDNN.cmake ${PROJECT_SOURCE_DIR}/cmake/FindNCCL.cmake
    DESTINATION ${lockstep_package_dir})
endif()
install(FILES ${PROJECT_SOURCE_DIR}/cmake/Findutf8proc.cmake DESTINATION ${lockstep_package_dir})
install(TARGETS lockstep RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})

# Headers that need those of oneDNN, MPI, zlib or CUDA are implementation: whoever includes ours needs ours and fmt alone.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/src/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep
  FILES_MATCHING PATTERN "*.h"
  PATTERN "cpu" EXCLUDE
  PATTERN "cuda" EXCLUDE
  PATTERN "device_optimizer.h" EXCLUDE
  PATTERN "device_step.h" EXCLUDE
  PATTERN "device_step_cuda.h" EXCLUDE
  PATTERN "machine_step.h" EXCLUDE
  PATTERN "mpi_handles.h" EXCLUDE
  PATTERN "mpi_region.h" EXCLUDE
  PATTERN "gzip.h" EXCLUDE)

install(EXPORT lockstep_targets NAMESPACE lockstep:: FILE lockstepTargets.cmake DESTINATION ${lockstep_package_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/lockstepConfig.cmake.in
  ${PROJECT_BINARY_DIR}/lockstepConfig.cmake INSTALL_DESTINATION ${lockstep_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lockstepConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/lockstepConfig.cmake ${PROJECT_BINARY_DIR}/lockstepConfigVersion.cmake
  DESTINATION ${lockstep_package_dir})

install(DIRECTORY ${PROJECT_SOURCE_DIR}/configs ${PROJECT_SOURCE_DIR}/examples DESTINATION ${lockstep_share_dir})
install(FILES ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs DESTINATION ${CMAKE_INSTALL_DOCDIR})
