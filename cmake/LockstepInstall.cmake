# cmake --install: the program, the static libraries with their headers, ready configs and examples, and a package for
# find_package(lockstep). The package may be moved to another place; it holds no path of this build.
include(CMakePackageConfigHelpers)

set(lockstep_layers core device watch comm model data optim trainer)
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
install(FILES ${PROJECT_SOURCE_DIR}/cmake/Findutf8proc.cmake ${PROJECT_SOURCE_DIR}/cmake/Findhwloc.cmake
  DESTINATION ${lockstep_package_dir})
install(TARGETS lockstep RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})

# Headers that need those of oneDNN, MPI, zlib or CUDA are implementation: whoever includes ours needs ours and fmt alone.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/src/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep
  FILES_MATCHING PATTERN "*.h"
  PATTERN "cpu" EXCLUDE
  PATTERN "cuda" EXCLUDE
  PATTERN "device_optimizer.h" EXCLUDE
  PATTERN "device_step.h" EXCLUDE
  PATTERN "device_step_cuda.h" EXCLUDE
  PATTERN "device_train_step.h" EXCLUDE
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
# The launch scripts, as they are: they find each other beside themselves, and the program by the file `installed`.
file(RELATIVE_PATH lockstep_from_launch_to_bin
  ${CMAKE_INSTALL_PREFIX}/${lockstep_share_dir}/launch ${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR})
file(WRITE ${PROJECT_BINARY_DIR}/installed "${lockstep_from_launch_to_bin}\n")
install(FILES ${PROJECT_BINARY_DIR}/installed DESTINATION ${lockstep_share_dir}/launch)
install(PROGRAMS ${PROJECT_SOURCE_DIR}/launch/lockstep-run ${PROJECT_SOURCE_DIR}/launch/workstation.sh
  ${PROJECT_SOURCE_DIR}/launch/slurm.sbatch ${PROJECT_SOURCE_DIR}/launch/slurm_srun.sbatch
  DESTINATION ${lockstep_share_dir}/launch)
install(FILES ${PROJECT_SOURCE_DIR}/launch/on_host.sh ${PROJECT_SOURCE_DIR}/launch/program.sh
  ${PROJECT_SOURCE_DIR}/launch/run_hosts.sh ${PROJECT_SOURCE_DIR}/launch/run_state.sh
  ${PROJECT_SOURCE_DIR}/launch/slurm_job.sh DESTINATION ${lockstep_share_dir}/launch)
file(RELATIVE_PATH lockstep_from_bin_to_launch
  ${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR} ${CMAKE_INSTALL_PREFIX}/${lockstep_share_dir}/launch)
file(WRITE ${PROJECT_BINARY_DIR}/lockstep-run "#!/usr/bin/env bash\n\
exec \"$(dirname \"$(readlink -f \"\${BASH_SOURCE[0]}\")\")/${lockstep_from_bin_to_launch}/lockstep-run\" \"$@\"\n")
install(PROGRAMS ${PROJECT_BINARY_DIR}/lockstep-run DESTINATION ${CMAKE_INSTALL_BINDIR})

install(FILES ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs DESTINATION ${CMAKE_INSTALL_DOCDIR})
