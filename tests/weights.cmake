# Read by ctest before it starts: what its tests cost. A slot is half a core; tests/run.sh gives ctest two for each core.
# What starts programs waits for them most of the time and takes one slot; what computes takes two. Long tests are
# started first, so that none of them is left over at the end.
set(lockstep_computing "^(FashionConfigs|Configs|Placement|Augmented)\\.")
# Seconds on two cores, roughly: only the order counts.
set(lockstep_long
  "LostHost" 120 "InjectedFaults" 100 "FrozenJob" 100 "Faults" 80 "StoppedHosts" 70 "Hang" 60 "StoppedRun" 60
  "Slurm/Batch" 60 "StoppedUnderSlurm" 50 "PreemptionUnderSlurm" 50 "Fencing" 50 "Preemption" 40 "Stragglers" 40
  "CheckpointFaults" 40 "FashionConfigs" 30 "Configs" 30)

# lockstep_weigh(slots tests…): `slots` for those that do not compute by their name.
function(lockstep_weigh slots_of_others)
  foreach(test ${ARGN})
    set(slots ${slots_of_others})
    if(test MATCHES "${lockstep_computing}")
      set(slots 2)
    endif()
    set_tests_properties("${test}" PROPERTIES PROCESSORS ${slots})
    string(REGEX REPLACE "\\..*$" "" suite "${test}")
    # Two clusters that start in one moment have been seen to lose each other's first step.
    if(suite MATCHES "UnderSlurm$")
      set_tests_properties("${test}" PROPERTIES RESOURCE_LOCK slurm)
    endif()
    list(FIND lockstep_long "${suite}" at)
    if(at GREATER -1)
      math(EXPR at "${at} + 1")
      list(GET lockstep_long ${at} seconds)
      set_tests_properties("${test}" PROPERTIES COST ${seconds})
    endif()
  endforeach()
endfunction()
