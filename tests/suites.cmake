# Run after a test program was linked: writes the file from which ctest learns its suites, each a test of its own.
#   cmake -DPROGRAM=… -DNAME=… -DFILE=… -DTIMEOUT=… -DWEIGHTS=… -P suites.cmake
# In the log of a suite that fails GoogleTest names the cases. A suite counts as skipped where all of its cases are.
execute_process(COMMAND "${PROGRAM}" --gtest_list_tests OUTPUT_VARIABLE listed RESULT_VARIABLE code TIMEOUT 60)
if(NOT code EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} --gtest_list_tests ends with ${code}: its tests cannot be told")
endif()
# A suite's line begins at its start and ends with a dot, and a remark on types; cases are indented.
string(REGEX MATCHALL "(^|\n)[A-Za-z0-9_/]+\\." suites "${listed}")
list(TRANSFORM suites STRIP)
list(REMOVE_DUPLICATES suites)
if(NOT suites)
  message(FATAL_ERROR "${PROGRAM} --gtest_list_tests names no suite: a program without a test proves nothing")
endif()
set(script "")
set(tests "")
foreach(suite IN LISTS suites)
  string(APPEND script "add_test([=[${suite}all]=] [=[${PROGRAM}]=] [=[--gtest_filter=${suite}*]=])\n")
  list(APPEND tests "[=[${suite}all]=]")
endforeach()
list(JOIN tests " " tests)
# GoogleTest's last lines where nothing failed and nothing passed.
string(APPEND script "set_tests_properties(${tests} PROPERTIES TIMEOUT ${TIMEOUT}
  SKIP_REGULAR_EXPRESSION \"\\\\[  PASSED  \\\\] 0 tests\\\\.\n(\\\\[  SKIPPED \\\\] [^\n]*\n)+$\")
set(${NAME}_TESTS ${tests})
include([=[${WEIGHTS}]=])
")
file(WRITE "${FILE}" "${script}")
